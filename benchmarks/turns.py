"""Turns: ways to do the same thing, timed one after the other, again and again; what the benchmarks here share."""

import argparse
import gc
import importlib.metadata
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax.core.errors import ConfigError, UserError

OURS = "fmjax"
EAGER = {"--eager": {"action": "store_true", "help": "leave torch.compile out, which takes minutes to compile"}}


class Turns(NamedTuple):
    """What turns gave.

    Attributes:
      first: {way: seconds of its first call}, which is not among the others: it compiles.
      seconds: {way: seconds of its call in each turn}.
      said: {way: what every call returned, the first included}.
    """

    first: dict[str, float]
    seconds: dict[str, list[float]]
    said: dict[str, list[Any]]

    def per(self, units: float) -> "Turns":
        """Seconds of one of the units that a call does."""
        return self._replace(seconds={way: [s / units for s in taken] for way, taken in self.seconds.items()})

    @property
    def medians(self) -> dict[str, float]:
        """{way: seconds}."""
        return {way: statistics.median(taken) for way, taken in self.seconds.items()}

    @property
    def peer(self) -> str:
        """The fastest of the ways that are not ours; only its name says which are: ours begin with "fmjax"."""
        others = {way: s for way, s in self.medians.items() if not way.startswith(OURS)}
        return min(others, key=others.__getitem__)

    @property
    def ratios(self) -> list[float]:
        """Our seconds over those of the fastest peer, turn by turn."""
        return [a / b for a, b in zip(self.seconds[OURS], self.seconds[self.peer], strict=True)]


def take(ways: Mapping[str, Callable[[], Any]], repeats: int) -> Turns:
    """Call every way once, and then in `repeats` turns, every other turn from the last to the first."""
    first, said = {}, {}
    for way, call in ways.items():
        first[way], answer = timed(call)
        said[way] = [answer]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats):
        for way in reversed(ways) if turn % 2 else ways:
            taken, answer = timed(ways[way])
            seconds[way].append(taken)
            said[way].append(answer)
    return Turns(first, seconds, said)


def arguments(
    argv: Sequence[str] | None,
    description: str | None,
    cases: Iterable[str],
    repeats: int = 7,
    of: str = "turns",
    without: str = "all",
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> argparse.Namespace:
    """The flags that the tools here have in common, read: names of cases, --repeats and --print.

    Args:
      repeats: unless --repeats says it.
      of: what is repeated.
      without: the cases that are meant where none is named.
      more: {flag: what argparse is told of it}.

    Raises:
      ConfigError: a name that is no case.
    """
    cases = list(cases)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(cases)} (default: {without})")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"{of} (default: {repeats})")
    for flag, options in (more or {}).items():
        parser.add_argument(flag, **options)
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    if odd := [name for name in args.names if name not in cases]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(cases)}")
    return args


def each(names: Iterable[str], measure: Callable[[str], None]) -> int:
    """Measure one after the other, and the rest where one fails with an error that a person can mend; 1 if any did."""
    failed = 0
    for name in names:
        try:
            measure(name)
        except UserError as error:
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed = 1
        gc.collect()  # the weights of the last one
    return failed


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def quickest(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the calls that there is time for, at least one."""
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        best = min(best, timed(call)[0])
    return best


def compare_losses(name: str, losses: Mapping[str, Sequence[float]], tolerance: float) -> str:
    """Say how far apart the losses of the ways are, step by step.

    Raises:
      ConfigError: further than `tolerance`, or they moved so little that nothing was compared.
    """
    table = np.array(list(losses.values()), np.float64)
    apart = compare(name, losses, tolerance)
    moved = float(np.ptp(table, axis=1).min())
    if not apart <= tolerance:
        raise ConfigError(f"{name}: the losses of {', '.join(losses)} differ by {apart:.2g}: not the same training")
    if not moved >= 2 * tolerance:
        raise ConfigError(f"{name}: the losses moved by {moved:.2g} only: take more steps, or a larger rate")
    first, last = table[0, 0], table[0, -1]
    return f"losses of {table.shape[1]} steps, from {first:.3f} to {last:.3f}, within {apart:.0e}"


def compare(name: str, losses: Mapping[str, Sequence[float]], tolerance: float) -> float:
    """How far apart the losses of the ways are at most.

    Raises:
      ConfigError: further than `tolerance`.
    """
    table = np.array(list(losses.values()), np.float64)
    apart = float((table.max(0) - table.min(0)).max())
    if not apart <= tolerance:
        raise ConfigError(f"{name}: the losses of {', '.join(losses)} differ by {apart:.2g}: not the same computation")
    return apart


def flat(said: Iterable[Sequence[float]]) -> list[float]:
    """The losses of all calls, one after the other."""
    return list(itertools.chain.from_iterable(said))


def versions(*packages: str) -> str:
    """The packages with their versions, for the name of a baseline."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def baseline(turns: Turns, *packages: str, scale: Callable[[float], float] = float) -> dict[str, Any]:
    """The fastest peer for a row: its name, its median, its numbers turn by turn.

    Args:
      scale: what makes the row's numbers of seconds.
    """
    numbers = [scale(s) for s in turns.seconds[turns.peer]]
    name = f"{turns.peer}: {versions(*packages)}, in turns"
    return {"name": name, "value": statistics.median(numbers), "values": numbers}


def words(numbers: Mapping[str, float], unit: str = "s") -> str:
    """ "fmjax 0.731 s, PyTorch 0.569 s"."""
    return ", ".join(f"{way} {x:,.4g} {unit}".rstrip() for way, x in numbers.items())


def told(turns: Turns) -> str:
    """The note of a row: all medians, the ratio with its range, the first calls."""
    first = f"first call, compilation included: {words(turns.first)}"
    return f"medians: {words(turns.medians)}; {ratio_words(turns)}; {first}"


def ratio_words(turns: Turns) -> str:
    """Our seconds over the fastest peer's."""
    ratios = turns.ratios
    return (
        f"fmjax's seconds over those of the fastest peer, turn by turn, median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}"
    )
