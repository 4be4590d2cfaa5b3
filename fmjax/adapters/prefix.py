"""Prefixes: learned keys and values that every token attends to, besides those of the text.

They have a softmax of their own, and a gate that begins at zero, so that the first step sees the base (LLaMA-Adapter,
arXiv:2303.16199); prefix tuning (arXiv:2101.00190) has them in the softmax of the text and begins elsewhere. No token
is added, so positions, masks, packing and caches stay as they are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fmjax.adapters.adapter import Adapter, Shapes, must_pick
from fmjax.core.errors import ConfigError
from fmjax.nn.attention import Attention, attend

PART = "prefix"  # where the arrays lie, beside the layers of an attention
KEY = "/key/kernel"


@dataclasses.dataclass(frozen=True)
class Prefix:
    """attention(x) + tanh(gate) * attend(query(x), key, value) out, in the attentions of some key kernels.

    Queries are those before they are normalised and turned by positions: a prefix stands nowhere.

    Attributes:
      length: keys and values of each.
      targets: patterns of the key kernels.
    """

    length: int
    targets: tuple[str, ...]

    def picks(self, names: Shapes) -> list[str]:
        keys = [name for name, w in names.items() if name.endswith(KEY) and w.ndim == 3]
        return sorted({name for p in self.targets for name in must_pick(p, keys, "targets", "kernel of keys")})

    def place(self, name: str) -> str:
        return f"{name.removesuffix(KEY)}/{PART}"

    def fits(self, module: nn.Module, args: tuple, y: Any) -> bool:
        return isinstance(module, Attention)

    def begin(self, name: str, weight: jax.Array, rng: jax.Array) -> dict[str, jax.Array]:
        _, groups, size = weight.shape
        key, value = jax.random.normal(rng, (2, self.length, groups, size), weight.dtype)  # as of normalised tokens
        return {"key": key, "value": value, "gate": jnp.zeros(groups, weight.dtype)}

    def around(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        out, module = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or not isinstance(module, Attention):
            return out
        if not module.has_variable("params", PART):
            return out
        (y, cache), (x, *_) = out, args
        own, query, last = (module.get_variable("params", name) for name in (PART, "query", "out"))
        q_BTHK = jnp.tensordot(x.astype(y.dtype), query["kernel"].astype(y.dtype), 1)
        q_BTHK = q_BTHK + query["bias"].astype(y.dtype) if "bias" in query else q_BTHK
        k_BPGK, v_BPGK = (
            jnp.broadcast_to(own[name].astype(y.dtype), (len(x), *own[name].shape)) for name in ("key", "value")
        )
        seen_BTHK = attend(q_BTHK, k_BPGK, v_BPGK, scale=module.scale, backend="einsum")
        gate = jnp.repeat(jnp.tanh(own["gate"]), module.heads // len(own["gate"])).astype(y.dtype)
        return y + jnp.tensordot(seen_BTHK * gate[:, None], last["kernel"].astype(y.dtype), 2), cache


def prefix(
    length: int = 16,
    targets: tuple[str, ...] = (r"/attention/key/kernel$",),
    also: tuple[str, ...] | None = None,
    nets: tuple[str, ...] = (),
) -> Adapter:
    """Learned keys and values in every attention of a transformer, of text or of images.

    Args:
      length: of each prefix.
      targets: patterns of the kernels of keys in the attentions that get one; cross_attention may be among them.
      also: patterns of what moves as a whole beside it; None is what `config.init` left as initialised.
      nets: which nets are adapted; () is all that learn.

    Raises:
      ConfigError: a length below 1, or no targets.
    """
    if length < 1:
        raise ConfigError(f"length={length}: a prefix needs at least 1 key")
    if not targets:
        raise ConfigError("targets is empty: name patterns of kernels of keys")
    return Adapter(_none, Prefix(length, tuple(targets)), also, nets)


def _none(names: Shapes) -> list[str]:
    return []
