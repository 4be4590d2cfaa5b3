"""Deep ensembles (arXiv 1612.01474): several runs answer as one, with the mean of their probabilities."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.prediction import classified
from fmjax.run import Run
from fmjax.training.evaluation import evaluate

Outputs = Mapping[str, jax.Array]


class Ensemble:
    """Runs of one task that are evaluated together, on the evaluators of the first.

    Attributes:
      runs: each predicts with its own model and objective; all their weights are in memory at once.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        if not runs:
            raise ConfigError("an ensemble has one run or more")
        self.runs = tuple(runs)
        self._predictors: dict[Any, Callable] = {}

    def evaluate(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """Run the evaluators; {"evaluator/number": value}.

        Raises:
          ConfigError: no such evaluator, or one of something that has no mean.
        """
        first, states = self.runs[0], tuple(run.state for run in self.runs)
        return evaluate(self, first.parts.evaluators, states, first.step, names)

    def feed(self, batches: Any) -> Any:
        """The batches of one pass, as the first run has them."""
        return self.runs[0].parts.program.feed(batches)

    def predictor(self, name: str | Callable) -> Callable[[Any, Batch], dict[str, jax.Array]]:
        """A pure function (states, batch) -> outputs."""
        if name not in self._predictors:
            own = [run.parts.program.predictor(name) for run in self.runs]

            def predict(states: Any, batch: Batch) -> dict[str, jax.Array]:
                return mean([one(state, batch) for one, state in zip(own, states, strict=True)])

            self._predictors[name] = predict
        return self._predictors[name]


def mean(said: Sequence[Outputs]) -> dict[str, jax.Array]:
    """What several predictions of one batch say together.

    Classes have the mean of the members' probabilities, given as logits, and numbers the mean of the members' numbers;
    `nll` and `correct` are those of the mean. What is the same for all (targets, weights) is the first one's.

    Raises:
      ConfigError: predictions without `logits` and `values`, or of different shapes.
    """
    first = dict(said[0])
    if len(said) == 1:
        return first
    word = next((word for word in ("logits", "values") if word in first), None)
    if word is None:
        raise ConfigError(
            f"an ensemble takes the mean of logits or values, and there is {', '.join(first)}; use --only"
        )
    shapes = {one[word].shape for one in said}
    if len(shapes) > 1:
        raise ConfigError(f"the members of an ensemble give {word} of different shapes: {sorted(shapes)}")
    stacked = jnp.stack([one[word].astype(jnp.float32) for one in said])
    if word == "values":
        return {**first, "values": stacked.mean(0)}
    if "targets" in first and classified(first, {}).kind != "softmax":
        first["logits"] = _log_mean(jax.nn.log_sigmoid(stacked)) - _log_mean(jax.nn.log_sigmoid(-stacked))
        return first
    first["logits"] = _log_mean(jax.nn.log_softmax(stacked))
    if "nll" in first:
        first["nll"] = -_log_mean(-jnp.stack([one["nll"] for one in said]))
    if "correct" in first:
        first["correct"] = (first["logits"].argmax(-1) == first["targets"]).astype(jnp.float32)
    return first


def _log_mean(logs: jax.Array) -> jax.Array:
    """The logarithm of the mean over members of what these are the logarithms of."""
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(len(logs))
