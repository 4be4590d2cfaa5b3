"""A folder of weights from elsewhere, of transformers or of timm: its config.json says which."""

from pathlib import Path
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from fmjax.core.config import build
from fmjax.core.types import Tree
from fmjax.interop import hugging_face, peft, timm
from fmjax.interop.families.transformers_images import RESNET, VIT
from fmjax.interop.hub import locate
from fmjax.interop.image_family import ImageFamily, described
from fmjax.interop.tensors import Tensors

IMAGES = {family.name: family for family in (VIT, RESNET)}  # of transformers, read and not written


def is_folder(path: str | Path) -> bool:
    """Whether a folder holds a model of transformers or of timm."""
    return hugging_face.is_folder(path) or timm.is_folder(path)


def describe(path: str | Path) -> ConfigDict:
    """The call of the model in a folder, or of a hub id.

    Raises:
      UserError: as `describe` of hugging_face and of timm.
    """
    folder = locate(path)
    if timm.is_folder(folder):
        return timm.describe(folder)
    if family := _images(folder):
        return described(folder, family, family.name, hugging_face.read_config(folder))
    return hugging_face.describe(folder)


def load(path: str | Path) -> tuple[nn.Module, Tree, dict[str, Any]]:
    """(module, weights, other variables) of a folder or hub id; a language model has no others.

    Raises:
      UserError: as `load` of hugging_face and of timm.
    """
    folder = locate(path)
    if timm.is_folder(folder):
        return timm.load(folder)
    if family := _images(folder):
        module = build(described(folder, family, family.name, hugging_face.read_config(folder)))
        return module, *family.read(module, Tensors(folder, f"{family.name}."))
    return *hugging_face.load(folder), {}


def _images(folder: Path) -> ImageFamily | None:
    if peft.is_folder(folder):  # an adapter, whose base is a language model
        return None
    return IMAGES.get(hugging_face.read_config(folder)["model_type"])
