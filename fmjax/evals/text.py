"""Language modelling: how many nats, choices and bits the text costs."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.types import Batch, Mean
from fmjax.evals.means import losses
from fmjax.evals.prediction import Outputs, read, undefined


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood a token (the `loss`); infinite where that overflows."""

    def sums(self, outputs: Outputs, batch: Batch) -> Mean:
        return Mean.of(*losses(outputs, batch))

    def result(self, sums: Mean) -> dict[str, float]:
        if sums.weight == 0:
            undefined("the perplexity of no tokens is undefined")
            return {"": float("nan")}
        with np.errstate(over="ignore"):
            return {"": float(np.exp(sums.sum / sums.weight))}


class Bits(NamedTuple):
    """Summed nats and bytes."""

    nats: jax.Array
    bytes: jax.Array


@dataclasses.dataclass(frozen=True)
class BitsPerByte:
    """Summed negative log-likelihood in bits over the bytes of text predicted; does not depend on the tokenizer.

    The batch says in `bytes` (B,) how many bytes the targets of each row stand for.
    """

    def sums(self, outputs: Outputs, batch: Batch) -> Bits:
        size = jnp.asarray(read(batch, "bytes", "batch"), jnp.float32)
        valid = jnp.asarray(batch.get("valid", jnp.ones(size.shape)))
        return Bits(Mean.of(*losses(outputs, batch)).sum, jnp.where(valid == 0, 0.0, size).sum())

    def result(self, sums: Bits) -> dict[str, float]:
        if sums.bytes == 0:
            undefined("the bits per byte of no bytes are undefined")
            return {"": float("nan")}
        return {"": float(sums.nats / np.log(2) / sums.bytes)}
