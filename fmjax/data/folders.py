"""Images in folders: the folder's name is the class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest, digest_files
from fmjax.data.decode import decode_all, split_unreadable
from fmjax.data.source import InMemory, Mismatch

DECODER = 1  # version of what is kept in the cache
MEMORY = 4 << 30
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MODES = {1: "L", 3: "RGB"}


class ImageFolder(InMemory):
    """Images below `path/<class>/`, or below `path/<split>/<class>/`: image uint8 (H, W, C), label.

    Classes are the sorted folder names; with splits, those of all splits together, so that a class has one number
    everywhere. Sets up to 4 GiB decoded are held in memory and kept on disk; the fingerprint is of the files.

    Args:
      path: the folder.
      split: name of a subfolder, None when there are no splits.
      size: (height, width) every image is resized to, without keeping its aspect; None refuses images of
        different sizes.
      channels: 3 for RGB, 1 for grey.
      in_memory: None decides by size; False decodes an image each time it is asked for.

    Raises:
      DataError: no such folder, an empty class, or an image of another size.
    """

    def __init__(
        self,
        path: str,
        split: str | None = None,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        in_memory: bool | None = None,
    ):
        if channels not in MODES:
            raise ConfigError(f"ImageFolder reads 1 or 3 channels, not {channels}")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ConfigError(f"size is (height, width), not {tuple(size)}")
        root = Path(path).expanduser()
        classes, files, labels = _listing(root, split)
        title = f"ImageFolder({root / split if split else root})"
        self.files, self.labels, self.mode = files, labels, MODES[channels]
        self.size = tuple(size) if size is not None else None
        fingerprint = digest(
            "folder", DECODER, self.size, channels, classes, labels.tolist(), digest_files(files, root)
        )
        expected = self.size
        if expected is None:
            try:
                with Image.open(files[0]) as image:
                    expected = (image.height, image.width)
            except OSError as error:
                raise DataError(f"{files[0]} cannot be read: {error}") from None
        self.expected = expected
        if in_memory is None:
            in_memory = len(files) * expected[0] * expected[1] * channels <= MEMORY
        self.lazy = not in_memory
        if in_memory:
            decoded = cached(fingerprint, lambda: decode_all(len(files), self._read_many, title))
            arrays, unreadable = split_unreadable(decoded)
            super().__init__(title, arrays, classes, fingerprint, unreadable)
            return
        self.name, self.classes, self.fingerprint = title, tuple(classes), fingerprint
        self.rows = None  # nothing is in memory: the pipeline reads example by example

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(index) if self.lazy else super().__getitem__(index)

    def _read_many(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        try:
            with Image.open(file) as opened:
                image = opened.convert(self.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be decoded: {error}") from None
        if self.size is not None and (image.height, image.width) != self.size:
            image = image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR, reducing_gap=3.0)
        if (image.height, image.width) != self.expected:
            here, there = f"{image.height}x{image.width}", "x".join(map(str, self.expected))
            raise Mismatch(f"{file} is {here}, {self.files[0].name} is {there}: give size=(height, width) to resize")
        pixels = np.asarray(image, np.uint8)
        return {"image": pixels.reshape(*pixels.shape[:2], -1), "label": self.labels[index]}


def _listing(root: Path, split: str | None) -> tuple[list[str], list[Path], np.ndarray]:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    splits = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if split is not None and split not in splits:
        raise DataError(f"{root} has no split {split!r}; {did_you_mean(split, splits)}")
    folder = root / split if split else root
    groups = [root / s for s in splits] if split else [root]
    classes = sorted({p.name for g in groups for p in g.iterdir() if p.is_dir() and not p.name.startswith(".")})
    if not classes:
        raise DataError(f"{folder} has no class folders: it wants {folder}/<class>/<image>")
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue  # a class that only another split has
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise DataError(f"the class folder {folder / name} holds no image: fill it or remove it")
        files += found
        labels += [number] * len(found)
    if not files:
        raise DataError(f"{folder} holds no images")
    return classes, files, np.array(labels, np.int32)
