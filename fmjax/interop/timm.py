"""Image models of timm's folders as ours, and ours as timm's: describe, load, save.

Such a folder holds a config.json that says `architecture` and model.safetensors, as timm's `save_for_hf` writes them
and its repositories on the hub have them. timm itself reads what is saved here by the name `local-dir:FOLDER`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from fmjax.core.config import build, did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.types import Tree
from fmjax.interop import folder as files
from fmjax.interop.families.convnext import CONVNEXT
from fmjax.interop.families.efficientnet import EFFICIENTNET
from fmjax.interop.families.resnet import RESNET
from fmjax.interop.families.vit import VIT
from fmjax.interop.folder import CONFIG
from fmjax.interop.hub import locate
from fmjax.interop.image_family import ImageFamily, described
from fmjax.interop.options import Json
from fmjax.interop.tensors import Tensors
from fmjax.nn.convolution import pair

FAMILIES = (RESNET, CONVNEXT, EFFICIENTNET, VIT)
KNOWN = {name: family for family in FAMILIES for name in family.architectures}
# Names that are near one of these, and why they are another network all the same.
OTHERS = {
    "distilled": "it has a distillation token and two heads; the models without `distilled` in their name are read",
    "tf_": "it pads as TensorFlow does; the models without `tf_` in their name are read",
}


def is_folder(path: str | Path) -> bool:
    """Whether a folder holds a model of timm: a config.json that says an architecture, and no model_type."""
    try:
        config = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
        return "architecture" in config and "model_type" not in config
    except (OSError, ValueError, TypeError):
        return False


def describe(path: str | Path) -> ConfigDict:
    """The call of the model in a folder, or of a hub id.

    Raises:
      CheckpointError: no such folder, or none of timm. ConfigError: a model that fmjax has not.
    """
    return _described(locate(path))[1]


def load(path: str | Path) -> tuple[nn.Module, Tree, Tree]:
    """(module, weights, other variables) of a folder or hub id: numpy arrays in float32, at our addresses.

    The third holds running statistics under `batch_stats`, and is empty for a model without any.

    Raises:
      CheckpointError: as `describe`, and tensors that are missing, unexpected or of another shape (it lists them).
      ConfigError: a model that fmjax has not.
    """
    folder = locate(path)
    family, node = _described(folder)
    module = build(node)
    return module, *family.read(module, Tensors(folder))


def save(
    folder: str | Path, module: nn.Module, params: Tree, mutable: Tree, *, dtype: str = "float32",
    kept: Mapping[str, Any] | None = None,
) -> int:  # fmt: skip
    """Write a model for timm, config.json last, and return the bytes of its weights.

    Args:
      folder: new or empty.
      module, params, mutable: a model that timm has a name for, its weights and running statistics.
      dtype: float32 or bfloat16.
      kept: lines of `pretrained_cfg` that fmjax has no fields for, such as mean and std.

    Raises:
      ConfigError: a model that timm has no name for (names what is in the way), a dtype that does not exist.
      CheckpointError: weights of another model, a folder that holds something, or cannot be written.
    """
    folder, family = Path(folder), family_of(module)
    architecture, args, _ = family.named(module)
    channels, shapes, tensor = family.written(module, params, mutable)
    size = pair(getattr(module, "image_size", 224))
    args = {key: value for key, value in args.items() if key != "num_classes"}
    cfg = {"input_size": [channels, *size], "fixed_input_size": hasattr(module, "image_size"), "custom_load": False}
    config = {
        "architecture": architecture,
        "num_classes": module.classes,
        "num_features": params["head"]["kernel"].shape[0],
        "model_args": {**args, **({"in_chans": channels} if channels != 3 else {})},
        "pretrained_cfg": {**cfg, **(kept or {}), **family.pretrained, "num_classes": module.classes},
    }
    return files.write(folder, config, shapes, tensor, dtype)


def family_of(module: nn.Module) -> ImageFamily:
    """The family that can hold a module.

    Raises:
      ConfigError: none can; it names the fields in the way of the nearest.
    """
    for family in FAMILIES:
        if type(module) is not family.kind:
            continue
        name, _, differs = family.named(module)
        if not differs:
            return family
        words = ", ".join(f"{k}={ours!r} (it has {theirs!r})" for k, (ours, theirs) in sorted(differs.items()))
        raise ConfigError(f"timm has no name for this model: {name} comes nearest, but for {words}")
    names = ", ".join(family.name for family in FAMILIES)
    raise ConfigError(f"timm has no name for this model: a {type(module).__name__} is of another kind than {names}")


def holds(module: nn.Module) -> bool:
    """Whether a module is of a class that timm has models of."""
    return any(type(module) is family.kind for family in FAMILIES)


def kept(path: str | Path) -> Json:
    """The lines of a folder's `pretrained_cfg` that `save` may keep."""
    found = read_config(locate(path)).get("pretrained_cfg") or {}
    return {key: found[key] for key in ("tag", "interpolation", "crop_pct", "crop_mode", "mean", "std", "label_names",
                                        "license", "input_size") if key in found}  # fmt: skip


def read_config(folder: Path) -> Json:
    """The config.json of a folder.

    Raises:
      CheckpointError: it is not there, or no JSON with an architecture.
    """
    return files.read_config(folder, "architecture", "model of timm", "it is not that of a model of timm")


def _described(folder: Path) -> tuple[ImageFamily, ConfigDict]:
    """(family, the call of the model) of a folder."""
    config = read_config(folder)
    name = config["architecture"]
    if name not in KNOWN:
        why = next((why for part, why in OTHERS.items() if part in name), did_you_mean(name, KNOWN))
        raise ConfigError(f"{folder / CONFIG}: there is no architecture {name!r} here; {why}")
    args = {**(config.get("model_args") or {})}
    if "num_classes" in config:
        args["num_classes"] = config["num_classes"]
    if args.get("num_classes") == 0:
        raise ConfigError(f"{folder / CONFIG}: num_classes=0 is a model without a head, which fmjax has not")
    return KNOWN[name], described(folder, KNOWN[name], name, args)
