"""Models of Hugging Face's folders as ours, and ours as theirs: describe, load, save."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from fmjax.core.config import build, did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.interop import folder as files
from fmjax.interop import peft
from fmjax.interop.families.bert import BERT, ROBERTA
from fmjax.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from fmjax.interop.families.gpt2 import GPT2
from fmjax.interop.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from fmjax.interop.families.t5 import T5
from fmjax.interop.family import Family, fields_of
from fmjax.interop.folder import CONFIG
from fmjax.interop.hub import locate
from fmjax.interop.options import KEPT, NEUTRAL, Json

# The first that can hold a model gets it.
FAMILIES = {
    family.name: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, BERT, ROBERTA, T5)
}


def is_folder(path: str | Path) -> bool:
    """Whether a folder holds a Hugging Face model: a config.json with a model_type."""
    try:
        return "model_type" in json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def describe(path: str | Path) -> ConfigDict:
    """The call of the model in a folder, or of a hub id; heads that it has no weights for are left out.

    Raises:
      CheckpointError: no such folder, or no weights in it that can be read. ConfigError: a model that fmjax has not.
    """
    folder = locate(path)
    if peft.is_folder(folder):
        return describe(peft.base_of(folder))
    family, config = _family(folder)
    return _described(folder, family, config, family.tensors(folder))


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """(module, params) of a folder or hub id: a nested dict of numpy arrays in float32, at our addresses.

    An adapter's folder, in the layout of PEFT, gives its base with the adapter merged in.

    Raises:
      CheckpointError: as `describe`, and tensors that are missing, unexpected or of another shape (it lists them).
      ConfigError: a model that fmjax has not.
    """
    folder = locate(path)
    if peft.is_folder(folder):
        module, params = load(peft.base_of(folder))
        return module, peft.merged(folder, family_of(module), module, params)
    family, config = _family(folder)
    tensors = family.tensors(folder)
    module = build(_described(folder, family, config, tensors))
    return module, family.read(module, tensors)


def save(
    folder: str | Path, module: nn.Module, params: Any, *, dtype: str = "float32", shard_size: str | int | None = None,
    kept: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """Write a model for transformers, config.json last, and return the bytes of its weights.

    Args:
      folder: new or empty.
      module, params: a model that a family can hold, and its weights at our addresses.
      dtype: float32 or bfloat16.
      shard_size: of a file, in bytes or as "2GB"; None is one file.
      kept: lines of config.json that fmjax has no fields for, such as eos_token_id.

    Raises:
      ConfigError: a model that no family can hold (names the options), a dtype or size that does not exist.
      CheckpointError: weights of another model, a folder that holds something, or cannot be written.
    """
    folder, family = Path(folder), family_of(module)
    architecture, shapes, tensor = family.written(module, params)
    if odd := sorted((kept or {}).keys() - NEUTRAL):
        raise ConfigError(f"these lines of config.json follow from the model and cannot be kept: {', '.join(odd)}")
    config = {"architectures": [architecture], **family.defaults, **(kept or {})}
    config |= {**family.config(fields_of(module)), "torch_dtype": dtype}
    return files.write(folder, config, shapes, tensor, dtype, shard_size)


def family_of(module: nn.Module) -> Family:
    """The family that can hold a module.

    Raises:
      ConfigError: none can; it names the options in the way of the nearest.
    """
    if hasattr(module, "backbone"):
        raise ConfigError(f"a {type(module).__name__} cannot be converted yet: only its backbone's kind of model can")
    nearest: tuple[int, str] = (1 << 30, "")
    for family in FAMILIES.values():
        if type(module) is not family.model.func:
            continue
        differs = family.differs(module)
        if not differs:
            return family
        words = ", ".join(f"{k}={ours!r} (it has {theirs!r})" for k, (ours, theirs) in sorted(differs.items()))
        nearest = min(nearest, (len(differs), f"{family.name} comes nearest, but for {words}"))
    why = nearest[1] or f"a {type(module).__name__} is of another kind than {', '.join(FAMILIES)}"
    raise ConfigError(f"no family of Hugging Face can hold this model: {why}")


def kept(path: str | Path) -> Json:
    """The lines of a folder's config.json that `save` may keep."""
    folder = locate(path)
    config = read_config(locate(peft.base_of(folder)) if peft.is_folder(folder) else folder)
    return {key: config[key] for key in KEPT if config.get(key) is not None}


def read_config(folder: Path) -> Json:
    """The config.json of a folder.

    Raises:
      CheckpointError: it is not there, or no JSON with a model_type.
    """
    return files.read_config(folder, "model_type", "Hugging Face model", "it is no Hugging Face model's")


def _family(folder: Path) -> tuple[Family, Json]:
    config = read_config(folder)
    name = config["model_type"]
    if name not in FAMILIES:
        raise ConfigError(f"{folder / CONFIG}: there is no family {name!r} here; {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name], config


def _described(folder: Path, family: Family, config: Json, tensors: Any) -> ConfigDict:
    try:
        return family.describe(config, tensors)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(f"{folder / CONFIG} holds a value of the wrong kind: {error}") from None
