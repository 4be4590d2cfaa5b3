"""What folders of transformers and of timm have in common: a config.json beside the tensors, written last."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fmjax.core.errors import CheckpointError
from fmjax.interop import tensors as files
from fmjax.interop.layouts import Shape
from fmjax.interop.options import Json

CONFIG = "config.json"


def read_config(folder: Path, key: str, kind: str, otherwise: str) -> Json:
    """The config.json of a folder.

    Args:
      key: the line that says which model it is, a string.
      kind: of the models, in messages; `otherwise`: what a file without that line is.

    Raises:
      CheckpointError: it is not there, or no JSON with that line.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {kind}: it has no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get(key), str):
        raise CheckpointError(f"{folder / CONFIG} says no {key}: {otherwise}")
    return config


def write(
    folder: Path, config: Json, shapes: Mapping[str, Shape], tensor: Callable[[str], np.ndarray], dtype: str,
    shard_size: str | int | None = None,
) -> int:  # fmt: skip
    """Write tensors and then config.json; returns the bytes of the tensors.

    Raises:
      ConfigError: a dtype or size that does not exist.
      CheckpointError: a folder that holds something, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := sorted(path.name for path in folder.iterdir()):
            raise CheckpointError(f"{folder} holds something already ({files.listed(there, 3)}): choose another folder")
        total = files.write(folder, shapes, tensor, dtype, shard_size)
        beside = folder / f".{CONFIG}.tmp"
        beside.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        beside.replace(folder / CONFIG)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from None
    return total
