"""What a family of image models is: timm's names of its members, a table of options, and one of weights."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten, nested
from fmjax.core.types import Tree
from fmjax.interop.family import check_kinds, fields_of, same_value
from fmjax.interop.layouts import Row, Shape
from fmjax.interop.options import Json, Option, read_options, write_options
from fmjax.interop.rows import check_written, found_rows, read_rows
from fmjax.interop.tensors import Tensors
from fmjax.nn.convolution import pair

# What changes how a model is trained or computed, but not what it says.
FREE = {"zero_last", "momentum", "dropout", "attention_dropout", "drop_path", "backend", "attention", "scan", "remat",
        "resize", "dtype"}  # fmt: skip
SIZE = 64  # of an image to find the shapes of weights with, where the model does not say


@dataclasses.dataclass(frozen=True)
class ImageFamily:
    """Models of one class that timm knows by name.

    Attributes:
      name: in messages.
      architectures: {timm's name: our call}; what a config.json says besides under `model_args` changes its fields.
      options: the lines of `model_args`, and num_classes.
      rows: the table of weights of a module; the first is the kernel that sees the image.
      pretrained: lines of `pretrained_cfg` that timm takes from there when it changes the channels or the classes.
      plain: the fields that count for the function.
    """

    name: str
    architectures: Mapping[str, partial]
    options: tuple[Option, ...]
    rows: Callable[[nn.Module], tuple[Row, ...]]
    pretrained: Mapping[str, Any]
    plain: Callable[[dict[str, Any]], dict[str, Any]] = dict

    @property
    def kind(self) -> type[nn.Module]:
        """The class of all of them."""
        return next(iter(self.architectures.values())).func

    def lines(self, fields: Mapping[str, Any]) -> Json:
        """The options of a model, all written out."""
        return write_options(self.options, fields)

    def describe(self, architecture: str, given: Json) -> ConfigDict:
        """The call of a model.

        Raises:
          ConfigError: an option that fmjax has not.
        """
        start = self.architectures[architecture]
        fields = read_options(self.options, {**self.lines(fields_of(start())), **given}, None)
        check_kinds(start.func, fields)
        return call(start, **fields)

    def named(self, module: nn.Module) -> tuple[str, Json, dict[str, tuple[Any, Any]]]:
        """(the architecture nearest to a module, the options that differ from it, fields that it cannot hold)."""
        ours, best = self._counting(fields_of(module)), None
        lines = self.lines(fields_of(module))
        for name, start in self.architectures.items():
            usual = self.lines(fields_of(start()))
            changed = {key: value for key, value in lines.items() if usual.get(key) != value}
            theirs = self._counting(fields_of(build(self.describe(name, changed))))
            differs = {k: (v, theirs[k]) for k, v in ours.items() if not same_value(v, theirs[k])}
            if best is None or (len(differs), len(changed)) < (len(best[2]), len(best[1])):
                best = (name, changed, differs)
        return best

    def read(self, module: nn.Module, tensors: Tensors) -> tuple[Tree, Tree]:
        """(weights, other variables) of `module`, nested dicts of numpy arrays in float32.

        Raises:
          CheckpointError: tensors that are missing, of another shape, or that nobody reads: it lists them.
        """
        rows = self.rows(module)
        seen = tensors.shape(rows[0].name) if rows[0].name in tensors else ()
        ours, kinds = shapes(module, seen[1] if len(seen) == 4 else 3)
        found = found_rows(self.name, rows, ours, tensors, {}, (r"\.num_batches_tracked$",))
        flat = read_rows(self.name, rows, ours, tensors, found)
        parts: dict[str, dict[str, np.ndarray]] = {}
        for address, x in flat.items():
            parts.setdefault(kinds[address], {})[address] = x
        return nested(parts.pop("params")), {kind: nested(part) for kind, part in parts.items()}

    def written(
        self, module: nn.Module, params: Tree, mutable: Tree
    ) -> tuple[int, dict[str, Shape], Callable[[str], np.ndarray]]:
        """(channels of the images, {name: shape} of the tensors to write, what gives one).

        Raises:
          CheckpointError: the weights are not those of the module.
        """
        flat = flatten(params)
        for part in mutable.values():
            flat |= flatten(part)
        rows = self.rows(module)
        seen = flat.get(rows[0].addresses[0])
        channels = np.shape(seen)[2] if np.ndim(seen) == 4 else 3
        ours, _ = shapes(module, channels)
        check_written(self.name, rows, ours, flat)
        by_name = {row.name: row for row in rows}
        return channels, {name: row.shape(ours) for name, row in by_name.items()}, lambda n: by_name[n].write(flat)

    def _counting(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in self.plain(fields).items() if k not in FREE}


def described(folder: Path, family: ImageFamily, architecture: str, given: Json) -> ConfigDict:
    """The call of the model in a folder, whose config.json says `given`.

    Raises:
      ConfigError: an option that fmjax has not.
    """
    try:
        return family.describe(architecture, given)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise ConfigError(f"{folder / 'config.json'} holds a value of the wrong kind: {error}") from None


@lru_cache(maxsize=16)
def shapes(module: nn.Module, channels: int) -> tuple[Mapping[str, Shape], Mapping[str, str]]:
    """({address: shape}, {address: collection}) of a module's variables, without making them."""
    size = pair(getattr(module, "image_size", SIZE))
    image = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    kinds = {address: kind for kind, tree in variables.items() for address in flatten(tree)}
    flat = {address: tuple(x.shape) for tree in variables.values() for address, x in flatten(tree).items()}
    return types.MappingProxyType(flat), types.MappingProxyType(kinds)
