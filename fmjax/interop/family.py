"""What a family of models is: a table of weights, a table of options, and the ways through them in both directions."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from fmjax.core.config import build, call, hints, members
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.trees import flatten, nested
from fmjax.interop.layouts import Row, Shape, expand
from fmjax.interop.options import Json, Option, read_options, write_options
from fmjax.interop.rows import check_written, found_rows, read_rows
from fmjax.interop.tensors import Tensors

# What changes how a model is trained or computed, but not what it says.
FREE = {"parent", "name", "scan", "remat", "attention", "dtype", "dropout", "attention_dropout", "drop_path", "balance",
        "router_z"}  # fmt: skip
# Fields that count for nothing unless another one has such a value.
ONLY_WITH = {
    ("length", "first_position"): lambda f: f["position"] == "learned",
    ("rope_base", "rope_scaling", "rope_factor", "rope_length", "rope_base_local"): lambda f: f["position"] == "rotary",
    ("experts_top", "experts_shared", "experts_every", "experts_capacity"): lambda f: f["experts"] > 0,
    ("rope_length",): lambda f: f["rope_scaling"] in ("yarn", "llama3"),
    ("rope_factor",): lambda f: f["rope_scaling"] != "none",
    ("buckets",): lambda f: bool(f["ngrams"]),
    ("qkv_bias",): lambda f: not f["use_bias"],
    ("full_every", "rope_base_local"): lambda f: f["window"] is not None,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
      name: the model_type.
      model: our class with the fields that all models of the family have.
      rows: the table of weights.
      options: the table of options.
      architecture: all fields, and `left_out` addresses -> the name of the class that transformers loads.
      bare: the name of the class without a head, whose tensors have no prefix.
      prefix: what tensors begin with in models with a head; `heads`: what tensors of heads begin with.
      aliases: {tensor: the one that it repeats}; `repeats`: more of them, when output weights are tied.
      skips: regular expressions of tensors that hold no weights.
      rename: older names -> those of today.
      defaults: lines to write that a caller may know better.
    """

    name: str
    model: partial
    rows: tuple[Row, ...]
    options: tuple[Option, ...]
    architecture: Callable[[Mapping[str, Any]], str]
    bare: str = ""
    prefix: str = ""
    heads: tuple[str, ...] = ("lm_head.",)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skips: tuple[str, ...] = ()
    rename: Callable[[str], str] = str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def tensors(self, folder: Any) -> Tensors:
        """The tensors of a folder, under the names of the table."""
        return Tensors(folder, self.prefix, self.rename)

    def describe(self, config: Json, tensors: Tensors) -> ConfigDict:
        """The call of the model that a config.json describes.

        Raises:
          ConfigError: an option that fmjax has not.
        """
        fields = read_options(self.options, config, tensors)
        check_kinds(self.model.func, fields)
        return call(self.model, **fields)

    def config(self, fields: Mapping[str, Any]) -> Json:
        """The config.json of a model, its architecture not yet said."""
        return {"model_type": self.name, **write_options(self.options, fields)}

    def differs(self, module: nn.Module) -> dict[str, tuple[Any, Any]]:
        """The fields that the family cannot hold: {field: (what it is, what it would come back as)}."""
        fields = fields_of(module)
        back = fields_of(build(call(self.model, **read_options(self.options, self.config(fields), Absent(fields)))))
        ours, theirs = plain(fields), plain(back)
        return {k: (v, theirs.get(k)) for k, v in ours.items() if not same_value(v, theirs.get(k))}

    def read(self, module: nn.Module, tensors: Tensors) -> dict[str, Any]:
        """The weights of `module`, a nested dict of numpy arrays in float32.

        Raises:
          CheckpointError: tensors that are missing, of another shape, or that nobody reads: it lists them.
        """
        ours = shapes(module)
        rows = expand(self.rows, ours)
        aliases = {**self.aliases, **(self.repeats if getattr(module, "tied", True) else {})}
        found = found_rows(self.name, rows, ours, tensors, aliases, self.skips)
        for name, other in aliases.items():
            if name in tensors and other in tensors and not tensors.repeats(name, other):
                raise CheckpointError(
                    f"{name} in {tensors.folder} differs from {other}, and config.json says that they are the same: if "
                    'the weights are right, write "tie_word_embeddings": false'
                )
        return nested(read_rows(self.name, rows, ours, tensors, found))

    def written(self, module: nn.Module, params: Any) -> tuple[str, dict[str, Shape], Callable[[str], np.ndarray]]:
        """(architecture, {name: shape} of the tensors to write, what gives one).

        Raises:
          CheckpointError: the weights are not those of the module.
        """
        ours, flat = shapes(module), flatten(params)
        architecture, by_name = self.named(module, flat)
        sizes = {name: row.shape(ours) for name, row in by_name.items()}
        return architecture, sizes, lambda name: by_name[name].write(flat)

    def named(self, module: nn.Module, flat: Mapping[str, Any]) -> tuple[str, dict[str, Row]]:
        """(architecture, {name of a tensor to write: its row}) of weights {address: array}.

        Raises:
          CheckpointError: the weights are not those of the module.
        """
        ours = shapes(module)
        rows = expand(self.rows, ours)
        check_written(self.name, rows, ours, flat)
        rows = [row for row in rows if not row.optional or any(np.any(np.asarray(flat[a])) for a in row.addresses)]
        left_out = {a for row in expand(self.rows, ours) for a in row.addresses} - {
            a for r in rows for a in r.addresses
        }
        architecture = self.architecture({**fields_of(module), "left_out": left_out})
        by_name = {}
        for row in rows:
            inside = architecture != self.bare and not row.name.startswith(self.heads)
            by_name[(self.prefix if inside else "") + row.name] = row
        return architecture, by_name


def check_kinds(fn: Callable, fields: Mapping[str, Any]) -> None:
    """Refuse fields of another kind than `fn` takes.

    Raises:
      ConfigError: there is one.
    """
    kinds_of = hints(fn)
    for field, value in fields.items():
        kinds = [typing.get_origin(kind) or kind for kind in members(kinds_of[field])]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ConfigError(f"{field} (in our words) is {value!r}, which is no {kinds_of[field]}")


class Absent:
    """Stands for a checkpoint's tensors when there is none: heads are there as the fields say."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields


def fields_of(module: nn.Module) -> dict[str, Any]:
    """The fields of a module, but for linen's own."""
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that count for the function: None written out, and what is unused left out."""
    size = fields["head_size"] or fields["width"] / fields["heads"]
    out = {
        **fields,
        "groups": fields["groups"] or fields["heads"],
        "head_size": size,
        "inner": fields["inner"] or 4 * fields["width"],
        "attention_scale": fields["attention_scale"] or size**-0.5,
    }
    if out["full_every"] == 1 or out["window"] is None:
        out |= {"full_every": 0, "window": None}
    if out["full_every"] > out["depth"]:
        out["full_every"] = 0
    if out["rope_scaling"] == "none":
        out["rope_base_local"] = out["rope_base_local"] or out["rope_base"]
    if "encoder_depth" in out:
        out["encoder_depth"] = out["encoder_depth"] or out["depth"]
    unused = {k for names, used in ONLY_WITH.items() if not used(out) for k in names}
    return {k: v for k, v in out.items() if k not in FREE | unused}


@functools.lru_cache(maxsize=16)
def shapes(module: nn.Module) -> Mapping[str, Shape]:
    """{address: shape} of a module's weights, without making them."""
    tokens = jax.ShapeDtypeStruct((1, 2), np.int32)
    inputs = (tokens, tokens) if hasattr(module, "encoder_depth") else (tokens,)
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    flat = flatten(variables["params"])
    return types.MappingProxyType({address: tuple(leaf.shape) for address, leaf in flat.items()})


def same_value(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (a, b))
    return math.isclose(a, b, rel_tol=1e-9) if numbers else a == b
