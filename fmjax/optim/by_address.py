"""Optimizers by address: one for each group of weights, and rates that fall towards the input."""

from fmjax.core.errors import ConfigError
from fmjax.core.trees import first_match
from fmjax.core.types import Tree
from fmjax.optim.assemble import Optimizer, check_numbers, check_patterns, partition


def by_address(rules: tuple[tuple[str, Optimizer], ...]) -> Optimizer:
    """Each weight is moved by the optimizer of the first rule whose pattern matches its address.

    `report` gives "rate" of the first rule that has one, and "rate_1" and so on of the later ones.

    Args:
      rules: (pattern, optimizer) pairs; `frozen()` is an optimizer that moves nothing.

    Raises:
      ConfigError: no rules, or (by `init`) a weight that no pattern covers or a pattern that picks no weight.
    """
    if not rules:
        raise ConfigError("by_address has no rules: give at least one (pattern, optimizer)")
    check_patterns(pattern for pattern, _ in rules)
    for pattern, optimizer in rules:
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"the rule {pattern!r} has no optimizer but {optimizer!r}")
    numbered = [(pattern, str(i)) for i, (pattern, _) in enumerate(rules)]

    def label(tree: Tree) -> Tree:
        return first_match(numbered, tree, "optimizer")

    return partition(label, {str(i): optimizer for i, (_, optimizer) in enumerate(rules)})


def layerwise(
    decay: float,
    depth: int,
    block: str = r"(^|/)block_{i}/",
    first: str | None = r"(^|/)(embed|position|token)\w*(/|$)",
) -> tuple[tuple[str, float], ...]:
    """Multipliers for `rates=`: the deeper a weight lies below the head, the slower it moves (arXiv:2106.08254).

    The head and what no pattern picks move at the full rate, block `i` of `depth` at `decay ** (depth - i)`,
    the embeddings at `decay ** (depth + 1)`.

    Args:
      decay: the multiplier from one block to the one below it, in (0, 1].
      depth: number of blocks.
      block: pattern of block `{i}`; the blocks must have addresses of their own (no scan over layers).
      first: pattern of what lies below block 0; None when nothing does.
    """
    check_numbers(decay=(decay, 0, None), depth=(depth, 1, None))
    if not 0 < decay <= 1:
        raise ConfigError(f"decay={decay!r}: give a number > 0 and <= 1")
    if "{i}" not in block:
        raise ConfigError(f"block={block!r}: write {{i}} where the number of the block stands")
    blocks = tuple((block.replace("{i}", str(i)), decay ** (depth - i)) for i in range(depth))
    return blocks if first is None else (*blocks, (first, decay ** (depth + 1)))
