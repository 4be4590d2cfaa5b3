"""Evaluators: every row counts once, padding never, and one compilation serves every evaluation."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Mean
from fmjax.evals import evaluators, metrics

C = 4


class Pass:
    """Batches of one pass over arrays held in memory; padded rows hold `garbage`."""

    endless = False

    def __init__(self, arrays, batch_size, garbage=0.0):
        self.arrays, self.batch_size, self.garbage = arrays, batch_size, garbage
        self.examples = len(next(iter(arrays.values())))

    def __iter__(self):
        for start in range(0, self.examples, self.batch_size):
            rows = {k: np.asarray(v[start : start + self.batch_size]) for k, v in self.arrays.items()}
            missing = self.batch_size - len(next(iter(rows.values())))
            valid = np.r_[np.ones(self.batch_size - missing), np.zeros(missing)].astype(np.float32)
            batch = {k: np.concatenate([v, self._padding(v, missing)]) for k, v in rows.items()}
            yield {**batch, "valid": valid}

    def _padding(self, v, missing):
        fill = -1 if np.issubdtype(v.dtype, np.integer) else self.garbage
        return np.full((missing, *v.shape[1:]), fill, v.dtype)


def feed(batches):
    yield from (jax.device_put(batch) for batch in batches)


def predict(state, batch):
    """The features are the logits, moved by the one weight there is."""
    out = {"logits": batch["features"] + state, "weights": batch["valid"]}
    return {**out, "targets": batch["label"]}


def classes(n, seed=0, garbage=0.0, batch_size=8):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, C)).astype(np.float32)
    return Pass({"features": logits, "label": rng.integers(0, C, n).astype(np.int32)}, batch_size, garbage)


ALL = {
    "loss": metrics.loss,
    "accuracy": metrics.accuracy,
    "top2": metrics.TopK(k=2),
    "brier": metrics.brier,
    "report": metrics.ClassificationReport,
    "confusion": metrics.ConfusionMatrix,
    "ece": metrics.CalibrationError,
    "ace": metrics.EqualMassCalibrationError,
    "auc": metrics.RocAuc,
    "ap": metrics.AveragePrecision,
    "perplexity": metrics.Perplexity,
    "interval": metrics.Bootstrapped(metrics.accuracy, resamples=50),
}


def same(a, b, tolerance=1e-6):
    assert a.numbers.keys() == b.numbers.keys()
    assert a.artifacts.keys() == b.artifacts.keys()
    for name, value in a.numbers.items():
        assert math.isfinite(value), name
        assert b.numbers[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    left, right = (json.loads(json.dumps(x.artifacts, default=np.ndarray.tolist)) for x in (a, b))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), left, right)


@pytest.fixture(scope="module")
def whole():
    return evaluators.average(classes(61, batch_size=61), ALL).evaluate(predict, 0.0, feed)


def test_padded_batches_equal_one_batch_whatever_the_padding_holds(whole):
    same(whole, evaluators.average(classes(61, garbage=np.nan), ALL).evaluate(predict, 0.0, feed))


def test_the_weights_are_exactly_the_rows():
    count = {"n": CountRows(), "confusion": metrics.ConfusionMatrix}
    report = evaluators.average(classes(61, garbage=np.nan), count).evaluate(predict, 0.0, feed)
    assert report.numbers["n"] == 61
    assert report.artifacts["confusion"].sum() == 61


class CountRows:
    """The summed weight itself."""

    def sums(self, outputs, batch):
        return outputs["weights"].sum()

    def result(self, sums):
        return {"": float(sums)}


@pytest.mark.parametrize("limit", [None, 37])
def test_rows_come_back_in_order_each_once_and_none_of_the_padding(limit):
    data = classes(61, garbage=np.nan)
    report = evaluators.average(data, {"rows": KeepRows()}, limit=limit).evaluate(predict, 0.0, feed)
    np.testing.assert_array_equal(report.artifacts["rows"], data.arrays["features"][:limit])


class KeepRows:
    """The rows themselves."""

    def rows(self, outputs, batch):
        return {"logits": outputs["logits"]}

    def result(self, rows):
        return {"": rows["logits"]}


def test_sums_stay_exact_beyond_the_integers_of_float32():
    data = Pass({"features": np.full((9, 1), 2.0**22 + 1, np.float32)}, 1)
    total = {"n": BigCount()}
    report = evaluators.average(data, total).evaluate(lambda state, batch: dict(batch), 0.0, feed)
    assert report.numbers["n"] == 9 * (2**22 + 1)  # 37748745 is odd: float32 would round it


class BigCount(CountRows):
    def sums(self, outputs, batch):
        return outputs["features"].sum()


def test_an_infinite_sum_is_infinite_and_a_nan_is_nan():
    data = Pass({"features": np.array([[1.0], [np.inf], [1.0]], np.float32)}, 1)
    report = evaluators.average(data, {"n": BigCount()}).evaluate(lambda state, batch: dict(batch), 0.0, feed)
    assert report.numbers["n"] == math.inf
    data.arrays["features"][1] = np.nan
    report = evaluators.average(data, {"n": BigCount()}).evaluate(lambda state, batch: dict(batch), 0.0, feed)
    assert math.isnan(report.numbers["n"])


def test_a_limit_counts_exactly_the_first_rows():
    names = {k: ALL[k] for k in ("accuracy", "auc", "confusion")}
    limited = evaluators.average(classes(61), names, limit=37).evaluate(predict, 0.0, feed)
    data = classes(61)
    first = Pass({k: v[:37] for k, v in data.arrays.items()}, 37)
    same(evaluators.average(first, names).evaluate(predict, 0.0, feed), limited)


def test_a_limit_beyond_the_data_is_all_of_it(whole):
    report = evaluators.average(classes(61), {"loss": metrics.loss}, limit=1000).evaluate(predict, 0.0, feed)
    assert report.numbers["loss"] == pytest.approx(whole.numbers["loss"], rel=1e-6)


@pytest.mark.parametrize("drop", [lambda b: list(b)[:-1], lambda b: [*b, *b], lambda b: []])
def test_rows_lost_or_seen_twice_are_an_error(drop):
    evaluator = evaluators.average(classes(61), {"loss": metrics.loss})
    with pytest.raises(DataError, match=r"saw \d+ rows of 61"):
        evaluator.evaluate(predict, 0.0, lambda batches: drop(feed(batches)) and iter(drop(list(feed(batches)))))


def test_one_predict_function_is_traced_and_compiled_once_for_every_evaluation():
    traces, compiled = [], []

    def counted(state, batch):
        traces.append(1)
        return predict(state, batch)

    def heard(event, seconds, **_):
        compiled.append(event) if "backend_compile" in event else None

    evaluator = evaluators.average(classes(40), {"loss": metrics.loss, "auc": metrics.RocAuc})
    states = [jnp.float32(x) for x in (0, 0, 1)]
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        first = evaluator.evaluate(counted, states[0], feed)
        before = len(traces), len(compiled)
        second, moved = (evaluator.evaluate(counted, state, feed) for state in states[1:])
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert before == (2, 1)  # traced for its shapes, then for the one program
    assert (len(traces), len(compiled)) == before
    assert first == second
    assert moved.numbers["loss"] == pytest.approx(first.numbers["loss"], abs=1e-6)  # a shift of all logits


def test_sums_never_wait_for_the_device_batch_by_batch(monkeypatch):
    pulled = []
    real = np.asarray
    evaluator = evaluators.average(classes(64, batch_size=4), {"loss": metrics.loss, "accuracy": metrics.accuracy})
    batches = [jax.device_put(b) for b in evaluator.data]

    def asarray(x, *args, **kwargs):
        pulled.append(x) if isinstance(x, jax.Array) else None
        return real(x, *args, **kwargs)

    monkeypatch.setattr(evaluators.np, "asarray", asarray)
    evaluator.evaluate(predict, 0.0, lambda _: iter(batches))
    assert len(pulled) == 2 * 2 * len(metrics.SampleMean._fields)  # two halves of two means, once


def test_the_feed_is_closed_when_the_limit_is_reached():
    closed = []

    def watched(batches):
        try:
            yield from feed(batches)
        finally:
            closed.append(True)

    evaluators.average(classes(61), {"loss": metrics.loss}, limit=5).evaluate(predict, 0.0, watched)
    assert closed == [True]


def test_a_config_names_metrics_as_functions_classes_and_calls():
    named = {"accuracy": metrics.accuracy, "auc": metrics.RocAuc, "top3": call(metrics.TopK, k=3)}
    evaluator = build(call(evaluators.average, data=call(tiny_pass), metrics=named, limit=20))
    report = evaluator.evaluate(predict, 0.0, feed)
    assert evaluator.predict == "predict"
    assert {"accuracy", "accuracy_se", "auc", "top3", "top3_se"} == report.numbers.keys()


def tiny_pass() -> Pass:
    return classes(24)


def test_a_plain_mean_is_a_metric():
    halves = {"half": lambda outputs, batch: Mean.of(jnp.full(8, 0.5), outputs["weights"])}
    assert evaluators.average(classes(61), halves).evaluate(predict, 0.0, feed).numbers == {"half": 0.5}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "needs metrics"),
        ({"a": 3}, "neither sums nor rows"),
        ({"a": "acuracy"}, "did you mean 'accuracy'"),
        ({"a": metrics.Bootstrapped}, "write it as a call"),
        ({"a": lambda outputs, batch: 1.0}, "returns float, not a Mean"),
        ({"a": metrics.mean_squared_error}, "no 'values'.*it has logits, targets, weights"),
        ({"a": metrics.BitsPerByte}, "batch has no 'bytes'"),
        ({"a": metrics.TopK(k=9)}, "top-9"),
        ({"a": metrics.F1(average="binary")}, "needs two classes"),
        ({"a": metrics.accuracy, "a_se": metrics.loss}, "two metrics report 'a_se'"),
    ],
)
def test_what_is_no_metric_is_said_in_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        evaluators.average(classes(9), wrong).evaluate(predict, 0.0, feed)
    assert "\n" not in str(caught.value)


def test_a_check_finds_a_mismatch_without_running_anything():
    batch = next(iter(classes(9)))
    evaluators.average(classes(9), ALL).check(predict, 0.0, batch)
    with pytest.raises(ConfigError, match="no 'values'"):
        evaluators.average(classes(9), {"r2": metrics.R2}).check(predict, 0.0, batch)


def test_endless_data_and_empty_limits_are_refused():
    endless = classes(9)
    endless.endless = True
    with pytest.raises(ConfigError, match="one_pass"):
        evaluators.average(endless, {"loss": metrics.loss})
    with pytest.raises(ConfigError, match="limit=0"):
        evaluators.average(classes(9), {"loss": metrics.loss}, limit=0)


def test_batches_without_valid_are_refused():
    with pytest.raises(DataError, match="valid"):
        evaluators.average(classes(8), {"loss": metrics.loss}).evaluate(
            predict, 0.0, lambda batches: ({"features": b["features"], "label": b["label"]} for b in batches)
        )


def test_reports_merge_under_their_evaluators_names():
    merged = evaluators.Report.merge(
        {"val": evaluators.Report({"loss": 1.0}, {"bins": [1]}), "test": evaluators.Report({"loss": 2.0})}
    )
    assert merged == evaluators.Report({"val/loss": 1.0, "test/loss": 2.0}, {"val/bins": [1]})


# ---- many devices, many processes ------------------------------------------------------------------
SHARDED = textwrap.dedent("""
    import json, sys
    import jax, numpy as np
    rank, ranks, port = map(int, sys.argv[1:4])
    if ranks > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", ranks, rank)
    assert jax.device_count() == 8
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from test_evals_evaluators import ALL, classes, evaluators, predict

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None)

    def feed(batches):
        per = batches.batch_size // ranks
        for b in batches:
            mine = {k: v[rank * per : (rank + 1) * per] for k, v in b.items()}
            yield {k: jax.make_array_from_process_local_data(rows, v) for k, v in mine.items()}

    evaluator = evaluators.average(classes(61, garbage=np.nan), ALL)
    state = jax.device_put(np.float32(0), NamedSharding(mesh, P()))
    report = evaluator.evaluate(predict, state, feed)
    once = len(compiled)
    assert evaluator.evaluate(predict, state, feed).numbers == report.numbers
    assert len(compiled) == once, compiled
    assert len(evaluator._steps) == 1
    artifacts = json.loads(json.dumps(report.artifacts, default=np.ndarray.tolist))
    print("REPORT" + json.dumps([report.numbers, artifacts]))
""")


def run_sharded(tmp_path, ranks, port):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    here = Path(__file__).parent
    flags = f"--xla_force_host_platform_device_count={8 // ranks}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parents[1])])
    command = [sys.executable, str(script)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(i), str(ranks), str(port)], env=env, **pipes) for i in range(ranks)]
    done = [p.communicate(timeout=200) for p in running]
    for p, (_, err) in zip(running, done, strict=True):
        assert p.returncode == 0, err[-3000:]
    return [json.loads(out.split("REPORT")[1]) for out, _ in done]


def test_eight_devices_report_what_one_does_and_compile_once(whole, tmp_path):
    (found,) = run_sharded(tmp_path, 1, 0)
    same(whole, evaluators.Report(*found))


@pytest.mark.slow
def test_two_processes_report_the_same_as_one(whole, tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for found in run_sharded(tmp_path, 2, port):
        same(whole, evaluators.Report(*found))
