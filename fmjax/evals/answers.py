"""Answers taken from a text: exact match and F1 over words, as SQuAD's own scripts count them."""

import dataclasses
import re
import string
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Batch
from fmjax.evals.prediction import Outputs, read

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Exact match ("exact") and F1 (under the metric's own name), each the best over the reference answers.

    Of every question the answer with the greatest sum of first and last log-probability counts, over its windows, the
    `most` likeliest firsts and lasts, and at most `longest` tokens. With a `threshold`, a question is said to have no
    answer where that (the least over the windows) is ahead of the best answer by more. "se" and "exact_se" are the
    standard errors over questions.

    Where some questions have no answer (SQuAD 2.0), also: "answered" and "unanswered", F1 over the questions that have
    one and have none; "best_threshold", the threshold with the greatest F1 on these rows, to be set for others, and
    "best_f1" with it.

    Attributes:
      source: the `data.questions.Questions` that the evaluated rows are from, in order.
      threshold: None never says that there is no answer (SQuAD 1.1).
      most: how many firsts and lasts of a window are looked at.
      longest: tokens of an answer at most.
      keep: keep the answers, {id: text}, as the artifact "answers".
    """

    source: Any
    threshold: float | None = None
    most: int = 20
    longest: int = 30
    keep: bool = True

    def __post_init__(self) -> None:
        if self.most < 1 or self.longest < 1:
            raise ConfigError(f"most and longest are 1 or more, not {self.most} and {self.longest}")
        if not hasattr(self.source, "answer") or not hasattr(self.source, "questions"):
            raise ConfigError(
                f"answers are read from their texts, and {self.source!r} has none: give AnswerScores the Questions "
                "that the evaluator's data reads, not a part of it"
            )

    def rows(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        out = {}
        for side in ("start", "end"):
            scores = jnp.asarray(read(outputs, side), jnp.float32)
            out[side], out[f"{side}_at"] = jax.lax.top_k(scores.at[:, 0].set(-jnp.inf), min(self.most, scores.shape[1]))
            out[f"{side}_none"] = scores[:, 0]
        return out

    def result(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        count = len(rows["start"])
        if count > len(self.source):
            raise DataError(f"{count} windows were evaluated, and {self.source} has {len(self.source)}")
        if any(np.isnan(rows[key]).any() for key in ("start", "end", "start_none", "end_none")):
            return dict.fromkeys(("", "se", "exact", "exact_se"), float("nan"))
        answers, leads = self._answers(rows)
        # A question whose windows were not all evaluated (limit) is left out.
        asked = np.asarray(self.source.question)
        cut = set(asked[count:].tolist())
        numbers = [number for number in answers if number not in cut]
        if not numbers:
            raise DataError(f"no question of {self.source} lies whole in the {count} windows evaluated: raise limit")
        references = [[text for text, _ in self.source.questions[n].answers] or [""] for n in numbers]
        lead = np.array([leads[n] for n in numbers])
        said = np.array([scores(answers[n], r) for n, r in zip(numbers, references, strict=True)])  # (N, 2): exact, f1
        empty = np.array([not self.source.questions[n].answers for n in numbers])
        silent = np.stack([empty, empty], 1).astype(np.float64)  # what saying nothing is worth
        refused = np.zeros(len(lead), bool) if self.threshold is None else lead > self.threshold
        both = np.where(refused[:, None], silent, said)
        out = dict(zip(("exact", ""), both.mean(0).tolist(), strict=True))
        errors = both.std(0, ddof=1) / np.sqrt(len(both)) if len(both) > 1 else np.full(2, np.nan)
        out |= dict(zip(("exact_se", "se"), errors.tolist(), strict=True))
        if empty.any():
            out |= {"unanswered": float(both[empty, 1].mean())}
            out |= {"answered": float(both[~empty, 1].mean())} if not empty.all() else {}
            out |= dict(zip(("best_f1", "best_threshold"), _best(lead, said[:, 1], silent[:, 1]), strict=True))
        if self.keep:
            texts = ["" if r else answers[n] for n, r in zip(numbers, refused, strict=True)]
            out["answers"] = dict(zip((self.source.questions[n].id for n in numbers), texts, strict=True))
        return out

    def _answers(self, rows: dict[str, np.ndarray]) -> tuple[dict[int, str], dict[int, float]]:
        """{question: the best answer}, {question: how far "no answer" is ahead of it}."""
        best: dict[int, tuple[float, int, int, int]] = {}
        none: dict[int, float] = {}
        for row, question in enumerate(np.asarray(self.source.question)[: len(rows["start"])].tolist()):
            first, last = rows["start_at"][row][:, None], rows["end_at"][row][None]
            total = rows["start"][row][:, None].astype(np.float64) + rows["end"][row][None]
            total = np.where((first <= last) & (last - first < self.longest), total, -np.inf)
            i, j = np.unravel_index(int(total.argmax()), total.shape)
            found = (float(total[i, j]), row, int(first[i, 0]), int(last[0, j]))
            best[question] = max(best.get(question, (-np.inf, row, 0, 0)), found, key=lambda one: one[0])
            empty = float(rows["start_none"][row]) + float(rows["end_none"][row])
            none[question] = min(none.get(question, np.inf), empty)
        return (
            {question: self.source.answer(*where) for question, (_, *where) in best.items()},
            {question: none[question] - score for question, (score, *_) in best.items()},
        )


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and more than one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 where the two are the same, normalised."""
    return float(normalised(answer) == normalised(reference))


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, as often as they occur; of nothing, whether both are."""
    said, wanted = normalised(answer).split(), normalised(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2.0 * shared / (len(said) + len(wanted))


def scores(answer: str, references: list[str]) -> tuple[float, float]:
    """(exact match, F1), each with the reference that suits it best.

    A reference of which nothing is left, normalised, does not count beside others.
    """
    left = [reference for reference in references if normalised(reference)] or [""]
    return max(exact_match(answer, r) for r in left), max(f1(answer, r) for r in left)


def _best(lead: np.ndarray, said: np.ndarray, silent: np.ndarray) -> tuple[float, float]:
    """(mean score, threshold): no answer where `lead` is above the threshold that gives the most."""
    order = np.argsort(lead, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((said - silent)[order])])
    last = np.append(lead[order][1:] != lead[order][:-1], True)  # of equal leads all are answered, or none is
    allowed = np.concatenate([[True], last])
    at = int(np.where(allowed, gain, -np.inf).argmax())
    threshold = float(lead[order][at - 1]) if at else float(lead.min()) - 1.0
    return float((silent.sum() + gain[at]) / len(lead)), threshold
