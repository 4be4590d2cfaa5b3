"""Which weight is split over which axes: named recipes of (address pattern, axes)."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.trees import address, flatten, map_with_address, matches
from fmjax.core.types import Tree

LARGEST = "largest"  # split the largest axis that divides, and small weights not at all
SMALL = 1024  # numbers; a weight below this costs more to gather than it saves

# Rules name the last axes of a weight; leading ones (a stack of scanned layers) stay whole.
# Experts come first in every list: their kernels are named like those of a feed-forward.
_EXPERT = (
    (r"experts/\w+/kernel$", ("expert", None, None)),
    (r"experts/\w+/bias$", ("expert", None)),
)
_TENSOR = (
    (r"experts/(gate|up)/kernel$", ("expert", None, "tensor")),
    (r"experts/(gate|up)/bias$", ("expert", "tensor")),
    (r"experts/down/kernel$", ("expert", "tensor", None)),
    (r"experts/down/bias$", ("expert", None)),
    (r"(query|key|value)/kernel$", (None, "tensor", None)),
    (r"(query|key|value)/bias$", ("tensor", None)),
    (r"attention/out/kernel$", ("tensor", None, None)),
    (r"(gate|up)/kernel$", (None, "tensor")),
    (r"(gate|up)/bias$", ("tensor",)),
    (r"down/kernel$", ("tensor", None)),
    (r"embed/embedding$", ("tensor", None)),
    (r"head/kernel$", (None, "tensor")),
)
_FSDP_TENSOR = (
    (r"experts/(gate|up)/kernel$", ("expert", "fsdp", "tensor")),
    (r"experts/(gate|up)/bias$", ("expert", "tensor")),
    (r"experts/down/kernel$", ("expert", "tensor", "fsdp")),
    (r"experts/down/bias$", ("expert", None)),
    (r"(query|key|value)/kernel$", ("fsdp", "tensor", None)),
    (r"(query|key|value)/bias$", ("tensor", None)),
    (r"attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"(gate|up)/kernel$", ("fsdp", "tensor")),
    (r"(gate|up)/bias$", ("tensor",)),
    (r"down/kernel$", ("tensor", "fsdp")),
    (r"embed/embedding$", ("tensor", "fsdp")),
    (r"head/kernel$", ("fsdp", "tensor")),
)
RECIPES: dict[str, tuple] = {
    "replicate": ((r".*", ()),),
    "fsdp": ((r".*", LARGEST),),
    "expert": (*_EXPERT, (r".*", ())),
    "tensor": (*_TENSOR, (r".*", ())),
    "fsdp_tensor": (*_FSDP_TENSOR, (r".*", LARGEST)),
}


def shard_params(params: Tree, mesh: Mesh, recipe: str | tuple) -> Tree:
    """A NamedSharding for every weight of `params` (arrays or shapes).

    Args:
      params: {net: tree}; the address of a leaf is "net/path".
      mesh: the devices.
      recipe: a name in RECIPES, or ((address pattern, axes or "largest"), ...), tried in order. An axis that does not
        divide its dimension is left whole.

    Raises:
      ConfigError: an unknown recipe, or a weight that no pattern covers.
    """
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise ConfigError(f"--config.sharding: there is no recipe {recipe!r}; {did_you_mean(recipe, RECIPES)}")
    rules = RECIPES[recipe] if isinstance(recipe, str) else recipe
    for axis in {axis for _, axes in rules if axes != LARGEST for axis in axes if axis} - set(mesh.shape):
        raise ConfigError(f"--config.sharding: there is no axis {axis!r}; {did_you_mean(axis, mesh.shape)}")

    def pick(name: str, leaf: Any) -> NamedSharding:
        for pattern, axes in rules:
            if matches(pattern, name):
                return NamedSharding(mesh, _spec(axes, leaf.shape, mesh))
        raise ConfigError(f"--config.sharding: no rule covers {name}: end with ('.*', ())")

    return map_with_address(pick, params)


def _spec(axes: Any, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if axes == LARGEST:
        n = mesh.shape["fsdp"]
        fits = [i for i, d in enumerate(shape) if d % n == 0]
        if n == 1 or math.prod(shape) < SMALL or not fits:
            return PartitionSpec()
        best = max(fits, key=lambda i: shape[i])
        return PartitionSpec(*(("fsdp" if i == best else None) for i in range(len(shape))))
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)[-len(shape) :] if shape else ()
    return PartitionSpec(*(a if a and d % mesh.shape[a] == 0 else None for a, d in zip(axes, shape)))


def shard_like(tree: Tree, params: Mapping[str, Any], shardings: Mapping[str, Any], mesh: Mesh) -> Tree:
    """Shardings for trees that mirror weights (moments, averages, target nets): a leaf whose address ends like a
    weight's, and has its shape, lies where the weight lies; everything else is on every device."""
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    flat = flatten(shardings)
    by_tail: dict[str, str] = {}
    for name in shapes:
        by_tail.setdefault(name.partition("/")[2], name)

    def pick(path: tuple, leaf: Any) -> NamedSharding:
        parts = address(path).split("/")
        for i in range(len(parts)):
            tail = "/".join(parts[i:])
            for name in (tail, by_tail.get(tail)):
                if name in shapes and shapes[name] == leaf.shape:
                    return flat[name]
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(pick, tree)
