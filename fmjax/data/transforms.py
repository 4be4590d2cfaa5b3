"""Transforms on the host, one example at a time: frozen dataclasses, `(example, rng) -> example`.

Heavy augmentation of images of one size belongs on the device (fmjax/data/augment.py).
"""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Resize:
    """The image at `size` (height, width), bilinear with antialiasing; the aspect is not kept."""

    size: tuple[int, int]

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, "image": _resize(_image(example), self.size)}


@dataclasses.dataclass(frozen=True)
class ResizeSmaller:
    """The image with its smaller side at `size`, bilinear with antialiasing; the aspect is kept."""

    size: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = _image(example)
        scale = self.size / min(image.shape[:2])
        size = tuple(max(self.size, round(side * scale)) for side in image.shape[:2])
        return {**example, "image": _resize(image, size)}


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of the image, of `size` (height, width)."""

    size: tuple[int, int]

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = _image(example)
        top, left = (have - want for have, want in zip(image.shape, self.size))
        return {**example, "image": _crop(image, top // 2, left // 2, self.size)}


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random part of the image, of `size` (height, width), after `padding` zeros on every side."""

    size: tuple[int, int]
    padding: int = 0

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        plain, p = _image(example), self.padding
        image = np.zeros((plain.shape[0] + 2 * p, plain.shape[1] + 2 * p, plain.shape[2]), plain.dtype)
        image[p : p + plain.shape[0], p : p + plain.shape[1]] = plain
        room = [have - want for have, want in zip(image.shape, self.size)]
        top, left = (int(rng.integers(r + 1)) if r >= 0 else r for r in room)
        return {**example, "image": _crop(image, top, left, self.size)}


@dataclasses.dataclass(frozen=True)
class Flip:
    """The image mirrored left to right, with probability `p`."""

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= self.p <= 1:
            raise ConfigError(f"a probability is from 0 to 1, not {self.p}")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image = _image(example)
        return {**example, "image": image[:, ::-1] if rng.random() < self.p else image}


@dataclasses.dataclass(frozen=True)
class ToFloat:
    """uint8 images as float32 in [0, 1]; four times the bytes to the device, so most leave this to it."""

    key: str = "image"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        value = np.asarray(_get(example, self.key))
        if value.dtype != np.uint8:
            raise DataError(f"{self.key} is {value.dtype}, ToFloat wants uint8")
        return {**example, self.key: value.astype(np.float32) / np.float32(255)}


@dataclasses.dataclass(frozen=True)
class Select:
    """Only these keys."""

    keys: tuple[str, ...]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {key: _get(example, key) for key in self.keys}


@dataclasses.dataclass(frozen=True)
class Rename:
    """Keys under another name: pairs (old, new); the others stay."""

    pairs: tuple[tuple[str, str], ...]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        moved = {new: _get(example, old) for old, new in self.pairs}
        old = {old for old, _ in self.pairs}
        return {**{key: value for key, value in example.items() if key not in old}, **moved}


def _get(example: Example, key: str) -> Any:
    if key not in example:
        raise DataError(f"there is no {key!r} in an example; {did_you_mean(key, example)}")
    return example[key]


def _image(example: Example) -> np.ndarray:
    image = np.asarray(_get(example, "image"))
    if image.ndim != 3:
        raise DataError(f"an image of shape {image.shape}, wanted (H, W, C)")
    return image


def _check_size(size: tuple[int, ...]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"size is (height, width), not {tuple(size)}")


def _crop(image: np.ndarray, top: int, left: int, size: tuple[int, ...]) -> np.ndarray:
    if top < 0 or left < 0:
        raise DataError(f"an image of {image.shape[0]}x{image.shape[1]} has no crop of {size[0]}x{size[1]}")
    return image[top : top + size[0], left : left + size[1]]


def _resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    shape = (size[1], size[0])
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image[..., c])).resize(shape, Image.Resampling.BILINEAR))
        for c in range(image.shape[-1])
    ]
    return np.stack(planes, axis=-1)
