"""Weights from elsewhere and those of a model, brought together by address: every one has a place, or a reason."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.trees import matches
from fmjax.interop import resizing
from fmjax.interop.tensors import listed

INNER = "backbone/"  # where a model with a head keeps the model it stands on
HEAD = r"^((\w+_)?head(_\w+)?|pooler)(/|$)"


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is done about weights that do not find their place by themselves; patterns are of addresses.

    Attributes:
      fresh: what may stay as it was initialised.
      ignore: what is left out of the source.
      resize: which tables may be of another size; True is all, False none.
    """

    fresh: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    resize: bool | tuple[str, ...] = False

    def resizes(self, name: str) -> bool:
        """Whether a weight may be of another size."""
        return self.resize if isinstance(self.resize, bool) else any(matches(p, name) for p in self.resize)


@dataclasses.dataclass(frozen=True)
class Match:
    """What a net gets, and what became of the rest.

    Attributes:
      taken: {address here: array}, in the shape it has here.
      resized: {address here: (shape there, shape here)}.
      fresh: addresses here that nothing was found for.
      ignored, heads: addresses there that have no place here, since that was said or since another head is here.
    """

    taken: dict[str, np.ndarray]
    resized: dict[str, tuple]
    fresh: list[str]
    ignored: list[str]
    heads: list[str]

    def facts(self) -> dict[str, Any]:
        """What a run's init.json says of the net."""
        resized = {name: f"{old} -> {new}" for name, (old, new) in self.resized.items()}
        numbers = sum(int(np.size(x)) for x in self.taken.values())
        rest = {"fresh": self.fresh, "ignored": self.ignored, "heads_left": self.heads}
        return {"loaded": len(self.taken), "numbers": numbers, "resized": resized, **rest}


def lines(net: str, facts: Mapping[str, Any]) -> list[str]:
    """What `Match.facts` of a net says, for people; only what there is."""
    named = {
        "resized": [f"{name} {change}" for name, change in facts["resized"].items()],
        "fresh": facts["fresh"],
        "ignored": facts["ignored"],
        "left, heads there": facts["heads_left"],
    }
    first = f"init  {net}: {facts['loaded']} weights loaded, {facts['numbers']:,} numbers"
    return [first, *(f"      {word} {len(names)}: {listed(names, 6)}" for word, names in named.items() if names)]


def renamed(there: Mapping[str, Any], pattern: str, replacement: str) -> dict[str, Any]:
    """{address: array} with every match of a regular expression in the addresses replaced.

    Raises:
      ConfigError: no substitution, or two weights that get one address.
    """
    out: dict[str, Any] = {}
    was: dict[str, str] = {}
    for name, x in there.items():
        try:
            new = re.sub(pattern, replacement, name)
        except (re.error, TypeError, IndexError) as error:
            raise ConfigError(f"rename: {(pattern, replacement)!r} is no substitution: {error}") from None
        if new in out:
            raise ConfigError(f"rename: {was[new]} and {name} would both be {new}")
        out[new], was[new] = x, name
    return out


def match(
    path: str, net: str, there: Mapping[str, Any], here: Mapping[str, Any], rules: Rules, first: int = 0
) -> Match:
    """Give the weights of a net those from elsewhere.

    They lie at the same addresses or, where only this model has a head, behind `backbone/`; then the head here is
    fresh and that of there stays behind. Of a model with a head, one without takes what that stood on.

    Args:
      path: of the source, for messages.
      there, here: {address: array or shape}, without the net's name.
      first: as in resizing.ways.

    Raises:
      CheckpointError: weights that are missing, of another shape, or have no place here; it lists them.
    """
    ignored = sorted(name for name in there if any(matches(p, name) for p in rules.ignore))
    left = {name: x for name, x in there.items() if name not in ignored}
    headed, was = (any(name.startswith(INNER) for name in names) for names in (here, left))
    names: dict[str, str] = {name: name for name in left}  # there -> here
    if headed and not was:
        names = {name: INNER + name for name in left}
    elif was and not headed:
        names = {name: name.removeprefix(INNER) for name in left if name.startswith(INNER)}
    found = {new: left[name] for name, new in names.items() if new in here}
    if not found:
        raise CheckpointError(
            f"nothing in {path} fits this model: it has {listed(sorted(left))}, the model {listed(sorted(here))}"
        )
    others = sorted(name for name in left if names.get(name) not in found)
    heads = [name for name in others if (was and not name.startswith(INNER)) or (headed and not was and _head(name))]
    taken, resized, missing, wrong = {}, {}, [], []
    ways = resizing.ways(found, here, first)
    for name, leaf in here.items():
        may_be_fresh = (headed and not was and not name.startswith(INNER)) or any(matches(p, name) for p in rules.fresh)
        if name not in found:
            missing += [] if may_be_fresh else [f"{net}/{name}"]
        elif np.shape(found[name]) == tuple(leaf.shape):
            taken[name] = found[name]
        elif not may_be_fresh and name in ways and rules.resizes(name):
            taken[name] = ways[name](np.asarray(found[name]))
            resized[name] = (np.shape(found[name]), tuple(leaf.shape))
        elif not may_be_fresh:
            wrong.append((name, f"{net}/{name} is {np.shape(found[name])} there and {tuple(leaf.shape)} here"))
    _refuse(path, missing, wrong, [name for name in others if name not in heads], ways)
    return Match(taken, resized, sorted(here.keys() - taken.keys()), ignored, heads)


def _head(name: str) -> bool:
    return matches(HEAD, name)


def _refuse(
    path: str, missing: list[str], wrong: list[tuple[str, str]], strange: list[str], ways: Mapping[str, Callable]
) -> None:
    if not missing and not wrong and not strange:
        return
    parts = [f"it lacks {listed(missing)}"] if missing else []
    parts += [listed([text for _, text in wrong])] if wrong else []
    parts += [f"it has {listed(strange)}, which have no place here"] if strange else []
    hints = ["build the model with pretrained.model(path)"]
    hints += ["name in fresh what may stay as initialised"] if missing or wrong else []
    hints += ["set resize=True for another vocabulary or other positions"] if any(n in ways for n, _ in wrong) else []
    hints += ["name in ignore what may be left out", "give what has other names by rename"] if strange else []
    raise CheckpointError(f"{path} does not fit this model: {'; '.join(parts)}; {', or '.join(hints)}")
