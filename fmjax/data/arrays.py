"""Arrays from files: .npz, .npy (memory-mapped), and IDX as MNIST came in, gzipped or not."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest, digest_files
from fmjax.data.source import SMALLER, InMemory, canonical

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Arrays(InMemory):
    """Examples that are rows of arrays in files.

    Two forms: `Arrays("data.npz", image="pictures", label="y")` names arrays of one .npz file (no names: all of
    them, under their own), and `Arrays(image="images.idx.gz", label="labels.npy")` one file per word. An image of
    (N, H, W) gets its channel axis. A .npy file is memory-mapped, and then fingerprinted as `digest_files` says;
    everything else is read, and fingerprinted by content.

    Args:
      path: the .npz file, or None.
      classes: how many labels there are; a label outside is refused.
      **words: {key of the batch: name inside `path`, or file}.

    Raises:
      DataError: a file that is missing, damaged or holds something else.
    """

    def __init__(self, path: str | None = None, classes: int | None = None, **words: str):
        if path is None and not words:
            raise ConfigError(
                "Arrays wants a .npz file, or a file for each word: image='images.npy', label='labels.npy'"
            )
        name = f"Arrays({path or ', '.join(words.values())})"
        arrays = _of_npz(Path(path), words) if path else {word: read_array(Path(file)) for word, file in words.items()}
        mapped = [Path(str(a.filename)) for a in arrays.values() if isinstance(a, np.memmap)]
        arrays = {key: a if isinstance(a, np.memmap) else canonical(a) for key, a in arrays.items()}
        arrays = {key: _with_channels(key, a) for key, a in arrays.items()}
        if "label" in arrays:
            arrays["label"] = canonical(np.asarray(arrays["label"]))
        fingerprint = None
        if mapped:
            read = {key: a for key, a in arrays.items() if not isinstance(a, np.memmap)}
            files = [digest_files([file], file.parent) for file in mapped]
            fingerprint = digest("arrays", files, read, sorted(arrays))
        names = None if classes is None else [str(i) for i in range(classes)]
        super().__init__(name, arrays, names, fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        """A worker maps the files again; a pickled memory map would carry the data."""
        mapped = {key: str(a.filename) for key, a in self.arrays.items() if isinstance(a, np.memmap)}
        return {**self.__dict__, "arrays": {k: mapped.get(k, a) for k, a in self.arrays.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arrays = {
            k: _with_channels(k, read_array(Path(a))) if isinstance(a, str) else a for k, a in self.arrays.items()
        }


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file (memory-mapped), of its gzipped form, or of an IDX file.

    Raises:
      DataError: no such file, or not such an array.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}; {did_you_mean(path.name, near)}")
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            # 64-bit columns are converted whole when small: a row at a time costs more than it saves.
            return canonical(np.asarray(array)) if array.dtype.name in SMALLER and array.ndim == 1 else array
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            if path.name.endswith(".npy.gz"):
                return np.load(file, allow_pickle=False)
            return parse_idx(file.read(), str(path))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from None


def parse_idx(raw: bytes, name: str = "IDX data") -> np.ndarray:
    """The array in IDX bytes: 0 0 type rank, big-endian sizes, big-endian numbers.

    Raises:
      DataError: bytes that are not IDX, or more or fewer than the header says.
    """
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES:
        raise DataError(f"{name} is no IDX file (it starts with {raw[:4].hex(' ')}); .npz, .npy and IDX are read")
    dtype, rank = np.dtype(IDX_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * rank
    if len(raw) < start:
        raise DataError(f"{name} ends inside its header")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
    count = 1
    for n in shape:
        count *= n
    if len(raw) - start != count * dtype.itemsize:
        raise DataError(
            f"{name} holds {len(raw) - start} bytes of numbers, its shape {shape} wants {count * dtype.itemsize}"
        )
    return np.frombuffer(raw, dtype, count, start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _with_channels(key: str, array: np.ndarray) -> np.ndarray:
    return array[..., None] if key == "image" and array.ndim == 3 else array


def _of_npz(path: Path, words: dict[str, str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.npz")) if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}; {did_you_mean(path.name, near)}")
    if path.suffix != ".npz":
        raise DataError(f"{path} is no .npz file: name the word it holds, as in image='{path.name}'")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} cannot be read: it is damaged, or no .npz file")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for name in words.values():
                if name not in file.files:
                    raise DataError(f"{path} holds no {name!r}; {did_you_mean(name, file.files)}")
            return {word: file[name] for word, name in (words or {n: n for n in file.files}).items()}
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from None
