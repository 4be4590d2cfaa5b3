"""Scoring for tests: any metric on whole arrays, by way of padded batches whose padding holds garbage."""

import functools
import warnings

import jax
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmjax.evals.metrics import UndefinedMetric, resolve

BATCH = 5
ROWS = 13  # three batches, the last one with two rows of padding: few shapes, few compilations


def batches(outputs, batch=None, size=BATCH, garbage=np.nan):
    """(outputs, batch) pieces of `size` rows; the last padded with garbage and weight 0."""
    batch = batch or {}
    rows = len(next(iter(outputs.values())))
    valid = np.ones(rows, np.float32)
    for start in range(0, rows, size):
        cut = lambda x: _pad(np.asarray(x)[start : start + size], size, garbage)  # noqa: B023, E731
        piece = {"valid": _pad(valid[start : start + size], size, 0), **{k: cut(v) for k, v in batch.items()}}
        yield {k: cut(v) for k, v in outputs.items()}, piece


def _pad(x, size, garbage):
    fill = -1 if np.issubdtype(x.dtype, np.integer) else garbage
    return np.concatenate([x, np.full((size - len(x), *x.shape[1:]), fill, x.dtype)])


@functools.cache
def compiled(metric, part):
    return jax.jit(getattr(resolve("metric", metric), part))


def collect(metric, pieces):
    """What an evaluator would hand to `result`."""
    if hasattr(resolve("metric", metric), "sums"):
        parts = [jax.tree.map(lambda x: np.asarray(x, np.float64), compiled(metric, "sums")(*p)) for p in pieces]
        return jax.tree.map(lambda *x: sum(x), *parts)
    pieces = list(pieces)
    parts = [jax.tree.map(np.asarray, compiled(metric, "rows")(*p)) for p in pieces]
    real = [p[1]["valid"] != 0 for p in pieces]
    return {k: np.concatenate([part[k][r] for part, r in zip(parts, real, strict=True)]) for k in parts[0]}


def score(metric, outputs, batch=None, size=BATCH, garbage=np.nan):
    """The result of a metric, undefined ones without their warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetric)
        found = collect(metric, batches(outputs, batch, size, garbage))
        return resolve("metric", metric).result(found)


def probabilities(logits):
    """Softmax in float64."""
    p = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.float64(logits)))


def logits(*shape):
    """Logits on a coarse grid, so that there are many ties."""
    return hnp.arrays(np.float32, shape, elements=st.integers(-6, 6).map(lambda x: x / 2))


def labels(*shape, classes):
    """Labels: any, often with absent classes, sometimes with one class only."""
    return st.integers(1, classes).flatmap(
        lambda n: hnp.arrays(np.int32, shape, elements=st.integers(classes - n, classes - 1))
    )


def weights(*shape):
    return hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0]))
