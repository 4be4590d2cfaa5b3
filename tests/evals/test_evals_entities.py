"""Entities: counted as seqeval counts them, in its default and its strict mode, over whole sentences."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError
from fmjax.evals import evaluators
from fmjax.evals.entities import EntityF1, entities
from fmjax.evals.prediction import UndefinedMetric

GOLDEN = json.loads((Path(__file__).parent / "entities_golden.json").read_text())
TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]
tags = st.lists(st.sampled_from(TAGS), min_size=1, max_size=9)


class Whole:
    """A source whose rows are whole sentences of five words."""

    def __init__(self, true):
        self.true = true

    def assembled(self, ids):
        said = lambda row: [TAGS[i] for i in row]  # noqa: E731
        return [(said(t), said(g)) for t, g in zip(self.true, np.asarray(ids))]


class Given:
    """A source of (true, predicted) tags, whatever the rows."""

    def __init__(self, both):
        self.both = both

    def assembled(self, ids):
        return [([t for t, _ in s], [g for _, g in s]) for s in self.both]


def score(both, strict=False):
    """The result of a metric over sentences of any length."""
    return EntityF1(Given(both), strict).result({"tags": np.zeros((1, 1)), "broken": np.zeros(1, bool)})


@given(tags, st.booleans())
def test_entities_are_runs_of_one_type_that_do_not_overlap(sentence, strict):
    found = entities(sentence, strict)
    end = 0
    for kind, begin, stop in found:
        assert end <= begin < stop
        assert all(tag[2:] == kind for tag in sentence[begin:stop])
        assert all(tag[0] == "I" for tag in sentence[begin + 1 : stop])
        assert sentence[begin][0] == "B" or not strict
        end = stop
    inside = {i for _, begin, stop in found for i in range(begin, stop)}
    if not strict:
        assert inside == {i for i, tag in enumerate(sentence) if tag != "O"}
    assert {i for i, tag in enumerate(sentence) if tag[0] == "B"} <= inside


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_scores_are_those_of_seqeval(case):
    """The golden is made by tests/evals/entities_golden.py, which runs seqeval."""
    both = [list(zip(*sentence, strict=True)) for sentence in zip(case["true"], case["called"], strict=True)]
    for mode in ("default", "strict"):
        found = score(both, mode == "strict")
        for word, key in (("", "f1"), ("precision", "precision"), ("recall", "recall")):
            assert found[word] == pytest.approx(case[mode][key], abs=1e-9), (mode, key)
        table = {row["type"]: row for row in found["per_type"]}
        for kind, wanted in case[mode]["per_type"].items():
            assert [table[kind][k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(wanted)


def test_the_error_is_that_of_sentences_drawn_again():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, (200, 6))
    called = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 5, true.shape))
    both = [[(TAGS[t], TAGS[g]) for t, g in zip(a, b)] for a, b in zip(true, called)]
    draws = [score([both[i] for i in rng.integers(0, 200, 200)])[""] for _ in range(60)]
    assert score(both)["se"] == pytest.approx(np.std(draws), rel=0.3)


def test_it_is_a_metric_of_an_evaluator():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, (7, 5))
    logits = np.eye(5, dtype=np.float32)[np.where(rng.random(true.shape) < 0.6, true, 0)]
    batches = [
        {"targets": np.resize(true[i : i + 4], (4, 5)), "logits": np.resize(logits[i : i + 4], (4, 5, 5)),
         "valid": (np.arange(4) < 7 - i).astype(np.float32)} for i in (0, 4)
    ]  # fmt: skip

    class Data:
        examples, batch_size, endless = 7, 4, False

    made = evaluators.average(Data(), {"f1": EntityF1(Whole(true))})
    predict = lambda state, batch: {"logits": batch["logits"], "weights": batch["valid"][:, None] * jnp.ones(5)}  # noqa: E731
    report = made.evaluate(predict, {}, lambda data: batches)
    wanted = EntityF1(Whole(true)).result({"tags": logits.argmax(-1), "broken": np.zeros(7, bool)})
    assert report.numbers["f1"] == wanted[""]
    assert {"f1", "f1_se", "f1_precision", "f1_recall"} == report.numbers.keys()
    assert report.artifacts["f1_per_type"]


def test_no_entities_and_diverged_models_have_no_value():
    with pytest.warns(UndefinedMetric, match="no entities"):
        assert np.isnan(score([[("O", "O")]])[""])
    metric = EntityF1(Whole(np.ones((2, 5), int)))
    logits = np.zeros((2, 5, 5), np.float32)
    logits[1, 2] = np.nan
    for weight in (0.0, 1.0):
        rows = metric.rows({"logits": logits, "weights": np.full((2, 5), weight)}, {})
        assert np.isnan(metric.result({k: np.asarray(v) for k, v in rows.items()})[""]) == bool(weight)


def test_a_source_that_cannot_put_sentences_together_is_refused():
    with pytest.raises(ConfigError, match="give EntityF1 the TaggedWords"):
        EntityF1([1, 2])
