"""A bare file of weights, {address: array} in safetensors or npz, as another tool or a script of yours writes it.

Arrays lie as they do here: kernels are (in, out). In safetensors an address is at best what `fmjax.core.trees.flatten`
gives; other names are brought to that by `rename` of what reads them.
"""

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from fmjax.core.errors import CheckpointError
from fmjax.interop.tensors import PICKLES, listed

SUFFIXES = (".safetensors", ".npz")
PARAMS = "params/"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def is_file(path: str | Path) -> bool:
    """Whether a path speaks of a bare file of weights; it need not be there."""
    return str(path).endswith(SUFFIXES) and not Path(path).expanduser().is_dir()


def is_pickle(path: str | Path) -> bool:
    """Whether a path speaks of a file that can run any code when it is read."""
    return Path(path).suffix in {pattern.removeprefix("*") for pattern in PICKLES}


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """(weights, {collection: other variables}) of a file, each {address: array}.

    Where names begin with "params/", the first word of every name is its collection, such as "batch_stats"; otherwise
    all are weights. What is read from safetensors stays in the file until a part of it is asked for.

    Raises:
      CheckpointError: no such file, a damaged one, one with pickles in it, or arrays that are no floats.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        found = _safetensors(path) if path.suffix == ".safetensors" else _npz(path)
    except (SafetensorError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{path} is damaged, or no {path.suffix} file: {error}") from None
    if not found:
        raise CheckpointError(f"{path} holds no arrays")
    if not any(name.startswith(PARAMS) for name in found):
        return found, {}
    kinds: dict[str, dict[str, np.ndarray]] = {}
    for name, x in found.items():
        kind, slash, address = name.partition("/")
        if not slash:
            raise CheckpointError(f"{path}: {name} has no collection, and other names begin with {PARAMS}")
        kinds.setdefault(kind, {})[address] = x
    return kinds.pop("params"), kinds


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays mapped from the file, whose header the library has checked."""
    with safe_open(path, framework="np"):
        pass
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    if odd := [f"{name} is {x['dtype']}" for name, x in header.items() if x["dtype"] not in DTYPES]:
        raise CheckpointError(f"{path}: weights are {', '.join(DTYPES)}, and {listed(odd, 3)}")
    return {
        name: _mapped(path, np.dtype(DTYPES[x["dtype"]]), 8 + size + x["data_offsets"][0], tuple(x["shape"]))
        for name, x in sorted(header.items())
    }


def _mapped(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:
        return np.zeros(shape, dtype)  # nothing can be mapped
    return np.memmap(path, dtype, "r", offset, shape)


def _npz(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in sorted(arrays.files)}
    except ValueError as error:
        raise CheckpointError(f"{path} holds objects, or is no .npz file, and pickles are not read: {error}") from None
    if odd := [f"{name} is {x.dtype}" for name, x in found.items() if not np.issubdtype(x.dtype, np.floating)]:
        raise CheckpointError(f"{path}: weights are floats, and {listed(odd, 3)}")
    return found
