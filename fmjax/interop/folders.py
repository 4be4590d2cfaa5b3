"""A folder of weights from elsewhere, of transformers or of timm: its config.json says which."""

from pathlib import Path
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from fmjax.core.types import Tree
from fmjax.interop import hugging_face, timm
from fmjax.interop.hub import locate


def is_folder(path: str | Path) -> bool:
    """Whether a folder holds a model of transformers or of timm."""
    return hugging_face.is_folder(path) or timm.is_folder(path)


def describe(path: str | Path) -> ConfigDict:
    """The call of the model in a folder, or of a hub id.

    Raises:
      UserError: as `describe` of hugging_face and of timm.
    """
    folder = locate(path)
    return (timm if timm.is_folder(folder) else hugging_face).describe(folder)


def load(path: str | Path) -> tuple[nn.Module, Tree, dict[str, Any]]:
    """(module, weights, other variables) of a folder or hub id; a language model has no others.

    Raises:
      UserError: as `load` of hugging_face and of timm.
    """
    folder = locate(path)
    return timm.load(folder) if timm.is_folder(folder) else (*hugging_face.load(folder), {})
