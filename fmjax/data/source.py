"""What a source is: random access to examples, and a fingerprint of all of them."""

import dataclasses
import functools
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fmjax.core.errors import DataError
from fmjax.data.cache import digest

# What decoders raise for a record that is damaged; anything else is a bug of ours and keeps its traceback.
CORRUPT = (DataError, OSError, ValueError, EOFError, zlib.error, struct.error, SyntaxError)
SMALLER = {"float64": np.float32, "int64": np.int32, "uint32": np.int32, "uint64": np.int32}


class Mismatch(DataError):
    """An example that can be read and is unlike the others: refused whatever the policy for corrupt ones."""


class Source(Protocol):
    """Examples by index: dicts whose keys are words of core/types.py.

    Optional: `rows(indices) -> {key: stacked fresh arrays}`, the fast path of sources held in memory (None: not);
    `unreadable`, {index: reason} of the examples that are known to be corrupt;
    `decode(tokens) -> str`, for people who look at text; `classes`, the names of the labels;
    `lengths`, (N,) tokens in each padded row, and `along`, the keys whose second axis they lie on.
    """

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with the content."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class ByRows:
    """Random access for a source that makes many examples at once: subclasses define `rows` and `__len__`."""

    unit = "rows"  # what an example is called in errors

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {key: rows[0] for key, rows in self.rows(np.array([index])).items()}

    def inside(self, indices: np.ndarray) -> np.ndarray:
        """The indices as int64.

        Raises:
          IndexError: one that is out of range.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.unit} are numbered 0 to {len(self) - 1}")
        return indices


class InMemory:
    """A source whose examples are rows of arrays (or of memory-mapped files).

    Attributes:
      arrays: {key: (N, ...)}, all of one length.
      classes: names of the labels, when they are known.
      unreadable: {index: reason} of examples that could not be decoded; asking for one raises DataError.
    """

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, np.ndarray],
        classes: Sequence[str] | None = None,
        fingerprint: str | None = None,
        unreadable: Mapping[int, str] | None = None,
    ):
        self.name, self.arrays, self.unreadable = name, arrays, dict(unreadable or {})
        self.classes = tuple(classes) if classes is not None else None
        sizes = {key: len(array) for key, array in arrays.items()}
        if not arrays or not any(sizes.values()):
            raise DataError(f"{name} has no examples")
        if len(set(sizes.values())) > 1:
            raise DataError(f"{name} has arrays of different lengths: {sizes}")
        if "image" in arrays:
            check_images(arrays["image"], name)
        if "label" in arrays:
            check_labels(arrays["label"], len(self.classes) if self.classes else None, name)
        if fingerprint is not None:
            self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.unreadable:
            raise DataError(self.unreadable[index])
        return {key: array[index] for key, array in self.arrays.items()}

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`, stacked."""
        if self.unreadable:
            for index in map(int, indices):
                if index in self.unreadable:
                    raise DataError(self.unreadable[index])
        return {key: canonical(np.asarray(array[indices])) for key, array in self.arrays.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of every byte."""
        return digest("memory", dict(self.arrays), self.classes, sorted(self.unreadable))


def canonical(array: np.ndarray) -> np.ndarray:
    """The array in the type that devices use: 32-bit numbers for 64-bit ones.

    Raises:
      DataError: an integer that does not fit.
    """
    smaller = SMALLER.get(array.dtype.name)
    if smaller is None:
        return array
    out = array.astype(smaller)
    if array.dtype.kind in "iu" and not np.array_equal(out, array):
        raise DataError(f"{array[out != array].flat[0]} does not fit 32 bits")
    return out


def check_images(images: np.ndarray, name: str) -> None:
    """Refuse what is no (N, H, W, C) array of uint8 or floats."""
    if images.ndim != 4 or images.dtype.kind not in "uf" or images.dtype.name in ("uint16", "uint32", "uint64"):
        raise DataError(f"{name}: images are {images.dtype}{images.shape}, wanted (N, H, W, C) uint8 or float")


def check_labels(labels: np.ndarray, classes: int | None, name: str) -> None:
    """Refuse labels that are no class index (one per row) below `classes`, or no 0/1 row per example."""
    if labels.dtype.kind not in "iub":
        raise DataError(f"{name}: labels are {labels.dtype}, wanted integers")
    if labels.ndim == 1:
        low, high, top = int(labels.min()), int(labels.max()), classes
    else:  # several classes at once
        low, high, top = int(labels.min()), int(labels.max()), 2
    if low < 0 or (top is not None and high >= top):
        wrong = low if low < 0 else high
        row = int(np.argwhere(labels == wrong)[0][0])
        limit = "0 or more" if top is None else f"0 to {top - 1}"
        raise DataError(f"{name}: label {wrong} of example {row} is out of range ({limit})")


def identity(thing: Any) -> Any:
    """What tells one transform or source from another, in parts that `digest` takes.

    Raises:
      DataError: an object whose settings cannot be seen.
    """
    if thing is None or isinstance(thing, (str, int, float, bool, bytes)):
        return thing
    if isinstance(thing, (tuple, list)):
        return tuple(identity(item) for item in thing)
    if isinstance(thing, Mapping):
        return {str(key): identity(value) for key, value in thing.items()}
    if isinstance(thing, functools.partial):
        return ("partial", identity(thing.func), identity(thing.args), identity(thing.keywords))
    kind = type(thing)
    if hasattr(thing, "fingerprint"):
        return (f"{kind.__module__}:{kind.__qualname__}", str(thing.fingerprint))
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: identity(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        return (f"{kind.__module__}:{kind.__qualname__}", fields)
    if hasattr(thing, "__qualname__") and "<locals>" not in thing.__qualname__:
        return f"{thing.__module__}:{thing.__qualname__}"
    raise DataError(f"{thing!r} has no fingerprint: make it a frozen dataclass, a function of a module, or give it one")
