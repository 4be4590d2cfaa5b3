"""Preferences: a question, the answer that was preferred, and the one that was not."""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.asked import Asked
from fmjax.data.cache import cached, digest
from fmjax.data.chat import LONG, messages_of, template_of, written
from fmjax.data.corpora import TextFiles
from fmjax.data.jsonlines import field, objects, words
from fmjax.data.packing import Plan, laid_out
from fmjax.data.source import ByRows, identity
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LAYOUT = 1  # version of how a preference becomes ids
SIDES = ("chosen", "rejected")


class Preferences(ByRows):
    """Pairs of answers to one question, from JSON lines; random access.

    A line holds "prompt", a text or a list of messages, and the texts "chosen" and "rejected". Rows hold tokens and
    rejected (length + 1,), the question with either answer, and weights and rejected_weights (length,) of the
    targets: 1 for that answer and its end. Padding comes last, so that a causal net needs no segments.

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      tokenizer: what turns text to ids.
      template: as for `chat.Chats`.
      length: targets in a row.
      long: at a pair with an answer that is longer than a row: "fail", "drop" the pair, or "truncate" the ends; a
        pair of which one answer is left without a token is dropped.
      asked: what makes a preference of a labelled line (`asked.Asked`); None takes lines as they are.
      pattern: which files of a folder.

    Attributes:
      long: {"truncated": pairs, "dropped": pairs}.

    Raises:
      DataError: a line that is no preference, or one that is too long; it is named.
    """

    unit = "preferences"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        template: str = "chatml",
        length: int = 512,
        long: str = "fail",
        asked: Asked | None = None,
        pattern: str = "*.jsonl*",
    ):
        if long not in LONG:
            raise ConfigError(f"long must be one of {', '.join(LONG)}, not {long!r}; {did_you_mean(long, LONG)}")
        if length < 1:
            raise ConfigError(f"no rows of length={length}")
        self.tokenizer, self.vocab, self.length = tokenizer, tokenizer.vocab, length
        self.template, self.asked, self.files = template_of(template), asked, TextFiles(paths, pattern)
        how = (dataclasses.astuple(self.template), identity(asked))
        content = digest("preferences", LAYOUT, self.files.fingerprint, tokenizer.fingerprint, how)
        self._arrays = cached(content, self._encode)
        self.fingerprint = digest("preference rows", content, length, long)
        bounds = {side: self._arrays[f"{side}_bounds"] for side in SIDES}
        sizes = np.stack([np.diff(bounds[side]) for side in SIDES])
        over = (sizes > length + 1).any(0)
        if over.any() and long == "fail":
            raise DataError(
                f"{int(over.sum())} of {len(over)} preferences are too long, the first is number "
                f"{int(np.flatnonzero(over)[0])}: raise the length to {sizes.max() - 1}, or choose long='truncate' or "
                "'drop'"
            )
        kept = ~over if long == "drop" else (self._arrays["first"] < length + 1).all(0)
        self.long = {"truncated": int((over & kept).sum()), "dropped": int((~kept).sum())}
        if over.any():
            log.warning("%d of %d preferences are too long: %s", over.sum(), len(over), self.long)
        if not kept.any():
            raise DataError(f"every preference in {self.files} is too long: raise the length to {sizes.max() - 1}")
        self._plans = {
            side: Plan(
                bounds[side][:-1][kept], np.minimum(size[kept], length + 1).astype(np.int32), np.arange(kept.sum() + 1)
            )
            for side, size in zip(SIDES, sizes, strict=True)
        }

    def __repr__(self) -> str:
        return f"{self.files}, {len(self)} preferences"

    def __len__(self) -> int:
        return len(self._plans["chosen"].starts)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The preferences at `indices`, stacked."""
        indices, out = self.inside(indices), {}
        for side, tokens, weights in zip(SIDES, ("tokens", "rejected"), ("weights", "rejected_weights"), strict=True):
            read = lambda at, stream=self._arrays[side]: stream[at].astype(np.int32)  # noqa: E731
            counted = self._arrays[f"{side}_weights"]
            found = laid_out(self._plans[side], indices, self.length + 1, read, weights=counted)
            out |= {tokens: found["tokens"], weights: found["weights"][:, 1:].astype(np.float32)}
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def _encode(self) -> dict[str, np.ndarray]:
        tokens: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        firsts: list[list[int]] = []
        for at, record in objects(self.files, self.asked):
            asked = _question(record, at)
            firsts.append([])
            for side in SIDES:
                answer = {"role": "assistant", "content": words(field(record, side, at), repr(side), at)}
                ids, weights = written([*asked, answer], self.tokenizer, self.template)
                before, _ = written(asked, self.tokenizer, self.template, ask=True)  # earlier answers do not count
                weights[: len(before)] = 0
                tokens[side].append(np.stack([ids, weights.astype(np.int32)]))
                firsts[-1].append(len(before))
        if not firsts:
            raise DataError(f"there are no preferences in {self.files}")
        out = {"first": np.array(firsts, np.int64).T}
        for side, rows in tokens.items():
            both = np.concatenate(rows, axis=1)
            out[side] = both[0].astype(self.tokenizer.dtype)
            out[f"{side}_weights"] = both[1].astype(np.uint8)
            out[f"{side}_bounds"] = np.cumsum([0, *(row.shape[1] for row in rows)], dtype=np.int64)
        return out


def _question(record: dict[str, Any], at: str) -> list[dict[str, str]]:
    prompt = field(record, "prompt", at)
    if isinstance(prompt, str):
        return [{"role": "user", "content": words(prompt, "'prompt'", at)}]
    # An answer is put in for the check that there is one.
    answer = {"role": "assistant", "content": "answer"}
    if not isinstance(prompt, list):
        raise DataError(f"{at}: 'prompt' is a text or a list of messages")
    return messages_of({"messages": [*prompt, answer]}, at)[:-1]
