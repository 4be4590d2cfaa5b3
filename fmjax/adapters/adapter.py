"""What an adapter is: it divides weights into a frozen base and a small own tree, and puts them together again.

Weights are divided once, after they were made and loaded. The own tree has gradients, moments and running averages;
the base has none of them and is saved once a run, under its digest. A step sees `merge(net, base, own)`, so that no
model and no objective knows of any of it. What changes how a layer is called, and not its weights, lies beside them in
what a step sees, and the module is called through `wrap`.
"""

import dataclasses
import difflib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax

from fmjax.adapters.intercepted import Intercepted
from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten, matches, nested
from fmjax.core.types import Tree

Shapes = Mapping[str, Any]  # {address: array or shape} of one net


class Delta(Protocol):
    """Small arrays beside a frozen weight, and what they make of it."""

    def picks(self, names: Shapes) -> list[str]:
        """The addresses that get one."""
        ...

    def begin(self, name: str, weight: jax.Array, rng: jax.Array) -> dict[str, jax.Array]:
        """The small arrays of a weight, by name; with them `apply` gives the weight itself."""
        ...

    def apply(self, name: str, weight: jax.Array, parts: Mapping[str, jax.Array]) -> jax.Array:
        """The weight that the model sees."""
        ...


class Insertion(Protocol):
    """Small arrays beside a frozen layer, which its calls go through: there are no merged weights."""

    def picks(self, names: Shapes) -> list[str]:
        """The addresses of the kernels whose layers get one."""
        ...

    def place(self, name: str) -> str:
        """The address under which the small arrays of a kernel's layer lie, among the layer's own weights."""
        ...

    def fits(self, module: nn.Module, args: tuple, y: Any) -> bool:
        """Whether small arrays among the weights of a module, which makes y of args, would change what it makes."""
        ...

    def begin(self, name: str, weight: jax.Array, rng: jax.Array) -> dict[str, jax.Array]:
        """The small arrays, by name; with them `around` gives what the layer gives."""
        ...

    def around(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """What a call of any module gives, as flax.linen.intercept_methods asks; it finds its arrays in the module."""
        ...


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What moves of the nets, and how. Addresses begin with the net's name.

    Attributes:
      whole: {address: shape} -> the addresses that move as they are.
      delta: what the others get, if anything.
      also: patterns of more addresses that move as they are; None takes those in `fresh`.
      nets: which nets are adapted, () for all that learn; the others move as a whole.
      fresh: addresses that no weights were loaded for; the run says it.
    """

    whole: Callable[[Shapes], Iterable[str]]
    delta: Delta | Insertion | None = None
    also: tuple[str, ...] | None = None
    nets: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset()

    def split(self, params: Mapping[str, Tree], rng: jax.Array) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """(own, frozen) of {net: weights}.

        Raises:
          ConfigError: a pattern that picks nothing, a rank above a matrix, or a net of which nothing moves.
        """
        for net in self.nets:
            if net not in params:
                raise ConfigError(f"nets: there is no net {net!r} that learns; {did_you_mean(net, params)}")
        adapted = [net for net in params if not self.nets or net in self.nets]
        flat = {name: x for name, x in flatten(dict(params)).items() if name.partition("/")[0] in adapted}
        moves = set(self.whole(flat)) | self._also(flat)
        small: dict[str, dict[str, jax.Array]] = {}
        if self.delta is not None:
            for name in self.delta.picks({k: v for k, v in flat.items() if k not in moves}):
                small[name] = self.delta.begin(name, flat[name], jax.random.fold_in(rng, zlib.crc32(name.encode())))
        for net in adapted:
            if not any(name.startswith(f"{net}/") for name in (*moves, *small)):
                raise ConfigError(f"nothing of the net {net!r} would move: say in nets which ones are adapted")
        place = getattr(self.delta, "place", str)
        parts = {f"{place(name)}/{part}": x for name, own in small.items() for part, x in own.items()}
        own = nested({name: x for name, x in flat.items() if name in moves} | parts)
        frozen = nested({name: x for name, x in flat.items() if name not in moves})
        return {net: own.get(net, tree) for net, tree in params.items()}, frozen

    def merge(self, net: str, base: Tree | None, own: Tree) -> Tree:
        """The weights of a net that the model sees, and beside them what its calls go through."""
        return self._merged(net, base, own)

    @property
    def merges(self) -> bool:
        """Whether what a step sees are weights of the module alone."""
        return not hasattr(self.delta, "around")

    def wrap(self, module: nn.Module) -> Any:
        """The module as it is called with what `merge` gives."""
        return module if self.merges else Intercepted(module, self.delta.around)

    def _merged(self, name: str, base: Any, own: Any) -> Any:
        if own is None or base is None:
            return base if own is None else own
        if not isinstance(base, Mapping):
            return self.delta.apply(name, base, own)
        keys = sorted(base.keys() | own.keys())
        return {key: self._merged(f"{name}/{key}", base.get(key), own.get(key)) for key in keys}

    def _also(self, flat: Shapes) -> set[str]:
        if self.also is None:
            return set(self.fresh & flat.keys())
        return {name for pattern in self.also for name in must_pick(pattern, flat, "also")}


def must_pick(pattern: str, names: Iterable[str], what: str, kind: str = "weight") -> list[str]:
    """The addresses that a pattern picks.

    Raises:
      ConfigError: no regular expression, or one that picks nothing; it names what comes near.
    """
    names = list(names)
    try:
        found = [name for name in names if matches(pattern, name)]
    except (re.error, TypeError) as error:
        raise ConfigError(f"{what}: {pattern!r} is no regular expression: {error}") from None
    if not found:
        near = ", ".join(_near(pattern, names)) or "there is none"
        raise ConfigError(f"{what}: {pattern!r} matches no {kind}; nearest: {near}")
    return found


def _near(pattern: str, names: list[str], most: int = 3) -> list[str]:
    """The addresses most like a pattern, one of those that differ in numbers only."""
    words = re.sub(r"\\.|[^\w/]", "", pattern).strip("/")
    parts = words.count("/") + 1

    def unlike(name: str) -> float:
        pieces = name.split("/")
        tails = ["/".join(pieces[i : i + parts]) for i in range(max(len(pieces) - parts, 0) + 1)]
        return -max(difflib.SequenceMatcher(None, words, tail).ratio() for tail in tails)

    one_each = {re.sub(r"\d+", "0", name): name for name in reversed(names)}
    return sorted(one_each.values(), key=unlike)[:most]
