"""How one weight lies in two files: reversible ways from an array of ours to one of theirs, and back."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """A reversible rearrangement of numbers.

    Attributes:
      shape: our shape -> theirs.
      write: our array -> theirs.
      read: (their array, our shape) -> ours.
    """

    shape: Callable[[Shape], Shape]
    write: Callable[[np.ndarray], np.ndarray]
    read: Callable[[np.ndarray, Shape], np.ndarray]


def matrix(inputs: int = 1) -> Layout:
    """A kernel (in..., out...) as torch's Linear keeps it, (out, in); our first `inputs` axes are summed over."""

    def shape(ours: Shape) -> Shape:
        return math.prod(ours[inputs:]), math.prod(ours[:inputs])

    return Layout(
        shape, lambda w: w.reshape(shape(w.shape)[::-1]).T, lambda w, ours: np.ascontiguousarray(w.T).reshape(ours)
    )


def straight(inputs: int = 1) -> Layout:
    """A kernel (in..., out...) as (in, out), which GPT-2 calls Conv1D."""

    def shape(ours: Shape) -> Shape:
        return math.prod(ours[:inputs]), math.prod(ours[inputs:])

    return Layout(shape, lambda w: w.reshape(shape(w.shape)), lambda w, ours: w.reshape(ours))


SAME = Layout(lambda ours: ours, lambda w: w, lambda w, ours: w)
FLAT = Layout(lambda ours: (math.prod(ours),), lambda w: w.reshape(-1), lambda w, ours: w.reshape(ours))
INTO = matrix(1)  # D -> heads, or D -> inner
OUT_OF_HEADS = matrix(2)  # (heads, size) -> D
LEADING = Layout(lambda ours: (1, *ours), lambda w: w[None], lambda w, ours: w[0])
# A kernel (rows, columns, in, out) of a convolution, which torch keeps as (out, in, rows, columns).
CONV = Layout(
    lambda ours: (*ours[:1:-1], *ours[:2]), lambda w: w.transpose(3, 2, 0, 1), lambda w, ours: w.transpose(2, 3, 1, 0)
)
POINT = Layout(  # (in, out), where theirs is a convolution of single places
    lambda ours: (*ours[::-1], 1, 1), lambda w: w.T[..., None, None], lambda w, ours: w[..., 0, 0].T
)


class Row(NamedTuple):
    """One line of a family's table: a tensor of theirs is a weight of ours, or several side by side.

    Attributes:
      name: Hugging Face's, without the prefix that models with a head have; {i} counts blocks.
      address: ours; several lie along an axis of the tensor, one after the other.
      layout: the way between them.
      optional: zeros of ours stand for a tensor that is not there.
      unless, only: an address in whose presence, or absence, the row does not count.
      axis: that several lie along.
    """

    name: str
    address: str | tuple[str, ...]
    layout: Layout = SAME
    optional: bool = False
    unless: str = ""
    only: str = ""
    axis: int = -1

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.address,) if isinstance(self.address, str) else self.address

    def shape(self, ours: Mapping[str, Shape]) -> Shape:
        """The shape of the tensor, given those of all weights."""
        each = [self.layout.shape(ours[a]) for a in self.addresses]
        if not each[0]:
            return each[0]
        out = list(each[0])
        out[self.axis] = sum(s[self.axis] for s in each)
        return tuple(out)

    def read(self, tensor: np.ndarray, ours: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """{address: weight} of a tensor that has the right shape."""
        ends = np.cumsum([self.layout.shape(ours[a])[self.axis] for a in self.addresses])[:-1]
        parts = np.split(tensor, ends, axis=self.axis) if len(ends) else [tensor]
        return {a: np.ascontiguousarray(self.layout.read(p, ours[a])) for a, p in zip(self.addresses, parts)}

    def write(self, weights: dict[str, np.ndarray]) -> np.ndarray:
        """The tensor, its numbers in the order of its shape: a file takes bytes as they lie."""
        parts = [self.layout.write(np.asarray(weights[a], np.float32)) for a in self.addresses]
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.axis))


def linear(theirs: str, ours: str, layout: Layout = INTO) -> tuple[Row, Row]:
    """A kernel and its bias."""
    return Row(f"{theirs}.weight", f"{ours}/kernel", layout), Row(f"{theirs}.bias", f"{ours}/bias", FLAT)


def norm(theirs: str, ours: str) -> tuple[Row, Row]:
    """A scale and its bias."""
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def batch_norm(theirs: str, ours: str) -> tuple[Row, ...]:
    """A scale, its bias, and the running statistics."""
    return (
        *norm(theirs, ours), Row(f"{theirs}.running_mean", f"{ours}/mean"), Row(f"{theirs}.running_var", f"{ours}/var")
    )  # fmt: skip


def expand(rows: tuple[Row, ...], ours: Mapping[str, Shape]) -> list[Row]:
    """The rows that count for a model with these weights, {i} counted out."""
    out = []
    for row in rows:
        for i in range(len(ours)):
            one = row._replace(
                name=row.name.format(i=i), address=tuple(a.format(i=i) for a in row.addresses),
                unless=row.unless.format(i=i), only=row.only.format(i=i),
            )  # fmt: skip
            if one.addresses[0] not in ours:
                break
            if one.unless not in ours and (not one.only or one.only in ours):
                out.append(one)
            if one.name == row.name:
                break
    return out
