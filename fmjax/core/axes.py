"""Which axes of a kernel are summed over and which are new: what sees a weight as a matrix asks here."""

import functools
import math
import re

from fmjax.core.errors import ConfigError
from fmjax.core.trees import matches

# (pattern, axes): "d|hk" reads as in d, out h*k; axes before a comma are a stack of matrices. The first
# pattern that matches the address and has as many axes as the weight counts.
SHAPES = (
    (r"(query|key|value)/kernel$", "d|hk"),
    (r"(query|key|value)/kernel$", "l,d|hk"),
    (r"out/kernel$", "hk|d"),
    (r"out/kernel$", "l,hk|d"),
    (r"conv[^/]*/kernel$", "wi|o"),
    (r"kernel$", "i|o"),
    (r"kernel$", "l,i|o"),
    (r"kernel$", "hwi|o"),
)
_AXES = re.compile(r"(?:([a-z]+),)?([a-z]+)\|([a-z]+)")


def check_shapes(shapes: tuple[tuple[str, str], ...]) -> None:
    """Raises ConfigError on axes that are not written as "d|hk" or "l,d|hk"."""
    for pattern, axes in shapes:
        if not _AXES.fullmatch(axes):
            raise ConfigError(f"shapes: {axes!r} for {pattern!r} is not of the form 'd|hk' or 'l,d|hk'")


@functools.lru_cache(maxsize=4096)
def axes_of(name: str, ndim: int, shapes: tuple[tuple[str, str], ...] = SHAPES) -> tuple[int, int, int] | None:
    """How many axes of the weight are (stack, in, out); None when no pattern with so many axes matches the address."""
    for pattern, text in shapes:
        stack, rows, columns = _AXES.fullmatch(text).groups(default="")
        if len(stack + rows + columns) == ndim and matches(pattern, name):
            return len(stack), len(rows), len(columns)
    return None


def sizes(shape: tuple[int, ...], axes: tuple[int, int, int]) -> tuple[int, int, int]:
    """(stack, in, out) of a weight seen as a stack of matrices."""
    stack, rows, _ = axes
    return math.prod(shape[:stack]), math.prod(shape[stack : stack + rows]), math.prod(shape[stack + rows :])
