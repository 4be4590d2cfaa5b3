"""Vectors of texts: do similar texts have similar vectors, and is the partner of a pair found among all others?"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.intervals import bootstrap, standard_error
from fmjax.evals.prediction import Outputs, read, undefined

BLOCK = 1024  # rows whose similarities to all others exist at once


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How cosines of pairs agree with scores that people gave, `score` (B,) of the batch.

    "spearman" (of ranks, equal ones averaged) and "pearson", as `scipy.stats`; each with "_low" and "_high", a 95 %
    bootstrap interval over pairs.

    Attributes:
      resamples: of the bootstrap; 0 leaves it out.
      seed: of its draws.
    """

    resamples: int = 1000
    seed: int = 0

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        left, right = (_unit(read(outputs, key)) for key in ("vectors", "target_vectors"))
        return {"cosine": (left * right).sum(-1), "score": jnp.asarray(read(batch, "score", "batch"), jnp.float32)}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        both = np.stack([np.asarray(rows[key], np.float64) for key in ("cosine", "score")], 1)
        if len(both) < 2 or (both == both[0]).all(0).any():
            undefined("the correlation of values that do not vary is undefined")
            return dict.fromkeys(("spearman", "pearson"), float("nan"))
        out = {}
        for name, statistic in (("spearman", spearman), ("pearson", pearson)):
            out[name] = statistic(both)
            if self.resamples:
                interval = bootstrap(both, resamples=self.resamples, seed=self.seed, statistic=statistic)
                out |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return out


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Whether the partner of each text is among the nearest of all that there are, by cosine.

    "recall_K" is the share of texts whose partner is among the K nearest, "mrr" the mean of 1 / rank, both from the
    first side to the second and, with "back_" before the name, the other way round. A partner ranks behind all that
    are as near, so that equal vectors find nothing.

    Attributes:
      k: how many of the nearest count.
    """

    k: tuple[int, ...] = (1, 5, 10)

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise ConfigError(f"k are 1 or more, not {self.k}")

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        return {key: jnp.asarray(read(outputs, key), jnp.float32) for key in ("vectors", "target_vectors")}

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        left, right = (np.asarray(rows[key]) for key in ("vectors", "target_vectors"))
        out: dict[str, float] = {}
        for name, ranks in (("", partner_ranks(left, right)), ("back_", partner_ranks(right, left))):
            for k in self.k:
                out[f"{name}recall_{k}"] = float((ranks <= k).mean())
            out[f"{name}recall_{self.k[0]}_se"] = standard_error(ranks <= self.k[0])
            out[f"{name}mrr"] = float((1 / ranks).mean())
        return out


def partner_ranks(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(N,) rank, from 1, of document i among all by cosine with query i; behind those that are as near."""
    queries, documents = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, documents))
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        near = queries[start : start + BLOCK] @ documents.T
        own = near[np.arange(len(near)), start + np.arange(len(near))]
        ranks[start : start + BLOCK] = (~(near < own[:, None])).sum(1)  # beside a NaN, the partner ranks last
    return ranks


def pearson(both: np.ndarray) -> float:
    """Correlation of two columns (N, 2)."""
    x, y = (both - both.mean(0)).T
    return float(x @ y / np.sqrt((x @ x) * (y @ y))) if (x @ x) * (y @ y) > 0 else float("nan")


def spearman(both: np.ndarray) -> float:
    """Correlation of the ranks of two columns (N, 2)."""
    return pearson(np.stack([_ranks(column) for column in both.T], 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values getting the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _unit(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x, jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
