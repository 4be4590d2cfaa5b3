"""Maps: what a convolution answers to at each place of an image, and where a ViT's attention goes."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net, named
from fmjax.core.types import Batch
from fmjax.evals.evaluators import Predict, Report
from fmjax.evals.pictures import class_name, grey, over, picture, shown


def inside(net: Net, *args: Any, calls: bool = True) -> dict[str, jax.Array]:
    """{address: array} of what the modules inside a net give for `args` in evaluation mode, and of what they sow.

    A module's answer has its address ("" for the whole net's), the first of it where it answers with several; what is
    sown has its name besides ("encoder/block_0/attention/weights"). A scanned stack is unrolled for it. Without
    `calls` only what is sown.
    """
    module = net.module.clone(scan=False) if getattr(net.module, "scan", False) else net.module
    _, seen = module.apply(
        {"params": net.params, **net.mutable}, *args, train=False, mutable=["intermediates"],
        capture_intermediates=(lambda inner, method: method == "__call__") if calls else False,
    )  # fmt: skip
    return named(seen.get("intermediates", {}))


def rollout(weights: Float[Array, "L B T T"]) -> Float[Array, "B T T"]:
    """How much of each token's input reaches each token after L layers (arXiv 2005.00928).

    The weights are means over heads; half of what a layer passes on is its input, by way of the residual.
    """
    passed = 0.5 * weights + 0.5 * jnp.eye(weights.shape[-1])
    total = passed[0] / passed[0].sum(-1, keepdims=True)
    for layer in passed[1:]:
        total = jnp.matmul(layer / layer.sum(-1, keepdims=True), total, precision="highest")
    return total


@dataclasses.dataclass(frozen=True)
class Features:
    """`(nets, batch) -> {"maps"}` (B, H, W, C): what a module inside a net gives."""

    address: str
    net: str = "model"

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        found = {k: v for k, v in inside(nets[self.net], batch["image"]).items() if jnp.ndim(v) == 4}
        if self.address not in found:
            raise ConfigError(
                f"no module {self.address!r} of the net gives maps (rows, columns, channels); "
                f"{did_you_mean(self.address, found)}"
            )
        return {"maps": found[self.address].astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class Attended:
    """`(nets, batch) -> {"heads", "rollout"}`, (B, heads, h, w) and (B, h, w): where a ViT looks.

    The rows are those of the class token; without one, the means over all patches.
    """

    block: int = -1
    net: str = "model"

    def __call__(self, nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
        net, image = nets[self.net], batch["image"]
        sown = {k: v for k, v in inside(net, image, calls=False).items() if k.endswith("attention/weights")}
        layers = [sown[name] for name in sorted(sown, key=_natural)]
        patch = getattr(net.module, "patch", None)
        if not layers or patch is None:
            raise ConfigError(
                f"{type(net.module).__name__} shows no attention over patches: attention_maps wants a ViT"
            )
        if not -len(layers) <= self.block < len(layers):
            raise ConfigError(f"there is no block {self.block}: the net has {len(layers)}, from 0 (or -1, the last)")
        sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
        grid = tuple(side // p for side, p in zip(image.shape[1:3], sides, strict=True))
        before = layers[0].shape[-1] - math.prod(grid)  # class token and registers
        if before < 0 or any(layer.shape[-2:] != layers[0].shape[-2:] for layer in layers):
            raise ConfigError("attention_maps wants blocks in which every token may see every other")

        def looked(rows: jax.Array) -> jax.Array:
            """From (..., T, T) to (..., h, w)."""
            has_token = getattr(net.module, "pool", "token") == "token" and before > 0
            row = rows[..., 0, before:] if has_token else rows[..., before:, before:].mean(-2)
            return row.reshape(*row.shape[:-1], *grid)

        means = jnp.stack([layer.mean(1) for layer in layers])
        return {"heads": looked(layers[self.block]), "rollout": looked(rollout(means))}


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """An evaluator that reports pictures of the first images; made by `feature_maps` and `attention_maps`."""

    data: Any
    predict: Features | Attended
    images: int = 4
    most: int = 12
    every: int = 0
    _jitted: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def check(self, predict: Predict, state: Any, batch: Batch) -> None:
        """Trace one batch of shapes.

        Raises:
          ConfigError: no images, or a net without such maps.
        """
        jax.eval_shape(lambda state, batch: self._look(predict, state, batch), state, batch)

    def evaluate(self, predict: Predict, state: Any, feed: Callable[[Any], Iterable[Batch]]) -> Report:
        """Artifact "maps": for each image itself, then its maps."""
        batches = feed(self.data)
        try:
            batch = next(iter(batches))
        finally:
            getattr(batches, "close", lambda: None)()
        where = getattr(batch["valid"], "sharding", None)
        whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None
        if (predict, whole) not in self._jitted:
            look = lambda state, batch: self._look(predict, state, batch)  # noqa: E731
            self._jitted[predict, whole] = jax.jit(look, out_shardings=whole)
        found = jax.device_get(self._jitted[predict, whole](state, batch))
        rows: list[dict[str, str]] = []
        channels = _busiest(found["maps"], self.most) if "maps" in found else ()
        for i in np.flatnonzero(found["valid"] > 0).tolist():
            image = np.asarray(found["image"][i])
            name = f" ({class_name(int(found['label'][i]), self.data)})" if "label" in found else ""
            group = f"image {i}{name}"
            rows.append(picture(shown(image), "image", group))
            for c in channels:
                values = found["maps"][i, :, :, c]
                rows.append(picture(grey(values), f"channel {c}: {values.min():.3g} to {values.max():.3g}", group))
            if "heads" in found:
                for h, weights in enumerate(found["heads"][i, : self.most]):
                    rows.append(picture(over(image, weights), f"head {h}", group))
                rows.append(picture(over(image, found["rollout"][i]), "rollout", group))
        return Report(artifacts={"maps": rows})

    def _look(self, predict: Predict, state: Any, batch: Batch) -> dict[str, jax.Array]:
        if "image" not in batch or jnp.ndim(batch["image"]) != 4:
            raise ConfigError("maps are drawn of images, and the batch has none")
        first = {k: v[: self.images] for k, v in batch.items()}
        keep = [k for k in ("image", "valid", "label") if k in first and (k != "label" or first[k].ndim == 1)]
        return {**predict(state, first), **{k: first[k] for k in keep}}


def feature_maps(data: Any, address: str, images: int = 4, most: int = 12, every: int = 0, net: str = "model") -> Maps:
    """Pictures of what a convolution (or any module that keeps rows and columns) gives for the first images.

    Args:
      data: batches of one pass.
      address: of the module, such as "conv_1" or "stage_2/block_0".
      images: how many images.
      most: how many channels: those that vary most over these images.
      every: steps between evaluations while training; 0 is only at the end.
      net: which net.
    """
    return _maps(data, Features(address, net), images, most, every)


def attention_maps(
    data: Any, block: int = -1, images: int = 4, most: int = 12, every: int = 0, net: str = "model"
) -> Maps:
    """Pictures of what a ViT's class token looks at in the first images, head by head, and of the attention rollout.

    Args:
      data: batches of one pass.
      block: whose heads are shown; -1 is the last. The rollout is of all blocks.
      images: how many images.
      most: how many heads at most.
      every: steps between evaluations while training; 0 is only at the end.
      net: which net.
    """
    return _maps(data, Attended(block, net), images, most, every)


def _maps(data: Any, predict: Features | Attended, images: int, most: int, every: int) -> Maps:
    if getattr(data, "endless", False):
        raise ConfigError("an evaluator needs data that ends: use one_pass instead of stream")
    if min(images, most) < 1:
        raise ConfigError(f"images={images} and most={most} are at least 1")
    return Maps(data, predict, images, most, every)


def _busiest(maps: np.ndarray, most: int) -> list[int]:
    """The channels of (B, H, W, C) that vary most, in their order."""
    spread = np.nan_to_num(maps.std((0, 1, 2)))
    return sorted(np.argsort(-spread, kind="stable")[:most].tolist())


def _natural(name: str) -> list[Any]:
    """Block 10 comes after block 2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
