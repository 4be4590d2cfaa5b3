"""Rotary positions in a config.json: `rope_parameters`, or `rope_theta` and `rope_scaling` of older files."""

import math
from collections.abc import Mapping
from typing import Any

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.interop.options import Json, Option

KINDS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
# What the published scalings leave open and fmjax does not: only these values.
ONLY = {
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "mscale": None, "mscale_all_dim": None},
}


def rotary(default: float = 10_000.0) -> Option:
    """Base and scaling of all blocks."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        lines = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
        return scaled(lines, lines.pop("rope_theta", config.get("rope_theta", default)), config)

    return Option(("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"), read, write)


def scaled(lines: Json, base: float, config: Json) -> dict[str, Any]:
    """The fields of one scaling.

    Raises:
      ConfigError: a kind that fmjax has not, or a setting of it.
    """
    lines = {k: v for k, v in lines.items() if v is not None}
    old = lines.pop("type", "default")
    kind = lines.pop("rope_type", old)
    if kind not in KINDS:
        raise ConfigError(f"rope_scaling of the type {kind!r} is none that fmjax has; {did_you_mean(kind, KINDS)}")
    part = lines.pop("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)
    if part != 1.0:
        raise ConfigError(f"partial_rotary_factor={part} is not supported: all of a head is turned")
    fields = {"rope_base": float(base), "rope_scaling": KINDS[kind], "rope_factor": 1.0, "rope_length": 0}
    if kind != "default":
        if "factor" not in lines:
            raise ConfigError(f"rope_scaling of the type {kind!r} needs a factor")
        fields["rope_factor"] = float(lines.pop("factor"))
    if kind in ONLY:
        length = lines.pop("original_max_position_embeddings", config.get("max_position_embeddings"))
        if length is None:
            raise ConfigError(f"rope_scaling of the type {kind!r} needs original_max_position_embeddings")
        fields["rope_length"] = int(length)
    only = dict(ONLY.get(kind, {}))
    if kind == "yarn":
        only["attention_factor"] = 0.1 * math.log(fields["rope_factor"]) + 1.0
    lines.pop("original_max_position_embeddings", None)  # says nothing to the other kinds
    for key, value in lines.items():
        if key not in only:
            raise ConfigError(f"the option {key}={value!r} of rope_scaling is not known here")
        if only[key] is None or not math.isclose(value, only[key], rel_tol=1e-6):
            raise ConfigError(f"rope_scaling with {key}={value!r} is not supported: only {only[key]!r} is")
    return fields


def write(fields: Mapping[str, Any]) -> Json:
    """The older form, which every version of transformers reads."""
    kind = next((theirs for theirs, ours in KINDS.items() if ours == fields["rope_scaling"]), "default")
    out: Json = {"rope_theta": fields["rope_base"], "rope_scaling": None}
    if kind != "default":
        out["rope_scaling"] = {"rope_type": kind, "factor": fields["rope_factor"]}
    if kind in ONLY:
        out["rope_scaling"]["original_max_position_embeddings"] = fields["rope_length"]
    if kind == "llama3":
        out["rope_scaling"] |= ONLY["llama3"]
    return out


def rotary_of_two(default: float = 1_000_000.0, local: float = 10_000.0) -> Option:
    """Base and scaling of the blocks that see all, and the base of those with a window (Gemma 3)."""
    keys = ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")

    def read(config: Json, _: Any) -> dict[str, Any]:
        both = config.get("rope_parameters") or {}
        if both.keys() - {"full_attention", "sliding_attention"}:
            raise ConfigError("rope_parameters must hold full_attention and sliding_attention")
        far = {**(both.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
        near = dict(both.get("sliding_attention") or {})
        fields = scaled(far, far.pop("rope_theta", config.get("rope_theta", default)), config)
        base = near.pop("rope_theta", config.get("rope_local_base_freq", local))
        if scaled(near, base, config)["rope_scaling"] != "none":
            raise ConfigError("rope_scaling of the blocks with a window is not supported")
        return {**fields, "rope_base_local": float(base)}

    def both_written(fields: Mapping[str, Any]) -> Json:
        return {**write(fields), "rope_local_base_freq": fields["rope_base_local"] or fields["rope_base"]}

    return Option(keys, read, both_written)
