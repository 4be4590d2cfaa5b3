"""Images in folders: the folder's name is the class."""

from pathlib import Path

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest, digest_files
from fmjax.data.encoded import DECODER, Encoded
from fmjax.data.images import Decode
from fmjax.data.source import identity

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class ImageFolder(Encoded):
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
      decode: another way to pixels, such as `images.Decode(size=(224, 224), shorter=256)`, in the place of `size` and
        `channels`.

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
        decode: Decode | None = None,
    ):
        if decode is not None and (size is not None or channels != 3):
            raise ConfigError("ImageFolder takes size and channels, or a decode that says both")
        if decode is None:
            fit = "crop" if size is None else "stretch"
            decode = Decode(size=size and tuple(size), fit=fit, channels=channels)
        root = Path(path).expanduser()
        classes, self.files, labels = _listing(root, split)
        fingerprint = digest(
            "folder", DECODER, identity(decode), classes, labels.tolist(), digest_files(self.files, root)
        )
        title = f"ImageFolder({root / split if split else root})"
        super().__init__(title, len(self.files), labels, classes, fingerprint, decode, in_memory)

    def encoded(self, index: int) -> tuple[Path, str]:
        return self.files[index], str(self.files[index])


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
