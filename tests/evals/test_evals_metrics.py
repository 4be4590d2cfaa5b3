"""What holds for every metric: state adds in any order, padding is nothing, perfect is 1 and a guess is chance."""

import functools
import inspect

import jax
import numpy as np
import pytest
from evals_scoring import batches, collect, compiled, score

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.evals import metrics
from fmjax.evals.prediction import undefined

C = 3
CLASSES = {
    "loss": metrics.loss,
    "nll": metrics.nll,
    "accuracy": metrics.accuracy,
    "exact_match": metrics.exact_match,
    "brier": metrics.brier,
    "top2": metrics.TopK(2),
    "precision": metrics.Precision,
    "recall": metrics.Recall,
    "f1": metrics.F1("weighted"),
    "report": metrics.ClassificationReport,
    "confusion": metrics.ConfusionMatrix,
    "matthews": metrics.MatthewsCorrelation,
    "ece": metrics.CalibrationError(5),
    "ace": metrics.EqualMassCalibrationError(5),
    "auc": metrics.RocAuc,
    "ap": metrics.AveragePrecision,
    "perplexity": metrics.Perplexity,
    "bpb": metrics.BitsPerByte,
    "interval": metrics.Bootstrapped(metrics.accuracy, resamples=20),
}
VALUES = {"mse": metrics.mean_squared_error, "mae": metrics.mean_absolute_error, "r2": metrics.R2}
EVERY = CLASSES | VALUES


@functools.cache
def data(name, n=23, tokens=0):
    rng = np.random.default_rng(0)
    shape = (n, tokens) if tokens else (n,)
    weights = np.ones(shape, np.float32)
    if tokens:
        weights[:, -1] = rng.integers(0, 2, n)
    batch = {"bytes": rng.integers(1, 9, n).astype(np.int32)}
    if name in VALUES:
        values, targets = rng.normal(size=(2, *shape)).astype(np.float32)
        return {"values": values, "targets": targets, "weights": weights}, batch
    logits, targets = rng.normal(size=(*shape, C)).astype(np.float32), rng.integers(0, C, shape).astype(np.int32)
    return {"logits": logits, "targets": targets, "weights": weights}, batch


def close(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_every_metric_that_a_config_can_name_is_tested_here():
    names = set(metrics.__all__) - {"Rows", "Sums", "SampleMean", "UndefinedMetric", "resolve"}
    tested = {getattr(m, "__name__", type(m).__name__) for m in EVERY.values()}
    assert names == tested


@pytest.mark.parametrize("name", EVERY)
def test_padded_batches_equal_one_batch_whatever_the_padding_holds(name):
    outputs, batch = data(name, tokens=4)
    whole = score(EVERY[name], outputs, batch, size=23)
    for garbage in (np.nan, np.inf):
        close(whole, score(EVERY[name], outputs, batch, garbage=garbage))


@pytest.mark.parametrize("name", [n for n, m in EVERY.items() if hasattr(metrics.resolve(n, m), "sums")])
def test_sums_merge_associatively(name):
    parts = [compiled(EVERY[name], "sums")(*piece) for piece in batches(*data(name, n=18))]
    a, b, c, d = (jax.tree.map(lambda x: np.asarray(x, np.float64), part) for part in parts)
    add = functools.partial(jax.tree.map, np.add)
    result = metrics.resolve(name, EVERY[name]).result
    close(result(add(add(add(a, b), c), d)), result(add(add(d, c), add(b, a))), 1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_a_nan_among_valid_logits_gives_nan_and_never_a_plausible_number(name):
    outputs, batch = data(name)
    logits = outputs["logits"].copy()
    logits[3] = np.nan
    found = score(EVERY[name], {**outputs, "logits": logits}, batch)
    assert np.isnan(next(iter(found.values()))).any()


PERFECT = {
    "loss": 0, "nll": 0, "brier": 0, "ece": 0, "ace": 0, "perplexity": 1, "bpb": 0, "mse": 0, "mae": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_a_perfect_model_scores_exactly_one(name):
    outputs, batch = data(name)
    targets = outputs["targets"]
    if name in VALUES:
        found = score(EVERY[name], {**outputs, "values": targets}, batch)
    else:
        found = score(EVERY[name], {**outputs, "logits": 200 * np.eye(C, dtype=np.float32)[targets]}, batch)
    if name == "confusion":
        np.testing.assert_array_equal(found[""], np.diag(np.bincount(targets)))
    else:
        numbers = [v for k, v in found.items() if np.ndim(v) == 0 and k != "se"]
        assert numbers == [PERFECT.get(name, 1.0)] * len(numbers)


CHANCE = {"accuracy": 1 / C, "exact_match": 1 / C, "top2": 2 / C, "precision": 1 / C, "recall": 1 / C, "f1": 1 / C,
          "auc": 1 / 2, "ap": 1 / C, "interval": 1 / C}  # fmt: skip


@pytest.mark.parametrize("name", CHANCE)
def test_a_random_model_scores_chance(name):
    outputs, batch = data(name, n=1500)
    assert score(EVERY[name], outputs, batch)[""] == pytest.approx(CHANCE[name], abs=0.04)


@pytest.mark.parametrize("name", EVERY)
def test_nothing_weighed_is_nan_with_a_warning_and_no_crash(name):
    outputs, batch = data(name)
    outputs = {**outputs, "weights": np.zeros_like(outputs["weights"])}
    batch = {"bytes": np.zeros_like(batch["bytes"])}
    found = collect(EVERY[name], batches(outputs, batch))
    if name == "confusion":
        return
    undefined.cache_clear()
    with pytest.warns(metrics.UndefinedMetric, match="NaN"):
        result = metrics.resolve(name, EVERY[name]).result(found)
    assert np.isnan(next(iter(result.values())))


def test_valid_alone_leaves_padding_out_where_a_prediction_gives_no_weights():
    outputs, batch = data("accuracy")
    bare = {k: v for k, v in outputs.items() if k != "weights"}
    assert score(metrics.accuracy, bare, batch) == score(metrics.accuracy, outputs, batch)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"logits": (5, 3), "targets": (5, 2)}, r"logits \(5, 3\) with targets \(5, 2\)"),
        ({"logits": (5, 4, 3), "targets": (5,)}, r"logits \(5, 4, 3\) with targets \(5,\)"),
        ({"logits": (5, 3), "targets": (5,), "weights": (5, 2)}, r"weights of shape \(5, 2\)"),
        ({"logits": (5, 3)}, "no 'targets'"),
        ({"values": (5,), "targets": (5,)}, "no 'logits'"),
    ],
)
def test_shapes_that_fit_nothing_are_refused(shapes, message):
    outputs = {k: np.zeros(shape, np.int32 if k == "targets" else np.float32) for k, shape in shapes.items()}
    with pytest.raises(ConfigError, match=message):
        score(metrics.accuracy, outputs)


@pytest.mark.parametrize("name", [n for n in metrics.__all__ if hasattr(getattr(metrics, n), "result")])
def test_every_class_can_be_written_in_a_config_and_built(name):
    kind = getattr(metrics, name)
    if "metric" in inspect.signature(kind).parameters:
        assert build(call(kind, metric=metrics.accuracy)).metric is metrics.accuracy
    elif name not in ("Rows", "Sums"):
        assert isinstance(build(call(kind)), kind)
