"""Adapters that add nothing: a part of the weights moves as it is, and the rest stays."""

import re
from collections import defaultdict
from functools import partial

from fmjax.adapters.adapter import Adapter, Shapes, must_pick
from fmjax.core.errors import ConfigError

HEAD = r"/(\w+_)?head(_\w+)?(/|$)"
BACKBONE = "/backbone/"  # where a model with a head keeps the model it stands on


def full(nets: tuple[str, ...] = ()) -> Adapter:
    """Everything moves: full fine-tuning, counted like the others."""
    return Adapter(list, nets=nets)


def only(targets: tuple[str, ...], nets: tuple[str, ...] = (), also: tuple[str, ...] | None = None) -> Adapter:
    """The weights of these address patterns move."""
    if not targets:
        raise ConfigError("targets is empty: name patterns of the weights that move")
    return Adapter(partial(_picked, tuple(targets)), also=also, nets=nets)


def bias_only(
    targets: tuple[str, ...] = (r"/((head|conv|candidate)_)?bias$",),
    nets: tuple[str, ...] = (),
    also: tuple[str, ...] | None = None,
) -> Adapter:
    """Biases move, those of norms too (BitFit, arXiv:2106.10199), and what `also` says (as in low_rank.py)."""
    return only(targets, nets, also)


def probe(head: str | None = None, nets: tuple[str, ...] = (), also: tuple[str, ...] | None = None) -> Adapter:
    """The head moves: what lies outside of the backbone, or is called a head; `head` is a pattern that says it."""
    return Adapter(partial(_head, head), also=also, nets=nets)


def last_layers(
    n: int,
    block: str = r"/(?:block|layer|stage)_(\d+)/",
    after: str = r"/final_norm/",
    head: str | None = None,
    nets: tuple[str, ...] = (),
    also: tuple[str, ...] | None = None,
) -> Adapter:
    """The last blocks of every stack move, with what comes after them.

    Args:
      n: how many blocks.
      block: pattern of a block, its number in parentheses.
      after: pattern of what moves besides them and the head.
      head: as in `probe`.
      nets, also: as in low_rank.py.
    """
    if n < 1:
        raise ConfigError(f"n={n}: at least one block must move; probe() moves the head alone")
    try:
        groups = re.compile(block).groups
    except re.error as error:
        raise ConfigError(f"block: {block!r} is no regular expression: {error}") from None
    if groups != 1:
        raise ConfigError(f"block: {block!r} must have the number of the block, and nothing else, in parentheses")
    return Adapter(partial(_last, n, block, after, head), also=also, nets=nets)


def _picked(targets: tuple[str, ...], names: Shapes) -> set[str]:
    return {name for pattern in targets for name in must_pick(pattern, names, "targets")}


def _head(head: str | None, names: Shapes) -> list[str]:
    if head is not None:
        return must_pick(head, names, "head")
    if any(BACKBONE in name for name in names):
        return [name for name in names if BACKBONE not in name]
    found = [name for name in names if re.search(HEAD, name)]
    if not found:
        raise ConfigError("the model has no weights that are called a head: say with head= which ones they are")
    return found


def _last(n: int, block: str, after: str, head: str | None, names: Shapes) -> set[str]:
    stacks: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    must_pick(block, names, "block")
    for name in names:
        if found := re.search(block, name):
            stacks[name[: found.start()]][int(found[1])].append(name)
    for stack, blocks in stacks.items():
        if n > len(blocks):
            raise ConfigError(f"n={n}: {stack} has {len(blocks)} blocks; full() moves all weights")
    moves = {name for blocks in stacks.values() for i in sorted(blocks)[-n:] for name in blocks[i]}
    moves |= {name for name in names if re.search(after, name)}
    try:
        return moves | set(_head(head, names))
    except ConfigError:
        if head is not None:
            raise
        return moves  # a head that is tied to the embeddings has no weights of its own
