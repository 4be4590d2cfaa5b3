"""Evaluation of what a model writes: translations, summaries, answers, compared with reference texts on the host."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.types import Batch
from fmjax.evals.evaluators import Report
from fmjax.evals.text_scores import Bleu, Chrf, Rouge, TextScore, exact_match

SCORES = {"bleu": Bleu, "chrf": Chrf, "rouge": Rouge, "exact_match": exact_match}


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
    """An evaluator that lets the model write, and scores the texts; made by `generation`."""

    data: Any
    predict: Callable
    metrics: Mapping[str, TextScore]
    tokenizer: Any
    every: int = 0
    shown: int = 8
    _jitted: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def check(self, predict: Callable, state: Any, batch: Batch) -> None:
        """Trace one batch of shapes.

        Raises:
          ConfigError: the prediction has no `tokens`.
        """
        outputs = jax.eval_shape(predict, state, batch)
        if "tokens" not in outputs:
            raise ConfigError(f"what writes must give 'tokens', and this prediction has {', '.join(outputs)}")

    def evaluate(self, predict: Callable, state: Any, feed: Callable[[Any], Iterable[Batch]]) -> Report:
        """Write a text for every row of one pass.

        Numbers are those of the metrics and `length`, the mean number of tokens written; artifacts["texts"] holds
        every text beside its references, "samples" the first few of them for people.

        Raises:
          DataError: the rows that came are not all those of the data.
        """
        written: list[np.ndarray] = []
        for batch in feed(self.data):
            tokens, valid = jax.device_get(self._compiled(predict, batch)(state, batch))
            written += list(np.asarray(tokens)[np.asarray(valid) != 0])
        if len(written) != self.data.examples:
            raise DataError(f"the evaluation saw {len(written)} rows of {self.data.examples}: give each row once")
        cut = [self._cut(row) for row in written]
        texts = [self.tokenizer.decode(row).strip() for row in cut]
        references = [_several(self.data.source.reference(i)) for i in range(len(texts))]
        report = Report.of({name: metric(texts, references) for name, metric in self.metrics.items()})
        report.numbers["length"] = float(np.mean([len(row) for row in cut]))
        both = [{"text": text, "references": list(own)} for text, own in zip(texts, references, strict=True)]
        report.artifacts["texts"] = both
        report.artifacts["samples"] = [f"{row['text']}\n  = {row['references'][0]}" for row in both[: self.shown]]
        return report

    def _cut(self, row: np.ndarray) -> np.ndarray:
        """What comes before the end."""
        ends = np.flatnonzero(row == self.tokenizer.eos) if self.tokenizer.eos is not None else ()
        return row[: ends[0]] if len(ends) else row

    def _compiled(self, predict: Callable, batch: Batch) -> Callable:
        where = getattr(batch["valid"], "sharding", None)
        # Texts are needed whole by every process.
        whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None
        if (predict, whole) not in self._jitted:
            both = lambda state, batch: (predict(state, batch)["tokens"], batch["valid"])  # noqa: E731
            self._jitted[predict, whole] = jax.jit(both, out_shardings=whole)
        return self._jitted[predict, whole]


def generation(
    data: Any,
    predict: Callable,
    metrics: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    every: int = 0,
    shown: int = 8,
) -> Generation:
    """An evaluator of what a model writes for each row, against the texts that the source has for it.

    Args:
      data: one pass (`data.pipeline.one_pass`) over a source with `reference(i)`, one text or several, such as `Pairs`.
      predict: a callable `(nets, batch) -> {"tokens": (B, length)}`, rows filled with eos after their end.
      metrics: {name: score}, see `fmjax.evals.text_scores`; None takes BLEU, chrF, ROUGE and exact match.
      tokenizer: what turns tokens to text; None takes that of the source's targets.
      every: steps between evaluations while training; 0 is only at the end.
      shown: texts among the samples.

    Raises:
      ConfigError: data without references, in another order, or endless; no metrics; no tokenizer.
    """
    if getattr(data, "endless", False) or getattr(data, "shuffle", False):
        raise ConfigError("an evaluator of texts needs each row once and in order: use one_pass")
    source = getattr(data, "source", None)
    if not hasattr(source, "reference"):
        raise ConfigError(f"{type(source).__name__} has no reference(i): texts are compared with those of a source")
    if getattr(data, "corrupt", "fail") != "fail":
        raise ConfigError("corrupt='skip' puts other rows beside the references: leave it at 'fail'")
    metrics = SCORES if metrics is None else metrics
    if not metrics:
        raise ConfigError("an evaluator of texts needs metrics, such as {'bleu': text_scores.Bleu}")
    made = {name: metric() if isinstance(metric, type) else metric for name, metric in metrics.items()}
    for name, metric in made.items():
        if not callable(metric):
            raise ConfigError(f"the score {name!r} is {metric!r}: it is a callable (texts, references) -> values")
    tokenizer = tokenizer or getattr(source, "target_tokenizer", None) or getattr(source, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(f"{type(source).__name__} has no tokenizer: give one")
    return Generation(data, predict, made, tokenizer, every, shown)


def _several(reference: str | tuple[str, ...]) -> tuple[str, ...]:
    return (reference,) if isinstance(reference, str) else tuple(reference)
