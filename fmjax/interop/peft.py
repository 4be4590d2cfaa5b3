"""Low-rank adapters in the file layout of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

Of a linear layer it keeps lora_A (rank, in) and lora_B (out, rank). GPT-2 has queries, keys and values in one layer,
and here each has a product of its own: written down they are one of the ranks' sum, whose lora_B has blocks.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.trees import flatten, nested
from fmjax.interop.family import Family, shapes
from fmjax.interop.layouts import Row, expand
from fmjax.interop.tensors import listed

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
LEAD, A, B, LENGTHS = "base_model.model.", ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
# Settings that change what an adapter computes, and the only value of each that is read here.
PLAIN = {
    "peft_type": ("LORA",), "bias": ("none", None), "modules_to_save": (None, []), "trainable_token_indices": (None,),
    "lora_bias": (False, None), "use_qalora": (False, None), "layer_replication": (None,), "alora_invocation_tokens":
    (None,), "target_parameters": (None, []), "arrow_config": (None,), "use_bdlora": (None, False),
}  # fmt: skip


def is_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter in this layout."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a folder.

    Raises:
      CheckpointError: it cannot be read. ConfigError: a kind of adapter that fmjax has not.
    """
    try:
        config = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error}") from None
    for key, values in PLAIN.items():
        if key in config and config[key] not in values:
            raise ConfigError(f"{folder / CONFIG}: {key}={config[key]!r} is not supported: only {values[0]!r}")
    return config


def base_of(folder: Path) -> str:
    """The model that an adapter stands on, as its file names it."""
    if not (base := read_config(folder).get("base_model_name_or_path")):
        raise ConfigError(f"{folder / CONFIG} names no base_model_name_or_path: write the folder of its base there")
    return base


def merged(folder: Path, family: Family, module: nn.Module, params: Any) -> dict[str, Any]:
    """The weights of a base with the adapter of `folder` merged into them.

    Raises:
      CheckpointError: an adapter for another base, or a damaged file.
    """
    config, tensors, flat, ours = read_config(folder), _read(folder), flatten(params), shapes(module)
    rows = {row.name.removesuffix(".weight"): row for row in expand(family.rows, ours)}
    layers = sorted({re.sub(r"\.lora_\w+(\.weight)?$", "", name) for name in tensors})
    strange = [layer for layer in layers if layer.removeprefix(LEAD).removeprefix(family.prefix) not in rows]
    if strange or not layers:
        raise CheckpointError(
            f"{folder / FILE} is an adapter for another base: this {family.name} model has no {listed(strange, 3)}"
        )
    for layer in layers:
        name = layer.removeprefix(LEAD)
        row = rows[name.removeprefix(family.prefix)]
        weight = row.write({a: flat[a] for a in row.addresses})
        weight = weight.T if config.get("fan_in_fan_out") else weight  # (out, in)
        try:
            down, up = tensors[layer + A], tensors[layer + B]
        except KeyError as error:
            raise CheckpointError(f"{folder / FILE} lacks {error.args[0]}") from None
        if (up.shape[0], down.shape[1]) != weight.shape or up.shape[1] != down.shape[0]:
            raise CheckpointError(
                f"{folder / FILE} is an adapter for another base: {name} maps {down.shape[1]} to {up.shape[0]} there "
                f"and {weight.shape[1]} to {weight.shape[0]} in this model"
            )
        weight = weight + _scale(config, name, len(down)) * (up @ down)
        if layer + LENGTHS in tensors:
            weight = weight * (tensors[layer + LENGTHS] / np.linalg.norm(weight, axis=1))[:, None]
        weight = weight.T if config.get("fan_in_fan_out") else weight
        flat |= row.read(np.ascontiguousarray(weight, np.float32), ours)
    return nested(flat)


def save(
    folder: Path, family: Family, module: nn.Module, params: Any, own: Any, scale: float, base: str | None = None
) -> int:
    """Write the products of an adapted model as an adapter; returns the bytes of its numbers.

    Args:
      folder: there, and empty.
      params: merged weights, at our addresses.
      own: the small tree {address: {"down", "up"[, "magnitude"]}}.
      scale: of the products.
      base: folder or hub id of the model that they stand on.

    Raises:
      ConfigError: weights that moved as a whole, or a kernel that is no layer of its own in the family's table.
    """
    parts, ours = flatten(own), shapes(module)
    if odd := sorted(name for name in parts if name.rpartition("/")[0] not in ours):
        raise ConfigError(f"an adapter's file holds products only, and these weights move whole: {listed(odd, 3)}")
    if not parts:
        raise ConfigError("nothing of this model is adapted by a product")
    architecture, rows = family.named(module, flatten(params))
    left = {name.rpartition("/")[0] for name in parts}
    tensors, ranks = {}, {}
    for name, row in rows.items():
        if not left & set(row.addresses):
            continue
        layer = name.removesuffix(".weight")
        tensors |= _layer(LEAD + layer, row, parts, ours)
        ranks[layer] = len(tensors[LEAD + layer + A])
        left -= set(row.addresses)
    if left:
        raise ConfigError(f"the {family.name} family has no layer for {listed(sorted(left), 3)}")
    r = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {layer: rank for layer, rank in ranks.items() if rank != r}
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": r, "lora_alpha": scale * r, "lora_dropout": 0.0,
        "bias": "none", "use_rslora": False, "use_dora": any(name.endswith("/magnitude") for name in parts),
        "fan_in_fan_out": family.name == "gpt2", "target_modules": sorted(ranks), "rank_pattern": others,
        "alpha_pattern": {layer: scale * rank for layer, rank in others.items()}, "inference_mode": True,
        "task_type": "CAUSAL_LM" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else None,
    }  # fmt: skip
    # The library writes bytes as they lie, and a transposed array lies in another order than its shape says.
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sum(x.nbytes for x in tensors.values())


def _layer(layer: str, row: Row, parts: Mapping[str, np.ndarray], ours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of one of their layers, which may be several kernels of ours side by side."""
    downs, ups, lengths = [], [], []
    for address in row.addresses:
        size, there = math.prod(ours[address]), f"{address}/down" in parts
        down = np.asarray(parts[f"{address}/down"], np.float32) if there else None
        if there:
            downs.append(down.reshape(-1, down.shape[-1]).T)
            up = np.asarray(parts[f"{address}/up"], np.float32)
            ups.append(up.reshape(len(up), -1).T)
        else:
            ups.append(size)  # its outputs get zeros, once it is known how many
        if f"{address}/magnitude" in parts:
            lengths.append(np.asarray(parts[f"{address}/magnitude"], np.float32).reshape(-1))
    inputs = downs[0].shape[1]
    ups = [np.zeros((up // inputs, 0), np.float32) if isinstance(up, int) else up for up in ups]
    if lengths and len(lengths) < len(row.addresses):
        raise ConfigError(f"{layer} is {', '.join(row.addresses)} at once: adapt all of them by dora, or none")
    rank, column = sum(len(x) for x in downs), 0
    blocks = np.zeros((sum(len(up) for up in ups), rank), np.float32)
    for i, up in enumerate(ups):
        start = sum(len(x) for x in ups[:i])
        blocks[start : start + len(up), column : column + up.shape[1]] = up
        column += up.shape[1]
    out = {layer + A: np.concatenate(downs), layer + B: blocks}
    return out | ({layer + LENGTHS: np.concatenate(lengths)} if lengths else {})


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """What the product of a layer is multiplied by."""
    patterns = config.get("alpha_pattern") or {}
    own = [alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", name)]
    alpha = own[0] if own else config.get("lora_alpha", 8)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _read(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} has {CONFIG} and no {FILE}: pickles are not read")
    try:
        with safe_open(folder / FILE, framework="np") as file:
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / FILE} is damaged or no safetensors file: {error}") from None
