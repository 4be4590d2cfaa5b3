"""The same numbers over several domains of data, and their plain mean, in which each domain counts once."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from fmjax.core.errors import ConfigError, UserError
from fmjax.core.types import Batch
from fmjax.evals.evaluators import Average, Report, average

MEAN = "mean"  # the name of the mean over domains


@dataclasses.dataclass(frozen=True, eq=False)
class Domains:
    """Several evaluators as one; made by `domains`."""

    parts: Mapping[str, Average]
    predict: str | Callable = "predict"
    every: int = 0

    @property
    def data(self) -> Any:
        """The data of the first domain; that of the others is checked in `check`."""
        return next(iter(self.parts.values())).data

    def check(self, predict: Callable, state: Any, batch: Batch) -> None:
        """Trace a batch of every domain, so that a mismatch shows before step 0."""
        for name, part in self.parts.items():
            found = part.data.batch(0)
            shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in found.items() if k != "text"}
            try:
                part.check(predict, state, shapes)
            except UserError as error:
                raise type(error)(f"domain {name!r}: {error}") from None

    def evaluate(self, predict: Callable, state: Any, feed: Callable[[Any], Iterable[Batch]]) -> Report:
        """Every domain's numbers as "<domain>_<metric>", and "mean_<metric>" over all of them."""
        reports = {name: part.evaluate(predict, state, feed) for name, part in self.parts.items()}
        numbers = {f"{name}_{key}": v for name, report in reports.items() for key, v in report.numbers.items()}
        artifacts = {f"{name}_{key}": v for name, report in reports.items() for key, v in report.artifacts.items()}
        for key in next(iter(reports.values())).numbers:
            values = np.array([report.numbers[key] for report in reports.values()])
            # Standard errors of independent domains add as squares.
            mean = np.sqrt(np.square(values).sum()) / len(values) if key.endswith("_se") else values.mean()
            numbers[f"{MEAN}_{key}"] = float(mean)
        return Report(numbers, artifacts)


def domains(
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    predict: str | Callable = "predict",
    limit: int | None = None,
    every: int = 0,
) -> Domains:
    """An evaluator that averages metrics over each of several domains, such as perplexity and bits per byte of texts.

        config.evals.domains = call(domains.domains, data={"novels": ..., "wikipedia": ..., "code": ...},
            metrics={"bits_per_byte": metrics.BitsPerByte, "perplexity": metrics.Perplexity})

    Perplexities are those of a tokenizer; across tokenizers and domains only bits per byte compare.

    Args:
      data: {domain: batches of one pass}.
      metrics, predict, limit, every: as for `evaluators.average`; the limit is that of each domain.

    Raises:
      ConfigError: no domains, one called "mean", or data that `average` refuses.
    """
    if not data:
        raise ConfigError("an evaluator of domains needs data, such as {'novels': ..., 'code': ...}")
    if MEAN in data:
        raise ConfigError(f"a domain may not be called {MEAN!r}: that is the mean over all of them")
    parts = {name: average(own, metrics, predict, limit) for name, own in data.items()}
    return Domains(parts, predict, every)
