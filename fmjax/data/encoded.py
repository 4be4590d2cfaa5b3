"""Sources of encoded images: decoded once and held in memory where they fit, or one by one when asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.errors import DataError
from fmjax.data.cache import cached
from fmjax.data.decode import decode_all, split_unreadable
from fmjax.data.images import Decode, Unreadable
from fmjax.data.source import InMemory, Mismatch

DECODER = 2  # version of what is kept in the cache: a part of every fingerprint
MEMORY = 4 << 30  # decoded sets up to so many bytes are held


class Encoded(InMemory):
    """Images in files or in pieces of files; subclasses give `encoded`, and `labels` where there are some.

    Args:
      title: how the source is called in messages.
      labels: of all images, None when there are none.
      count: how many images there are.
      decode: how they become pixels; None hands out the bytes, for a transform to decode.
      in_memory: None decides by size.
    """

    def __init__(
        self,
        title: str,
        count: int,
        labels: np.ndarray | None,
        classes: Sequence[str] | None,
        fingerprint: str,
        decode: Decode | None,
        in_memory: bool | None,
    ):
        self.count, self.labels, self.decode_image = count, labels, decode
        self.expected, self.like = self._expected(title) if decode else (None, 0)
        if in_memory is None:
            in_memory = decode is not None and count * self.expected[0] * self.expected[1] * decode.channels <= MEMORY
        self.lazy = not in_memory or decode is None
        if not self.lazy:
            decoded = cached(fingerprint, lambda: decode_all(count, self._read_many, title))
            arrays, unreadable = split_unreadable(decoded)
            super().__init__(title, arrays, classes, fingerprint, unreadable)
            return
        self.name, self.classes, self.fingerprint = title, tuple(classes) if classes is not None else None, fingerprint
        self.rows = None  # nothing is in memory: the pipeline reads example by example

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of an image (or its bytes) and what to call it.

        Raises:
          DataError: it cannot be read.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self._read(index) if self.lazy else super().__getitem__(index)

    def _read_many(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> dict[str, Any]:
        file, name = self.encoded(index)
        label = {} if self.labels is None else {"label": self.labels[index]}
        if self.decode_image is None:
            return {"image": file if isinstance(file, bytes) else file.read_bytes(), **label}
        pixels = self.decode_image.pixels(file, name)
        if pixels.shape[:2] != self.expected:
            here, there = (f"{size[0]}x{size[1]}" for size in (pixels.shape, self.expected))
            like = self.encoded(self.like)[1]
            raise Mismatch(f"{name} is {here}, {like} is {there}: give size=(height, width) to resize")
        return {"image": pixels, **label}

    def _expected(self, title: str) -> tuple[tuple[int, int], int]:
        """(height, width) of all images, and the first that can be read, which says so where no size was asked for."""
        if self.decode_image.size is not None:
            return tuple(self.decode_image.size), 0
        reason = ""
        for index in range(self.count):
            try:
                return self.decode_image.size_of(*self.encoded(index)), index
            except Unreadable as error:
                reason = reason or str(error)
        raise DataError(f"{title}: none of {self.count} examples can be decoded; the first: {reason}")
