"""Weights of other sizes: another vocabulary, more or fewer positions, another grid of patches."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from fmjax.core.errors import CheckpointError
from fmjax.core.trees import matches
from fmjax.nn.patches import interpolate_positions

VOCABULARY = r"(^|/)embed/embedding$"
POSITIONS = r"(^|/)position_embed/embedding$"
GRID = r"(^|/)position_table$"

Way = Callable[[np.ndarray], np.ndarray]


def ways(there: Mapping[str, Any], here: Mapping[str, Any], first_position: int = 0) -> dict[str, Way]:
    """{address: what brings the array there to the shape it has here}, of those whose shapes differ and that can be.

    Args:
      there, here: {address: array or shape}.
      first_position: rows of a table of positions before that of a text's first token (RoBERTa has 2).
    """
    sizes = {name: (np.shape(x), np.shape(here[name])) for name, x in there.items() if name in here}
    sizes = {name: (old, new) for name, (old, new) in sizes.items() if old != new and len(old) == len(new)}
    out: dict[str, Way] = {}
    vocabularies = set()
    for name, (old, new) in sizes.items():
        if old[1:] != new[1:]:
            continue
        if matches(VOCABULARY, name):
            vocabularies.add((old[0], new[0]))
            out[name] = partial(tokens, size=new[0], axis=0)
        elif matches(POSITIONS, name) and old[0] > first_position:
            out[name] = partial(positions, size=new[0], kept=first_position)
        elif matches(GRID, name) and _kept(old[0]) is not None and _kept(old[0]) == _kept(new[0]):
            out[name] = partial(grid, size=new[0])
    for name, (old, new) in sizes.items():  # output weights and their bias, of the vocabulary that was resized
        if name not in out and old[:-1] == new[:-1] and (old[-1], new[-1]) in vocabularies:
            out[name] = partial(tokens, size=new[-1], axis=len(old) - 1)
    return out


def tokens(table: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The rows (or columns) of the first ids; new ones are the mean of all old ones.

    So no new token is likelier than the old ones are on average, and the old ones keep their order and nearly all of
    their probability (Hewitt, 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    old = table.shape[axis]
    if size <= old:
        return np.take(table, np.arange(size), axis)
    mean = np.mean(table, axis, dtype=np.float64, keepdims=True).astype(table.dtype)
    return np.concatenate([table, np.repeat(mean, size - old, axis)], axis)


def positions(table: np.ndarray, size: int, kept: int = 0) -> np.ndarray:
    """The first positions; more of them are copies of those, from the first on (Longformer, arXiv 2004.05150, 5).

    A text that fitted before is read as before, which no interpolation gives.

    Args:
      kept: first rows, which are no positions and are not copied.
    """
    rows = np.arange(size)
    return table[np.where(rows < len(table), rows, kept + (rows - kept) % (len(table) - kept))]


def grid(table: np.ndarray, size: int) -> np.ndarray:
    """The positions of another square grid, resized as a ViT does it by itself for images of other sizes.

    Raises:
      CheckpointError: a number of rows that is no square, with or without a class token.
    """
    kept = _kept(len(table))
    if kept is None or kept != _kept(size):
        raise CheckpointError(f"{len(table)} and {size} positions are no square grids with the same tokens before them")
    old, new = ((round((rows - kept) ** 0.5),) * 2 for rows in (len(table), size))
    return np.asarray(jax.jit(interpolate_positions, static_argnums=(1, 2, 3))(table, new, old, kept))


def _kept(rows: int) -> int | None:
    """The tokens before a square grid, none or that of the class; None where it is no such grid."""
    return next((n for n in (0, 1) if rows > n and round((rows - n) ** 0.5) ** 2 == rows - n), None)
