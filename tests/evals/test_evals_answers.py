"""Answers: scored as by SQuAD's own script; the best span over windows is the one that a search of all finds."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.evals import evaluators
from fmjax.evals.answers import AnswerScores, exact_match, f1, normalised, scores

GOLDEN = json.loads((Path(__file__).parent / "answers_golden.json").read_text())


class Question:
    def __init__(self, number, answers):
        self.id, self.answers = f"q{number}", [(text, 0) for text in answers]


class Windows:
    """A source whose answers are written "row first last"."""

    def __init__(self, question, references, say=None):
        self.question, self.say = np.array(question), say
        self.questions = [Question(i, answers) for i, answers in enumerate(references)]

    def __len__(self):
        return len(self.question)

    def answer(self, row, first, last):
        return self.say[row] if self.say else f"{row} {first} {last}"


def found(metric, start, end, size=4):
    """What an evaluator would report of these log-probabilities (N, T), a few rows at a time."""

    class Data:
        examples, batch_size, endless = len(start), size, False

    def feed(data):
        for i in range(0, len(start), size):
            pad = [(0, max(0, i + size - len(start))), (0, 0)]
            valid = (np.arange(size) < len(start) - i).astype(np.float32)
            cut = lambda x: np.pad(x[i : i + size], pad, constant_values=np.nan)  # noqa: B023, E731
            yield {"start": cut(start), "end": cut(end), "valid": valid}

    made = evaluators.average(Data(), {"f1": metric})
    return made.evaluate(lambda state, batch: {k: batch[k] for k in ("start", "end")}, {}, feed)


def test_scores_are_those_of_the_official_script():
    for row in GOLDEN["rows"]:
        references = row["answers"] or [""]
        assert scores(row["said"], references) == pytest.approx((row["exact"], row["f1"])), row
    assert normalised("The U.S. -- an  Apollo, a b") == "us apollo b"
    assert (exact_match("The moon!", "moon"), f1("the blue moon", "moon"), f1("the", "")) == (1, 2 / 3, 1)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.5])
def test_thresholds_are_those_of_the_official_script(threshold):
    rows = GOLDEN["rows"]
    source = Windows(range(len(rows)), [row["answers"] for row in rows], [row["said"] for row in rows])
    start = np.full((len(rows), 3), -1e30, np.float32)
    start[:, 1] = 0
    end = start.copy()
    start[:, 0], end[:, 0] = [row["lead"] for row in rows], 0
    report = found(AnswerScores(source, threshold), start, end)
    wanted = GOLDEN["thresholds"][str(threshold)]
    names = {"f1": "f1", "exact": "f1_exact", "HasAns_f1": "f1_answered", "NoAns_f1": "f1_unanswered"}
    for theirs, ours in {**names, "best_f1": "f1_best_f1"}.items():
        assert report.numbers[ours] == pytest.approx(wanted[theirs], abs=1e-6), theirs
    best = found(AnswerScores(source, report.numbers["f1_best_threshold"]), start, end)
    assert best.numbers["f1"] == pytest.approx(wanted["best_f1"], abs=1e-6)
    assert report.numbers["f1_se"] > 0


T = 9
windows = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(windows, st.integers(0, 2**31), st.integers(1, T), st.booleans())
def test_the_answer_is_the_best_allowed_span_of_all_windows(counts, seed, longest, ties):
    rng = np.random.default_rng(seed)
    asked = np.repeat(np.arange(len(counts)), counts)
    start, end = rng.normal(size=(2, len(asked), T)).astype(np.float32)
    if ties:
        start, end = start.round(), end.round()
    start[:, 6:], end[:, 6:] = -1e30, -1e30
    source = Windows(asked, [["x"]] * len(counts))
    metric = AnswerScores(source, most=T, longest=longest)
    rows = metric.rows({"start": start, "end": end}, {})
    answers = metric.result({key: np.asarray(value) for key, value in rows.items()})["answers"]
    for number in range(len(counts)):
        spans = {
            (int(row), a, b): float(np.float64(start[row, a]) + end[row, b])
            for row in np.flatnonzero(asked == number)
            for a in range(1, 6)
            for b in range(a, min(a + longest, 6))
        }
        said = tuple(map(int, answers[f"q{number}"].split()))
        assert spans[said] == max(spans.values())


def test_nothing_is_answered_when_the_least_null_of_the_windows_is_ahead():
    start = np.array([[2.0, 1, 0], [0, 1, 0], [5, 1, 0]], np.float32)
    end = np.zeros_like(start)
    source = Windows([0, 0, 1], [["x"], []])
    report = found(AnswerScores(source, threshold=0.0), start, end)
    assert report.artifacts["f1_answers"] == {"q0": "0 1 1", "q1": ""}
    assert report.numbers["f1_unanswered"] == 1
    report = found(AnswerScores(source), start, end)
    assert report.artifacts["f1_answers"] == {"q0": "0 1 1", "q1": "2 1 1"}


def test_a_question_that_was_not_seen_whole_does_not_count():
    start = np.zeros((2, 3), np.float32)
    report = found(AnswerScores(Windows([0, 1, 1], [["x"], ["y"]])), start, start)
    assert list(report.artifacts["f1_answers"]) == ["q0"]
    with pytest.raises(DataError, match="lies whole in the 2 windows evaluated"):
        found(AnswerScores(Windows([0, 0, 0], [["x"]])), start, start)
    with pytest.raises(DataError, match=r"2 windows were evaluated, and .* has 1"):
        found(AnswerScores(Windows([0], [["x"]])), start, start)


def test_diverged_models_and_wrong_settings():
    start = np.full((1, 3), np.nan, np.float32)
    assert np.isnan(found(AnswerScores(Windows([0], [["x"]])), start, start).numbers["f1"])
    with pytest.raises(ConfigError, match="give AnswerScores the Questions"):
        AnswerScores([1])
    with pytest.raises(ConfigError, match="1 or more, not 0 and 30"):
        AnswerScores(Windows([0], [["x"]]), most=0)
    with pytest.raises(ConfigError, match="has no 'start'"):
        AnswerScores(Windows([0], [["x"]])).rows({"logits": jnp.zeros((1, 2))}, {})
