"""Samples: what a model writes, for people to read while it trains."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.core.types import Batch
from fmjax.evals.evaluators import Report


@dataclasses.dataclass(frozen=True)
class Prompts:
    """One batch of prompts of equal length, in the shape of evaluation data."""

    tokens: np.ndarray
    valid: np.ndarray

    endless = False
    batch_size = property(lambda self: len(self.tokens))
    examples = property(lambda self: len(self.tokens))

    def __len__(self) -> int:
        return 1

    def batch(self, k: int = 0, seed: int = 0, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        return {"tokens": self.tokens[rows], "valid": self.valid[rows]}

    def iterate(
        self, seed: int = 0, start: int = 0, stop: int | None = None, rows: slice = slice(None)
    ) -> Iterator[dict[str, np.ndarray]]:
        yield self.batch(0, seed, rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """An evaluator that reports texts instead of numbers; made by `samples`."""

    data: Prompts
    tokenizer: Any
    prompts: tuple[str, ...]
    predict: Callable
    every: int = 0
    _jitted: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def check(self, predict: Callable, state: Any, batch: Batch) -> None:
        """Trace one batch of shapes."""
        jax.eval_shape(predict, state, batch)

    def evaluate(self, predict: Callable, state: Any, feed: Callable) -> Report:
        """Continue every prompt; artifacts["samples"] holds the texts."""
        if predict not in self._jitted:
            self._jitted[predict] = jax.jit(predict)
        texts = []
        for batch in feed(self.data):
            rows = np.asarray(jax.device_get(self._jitted[predict](state, batch)["tokens"]))
            texts += [prompt + self.tokenizer.decode(row) for prompt, row in zip(self.prompts, rows)]
        return Report(artifacts={"samples": texts})


def samples(tokenizer: Any, prompts: tuple[str, ...], predict: Callable, every: int = 0, rows: int = 8) -> Samples:
    """Let a language model continue prompts.

    Shorter prompts are filled up in front with the tokenizer's end-of-text (or first) token.

    Args:
      tokenizer: encodes the prompts and decodes what comes.
      prompts: the texts to continue.
      predict: a callable `(nets, batch) -> {"tokens"}`, such as a `decoding.sampling.Sampler`.
      every: steps between samples; 0 is only at the end.
      rows: the batch is filled up to a multiple of this, so that it divides over devices.

    Raises:
      ConfigError: no prompts, or an empty one.
    """
    ids = [np.asarray(tokenizer.encode(p), np.int32) for p in prompts]
    if not ids or not all(map(len, ids)):
        raise ConfigError("samples need prompts of at least one character each")
    filler = tokenizer.eos if tokenizer.eos is not None else 0
    longest = max(map(len, ids))
    tokens = np.full((-(-len(ids) // rows) * rows, longest), filler, np.int32)
    for row, own in zip(tokens, ids):
        row[longest - len(own) :] = own
    valid = (np.arange(len(tokens)) < len(ids)).astype(np.float32)
    return Samples(Prompts(tokens, valid), tokenizer, tuple(prompts), predict, every)
