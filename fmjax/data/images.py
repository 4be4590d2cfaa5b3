"""From the bytes of an image file to pixels: upright, in the channels and the size that were asked for."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError

MODES = {1: "L", 3: "RGB"}
FITS = ("crop", "stretch")
GAP = 2.0  # a JPEG is decoded smaller down to so many times the size that is wanted (as Image.thumbnail does)
LARGEST = 1 << 26  # pixels: a few bytes of file can ask for any amount of memory
SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that exchange rows and columns
ORIENTATION = 0x0112
# What Pillow has been seen to raise for files that are damaged.
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, OverflowError, AttributeError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class Unreadable(DataError):
    """A file that cannot be decoded; the pipeline may step over it (`corrupt="skip"`)."""


@dataclasses.dataclass(frozen=True)
class Decode:
    """An image file as uint8 (H, W, C): what image sources do with their files, and a transform of encoded examples.

    The image is turned as its EXIF orientation says. Palettes, CMYK and other colours become RGB or grey as Pillow's
    `convert` does (transparency is dropped); 16 bits keep the upper 8; of an animation the first picture counts.
    Resizing is bilinear with antialiasing.

    Attributes:
      size: (height, width) of what comes out; None keeps that of the file.
      shorter: what the shorter side is resized to before the middle of `size` is cut out (or, without a size, all that
        is done); None resizes to what just covers `size`.
      fit: "crop" keeps the aspect, "stretch" resizes to `size` whatever the aspect.
      channels: 3 for RGB, 1 for grey.
      draft: let a JPEG that is more than twice as large be decoded at a half, a quarter or an eighth, which is faster
        and changes pixels by little; False decodes it whole.
    """

    size: tuple[int, int] | None = None
    shorter: int | None = None
    fit: str = "crop"
    channels: int = 3
    draft: bool = True

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ConfigError(f"images are decoded to 1 or 3 channels, not {self.channels}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ConfigError(f"size is (height, width), not {tuple(self.size)}")
        if self.fit not in FITS:
            raise ConfigError(f"there is no fit {self.fit!r}; {did_you_mean(self.fit, FITS)}")
        if self.fit == "stretch" and (self.size is None or self.shorter is not None):
            raise ConfigError("fit='stretch' wants a size, and no shorter side")
        if self.shorter is not None and self.shorter < max(self.size or (1,)):
            raise ConfigError(
                f"shorter={self.shorter} leaves no crop of {self.size}: give at least {max(self.size or (1,))}"
            )

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The example with the pixels of the file that lies in `image`, as bytes."""
        if not isinstance(example.get("image"), bytes):
            raise DataError("Decode wants the bytes of a file under 'image': give the source decode=None")
        return {**example, "image": self.pixels(example["image"])}

    def pixels(self, file: bytes | Path, name: str = "the image") -> np.ndarray:
        """The image in `file`, or in the bytes of one.

        Raises:
          Unreadable: it cannot be decoded, or is too large.
        """
        try:
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
                height, width = self._upright(opened, name)
                wanted = self._resized((height, width))
                if self.draft and wanted != (height, width):
                    part = max(wanted[0] / height, wanted[1] / width) * GAP
                    if part < 1:
                        opened.draft(None, tuple(max(1, int(side * part)) for side in opened.size))
                image = _plain(ImageOps.exif_transpose(opened), MODES[self.channels], name)
        except Unreadable:
            raise
        except UNREADABLE as error:
            raise Unreadable(f"{name} cannot be decoded: {' '.join(str(error).split())}") from None
        if image.size != (wanted[1], wanted[0]):
            gap = GAP if self.draft else None
            image = image.resize((wanted[1], wanted[0]), Image.Resampling.BILINEAR, reducing_gap=gap)
        if self.size is not None and wanted != tuple(self.size):
            top, left = ((have - want) // 2 for have, want in zip(wanted, self.size, strict=True))
            image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        pixels = np.asarray(image, np.uint8)
        return pixels.reshape(*pixels.shape[:2], -1)

    def size_of(self, file: bytes | Path, name: str = "the image") -> tuple[int, int]:
        """(height, width) that `pixels` gives; the header alone is read.

        Raises:
          Unreadable: it cannot be read, or is too large.
        """
        try:
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
                size = self._upright(opened, name)
        except Unreadable:
            raise
        except UNREADABLE as error:
            raise Unreadable(f"{name} cannot be decoded: {' '.join(str(error).split())}") from None
        return tuple(self.size) if self.size is not None else self._resized(size)

    def _upright(self, opened: Image.Image, name: str) -> tuple[int, int]:
        """(height, width) once it is turned."""
        width, height = opened.size
        if width * height > LARGEST:
            raise Unreadable(f"{name} has {width}x{height} pixels, more than {LARGEST}: it is not decoded")
        turned = opened.getexif().get(ORIENTATION) in SIDEWAYS
        return (width, height) if turned else (height, width)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """What an image of this size is resized to, before it is cropped."""
        if self.fit == "stretch":
            return tuple(self.size)
        if self.shorter is not None:
            scale = self.shorter / min(size)
            return tuple(max(self.shorter, round(side * scale)) for side in size)
        if self.size is None:
            return size
        scale = max(want / have for want, have in zip(self.size, size, strict=True))
        return tuple(max(want, round(have * scale)) for want, have in zip(self.size, size, strict=True))


def _plain(image: Image.Image, mode: str, name: str) -> Image.Image:
    """The image in a mode of 8 bits."""
    if image.mode.startswith("I"):  # Pillow's own conversion of 16 bits makes all but the darkest pixels white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise Unreadable(
                f"{name} holds numbers from {values.min()} to {values.max()}: images of 8 or 16 bits are read"
            )
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise Unreadable(f"{name} holds floating-point numbers: images of 8 or 16 bits are read")
    return image.convert(mode)
