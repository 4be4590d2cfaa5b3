"""A run as lm-eval sees it: log-likelihoods of continuations, of whole texts, and greedy continuations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.errors import DataError, UserError, extra
from fmjax.core.nets import Net
from fmjax.core.types import Batch
from fmjax.data import tokenizers
from fmjax.data.choices import split_encoded
from fmjax.data.tokenizer import Tokenizer
from fmjax.decoding import stops
from fmjax.decoding.sampling import Sampler
from fmjax.objectives.chunked import score
from fmjax.run import Run
from fmjax.training.folder import RunFolder

SHORTEST = 16  # tokens of the smallest shape that is compiled; each next one is twice as long
NEW = 256  # tokens written where a task does not say

Pair = tuple[Sequence[int], Sequence[int]]  # the ids of a context, and of what continues it


def likelihood(nets: Mapping[str, Net], batch: Batch) -> dict[str, jax.Array]:
    """The summed log-likelihood of the weighted targets of `tokens`, (B,), and whether each was the likeliest."""
    tokens, weights = batch["tokens"].astype(jnp.int32), batch["weights"]
    scores = score(nets["model"](tokens[:, :-1]).astype(jnp.float32), tokens[:, 1:])
    right = (scores.correct == 1) | (weights == 0)
    return {"total": -jnp.where(weights == 0, 0.0, scores.nll).sum(1), "greedy": right.all(1)}


@dataclasses.dataclass(eq=False)
class Scorer:
    """A run that scores and continues texts, in batches of few shapes, each compiled once.

    Attributes:
      run: the run.
      tokenizer: the one in its folder.
      batch: rows scored at once.
      max_length: tokens that the model reads; of longer contexts the beginning is cut.
    """

    run: Run
    tokenizer: Tokenizer
    batch: int
    max_length: int

    @classmethod
    def of(cls, run: Run, batch: int = 16, max_length: int | None = None) -> "Scorer":
        """The scorer of a run that was loaded from its folder.

        Raises:
          UserError: the run is none of a causal language model.
        """
        folder = RunFolder(run.folder, writes=False)
        module = run.parts.modules.get("model")
        if not folder.tokenizer.is_dir() or not hasattr(module, "init_cache"):
            raise UserError(f"{run.folder} is no run of a language model that continues texts")
        tokenizer = tokenizers.load(str(folder.tokenizer))
        trained = run.parts.program.example["tokens"].shape[1] - 1
        if max_length is not None and max_length < 2:
            raise UserError(f"--max_length={max_length}: give 2 or more")
        return cls(run, tokenizer, batch, max_length or trained)

    @property
    def prefix(self) -> int:
        """What stands before a text that has nothing before it.

        Raises:
          UserError: the tokenizer has neither a beginning nor an end of texts.
        """
        found = self.tokenizer.special.get("bos", self.tokenizer.eos)
        if found is None:
            raise UserError(f"the {self.tokenizer.kind} tokenizer has no bos or eos to put before a text")
        return found

    def encoded(self, context: str, continuation: str) -> Pair:
        """A context and what continues it as ids, split as lm-eval does."""
        if context:
            return split_encoded(self.tokenizer, context, continuation)
        return [self.prefix], self.tokenizer.encode(continuation).tolist()

    def likelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would write it) of each continuation, in the order given.

        Raises:
          DataError: a continuation that is empty, or longer than the model reads.
        """
        for number, (_, after) in enumerate(pairs):
            if not 0 < len(after) <= self.max_length:
                raise DataError(
                    f"text {number} has {len(after)} tokens to score, and the model reads {self.max_length}"
                )
        rows = [([*before, *after][-(self.max_length + 1) :], len(after)) for before, after in pairs]
        predict = self._compiled(likelihood)
        out: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        for width, picked in self._batches([len(ids) - 1 for ids, _ in rows]):
            tokens = np.zeros((self.batch, width + 1), np.int32)
            weights = np.zeros((self.batch, width), np.float32)
            for row, i in enumerate(picked):
                ids, count = rows[i]
                tokens[row, : len(ids)] = ids
                weights[row, len(ids) - 1 - count : len(ids) - 1] = 1
            found = jax.device_get(predict(self.run.state, self._valid({"tokens": tokens, "weights": weights}, picked)))
            for row, i in enumerate(picked):
                out[i] = float(found["total"][row]), bool(found["greedy"][row])
        return out

    def continuations(self, contexts: Sequence[str], length: int, until: Sequence[str]) -> list[str]:
        """Greedy continuations of at most `length` tokens, up to the first of the stop strings."""
        length = min(length, max(self.max_length // 2, 1))  # the other half is for the question
        room = self.max_length - length
        prompts = [(self.tokenizer.encode(text).tolist() or [self.prefix])[-room:] for text in contexts]
        predict = self._compiled(Sampler(length=length, temperature=0.0, eos=self.tokenizer.eos))
        out = [""] * len(prompts)
        for width, picked in self._batches(list(map(len, prompts))):
            tokens, segments = (np.zeros((self.batch, width), np.int32) for _ in range(2))
            for row, i in enumerate(picked):  # padding comes first
                tokens[row, width - len(prompts[i]) :] = prompts[i]
                segments[row, width - len(prompts[i]) :] = 1
            segments[len(picked) :] = 1
            found = predict(self.run.state, self._valid({"tokens": tokens, "segment_ids": segments}, picked))
            for row, i in enumerate(picked):
                out[i] = cut(self.tokenizer.decode(np.asarray(found["tokens"][row])), until)
        return out

    def _compiled(self, predict: Callable) -> Callable:
        # The program gives the same function for the same `predict`, and jax compiles it once for each shape.
        return _jitted(self.run.parts.program.predictor(predict))

    def _batches(self, lengths: list[int]) -> list[tuple[int, list[int]]]:
        """(width, which texts) of every batch: texts of like lengths together, the longest first."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        batches = [order[at : at + self.batch] for at in range(0, len(order), self.batch)]
        return [(self._width(lengths[picked[0]]), picked) for picked in batches]

    def _width(self, length: int) -> int:
        width = SHORTEST
        while width < length:
            width *= 2
        return min(width, max(self.max_length, length))

    def _valid(self, batch: dict[str, np.ndarray], picked: list[int]) -> Batch:
        valid = (np.arange(self.batch) < len(picked)).astype(np.float32)
        return self.run.parts.program.put({**batch, "valid": valid})


@functools.cache
def _jitted(predict: Callable) -> Callable:
    return jax.jit(predict)


def cut(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings; an empty one stops nothing."""
    return stops.cut(text, [stop for stop in until if stop])[0]


def adapter(scorer: Scorer) -> Any:
    """The scorer as a `lm_eval.api.model.LM`."""
    base = extra("lm_eval.api.model", "lm-eval").LM
    utils = extra("lm_eval.utils", "lm-eval")

    class FmjaxModel(base):
        """A run of fmjax."""

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return scorer.likelihoods([scorer.encoded(*request.args) for request in requests])

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            windows, owners = [], []
            for number, request in enumerate(requests):
                ids = scorer.tokenizer.encode(request.args[0]).tolist()
                rolling = utils.get_rolling_token_windows(ids, scorer.prefix, scorer.max_length, 1)
                own = [utils.make_disjoint_window(pair) for pair in rolling]
                windows, owners = windows + own, owners + [number] * len(own)
            totals = [0.0] * len(requests)
            for number, (total, _) in zip(owners, scorer.likelihoods(windows), strict=True):
                totals[number] += total
            return totals

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            out = [""] * len(requests)
            groups: dict[tuple, list[int]] = {}
            for i, request in enumerate(requests):
                settings = request.args[1]
                if settings.get("do_sample") or settings.get("temperature"):
                    raise UserError("the harness decodes greedily: a task may not ask for do_sample or a temperature")
                until = settings.get("until") or []
                until = (until,) if isinstance(until, str) else tuple(until)
                length = next((settings[k] for k in ("max_gen_toks", "max_new_tokens") if k in settings), NEW)
                groups.setdefault((length, until), []).append(i)
            for (length, until), picked in groups.items():
                texts = scorer.continuations([requests[i].args[0] for i in picked], length, until)
                for i, text in zip(picked, texts, strict=True):
                    out[i] = text
            return out

    return FmjaxModel()
