"""The tensors of a folder of safetensors, one file or several; pickles are refused."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmjax.core.config import did_you_mean
from fmjax.core.errors import CheckpointError, ConfigError

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
FLOATS = ("F32", "BF16", "F16")
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Tensors:
    """What a folder holds, under the names of a model without a head.

    Args:
      folder: with model.safetensors, or model.safetensors.index.json and what it names.
      prefix: what names in files of models with a head begin with ("transformer."); it is left out.
      rename: older names -> those of today.

    Raises:
      CheckpointError: no safetensors, a damaged file, or one that the index names and that is not there.
    """

    def __init__(self, folder: Path, prefix: str = "", rename: Callable[[str], str] = str) -> None:
        self._places: dict[str, tuple[Any, str]] = {}
        self._open: list[Any] = []
        for path in _files(folder):
            try:
                file = safe_open(path, framework="np")
                for name in file.keys():  # noqa: SIM118 - no dict
                    self._places[rename(name.removeprefix(prefix) if prefix else name)] = (file, name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._places))

    def shape(self, name: str) -> tuple[int, ...]:
        file, key = self._places[name]
        return tuple(file.get_slice(key).get_shape())

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        file, key = self._places[name]
        kind = file.get_slice(key).get_dtype()
        if kind not in FLOATS:
            raise CheckpointError(f"the tensor {key} in {self.folder} is {kind}: only {', '.join(FLOATS)} can be read")
        return np.asarray(file.get_tensor(key), np.float32)

    def repeats(self, name: str, other: str) -> bool:
        """Whether two tensors hold the same numbers."""
        return self.shape(name) == self.shape(other) and np.array_equal(self.read(name), self.read(other))


def _files(folder: Path) -> list[Path]:
    if (folder / ONE).is_file():
        return [folder / ONE]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{folder / INDEX} is no index of safetensors: it has no weight_map") from None
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise CheckpointError(f"{folder / INDEX} names files that are not there: {listed(missing)}")
        return [folder / name for name in names]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has only {listed(pickles)}: a pickle, which can run any code when it is read, so it is not; "
            f"where you trust it, convert it with {_way(folder)}"
        )
    raise CheckpointError(f"{folder} holds no weights: there is no {ONE} and no {INDEX}")


def _way(folder: Path) -> str:
    """What makes safetensors of a folder with a pickle, in the library whose it is."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "architecture" in config and "model_type" not in config:
            made = f"timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
            return f"timm: timm.models.save_for_hf({made}, NEW_FOLDER, safe_serialization=True)"
        name = config["architectures"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        name = "AutoModel"
    return f"transformers: {name}.from_pretrained({str(folder)!r}).save_pretrained(NEW_FOLDER)"


def listed(names: list[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def size_in_bytes(size: str | int) -> int:
    """ "2GB" as a number of bytes.

    Raises:
      ConfigError: no such size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", str(size), re.IGNORECASE)
    if not found or not (count := int(float(found[1]) * _UNITS[(found[2] or "").upper()])):
        raise ConfigError(f"{size!r} is no size of a file: write a number of bytes, or 500MB, or 2GB")
    return count


def write(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], np.ndarray],
    dtype: str = "float32", shard_size: str | int | None = None,
) -> int:  # fmt: skip
    """Write tensors, one file's in memory at a time, and return their bytes.

    Args:
      shapes: of each, by name.
      tensor: gives one in float32, in the order of its shape.
      dtype: float32 or bfloat16.
      shard_size: the bytes of a file, or "2GB"; None is one file. A tensor larger than that has a file of its own.

    Raises:
      ConfigError: another dtype or size.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"there is no dtype {dtype!r} to save in; {did_you_mean(dtype, DTYPES)}")
    most, files = None if shard_size is None else size_in_bytes(shard_size), [[]]
    sizes = {name: int(np.prod(shape)) * DTYPES[dtype].itemsize for name, shape in shapes.items()}
    for name in shapes:
        if most is not None and files[-1] and sum(sizes[n] for n in files[-1]) + sizes[name] > most:
            files.append([])
        files[-1].append(name)
    names = (
        [ONE] if len(files) == 1 else [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    )
    for file, inside in zip(names, files):
        # The library writes bytes as they lie, and a transposed view lies in another order than its shape says.
        arrays = {name: np.ascontiguousarray(tensor(name).astype(DTYPES[dtype], copy=False)) for name in inside}
        save_file(arrays, folder / file, metadata={"format": "pt"})
    total = sum(sizes.values())
    if len(files) > 1:
        where = {name: file for file, inside in zip(names, files) for name in inside}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total
