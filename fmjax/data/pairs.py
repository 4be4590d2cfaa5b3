"""Pairs of texts for encoder-decoders: one is read, the other is to be written; each padded to a length."""

import functools
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest
from fmjax.data.corpora import TextFiles
from fmjax.data.jsonlines import number, objects
from fmjax.data.packing import aranges, gather
from fmjax.data.source import ByRows
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LAYOUT = 1  # version of how a pair becomes a row
LONG = ("fail", "truncate", "drop")


class Pairs(ByRows):
    """Two fields of JSON lines as source and target, `eos` after each; random access.

    Rows hold tokens, segment_ids, positions of the source (source_length,) and targets, target_segment_ids,
    target_positions, weights of the target (target_length,): segment 1 and weight 1 where there is a token, 0 where
    there is padding; bytes, how many bytes of text the targets stand for, where the tokenizer knows (`Tokenizer`).

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      source: the field that is read.
      target: the field that is written.
      tokenizer: what turns both to ids; it must have an `eos`, without which no decoder could stop.
      target_tokenizer: what turns the target to ids; None for the same one.
      source_length: tokens of a source, eos included.
      target_length: tokens of a target, eos included.
      long: at a pair that is longer: "fail", "truncate" it (a cut text keeps no eos), or "drop" it.
      score: a field with a number, which becomes `score` of a row: how alike the two texts are, for one.
      pattern: which files of a folder.

    Attributes:
      vocab: ids of the target tokenizer, or of the source tokenizer where that has more.
      long: {"truncated": pairs, "dropped": pairs}.

    Raises:
      ConfigError: a tokenizer without `eos`. DataError: a pair that is too long or has an empty side; it is named.
    """

    unit = "pairs"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        source: str,
        target: str,
        tokenizer: Tokenizer,
        target_tokenizer: Tokenizer | None = None,
        source_length: int = 64,
        target_length: int = 64,
        long: str = "fail",
        score: str | None = None,
        pattern: str = "*.jsonl*",
    ):
        if long not in LONG:
            raise ConfigError(f"long must be one of {', '.join(LONG)}, not {long!r}")
        if min(source_length, target_length) < 1:
            raise ConfigError(f"lengths are 1 or more, not {source_length} and {target_length}")
        self.tokenizer, self.target_tokenizer = tokenizer, target_tokenizer or tokenizer
        for one in (self.tokenizer, self.target_tokenizer):
            if one.eos is None:
                raise ConfigError(f"the {one.kind} tokenizer has no eos: with_specials(..., names=('eos',)) adds one")
        self.files = TextFiles(paths, pattern)
        self.score = score
        self.fields, self.lengths = (source, target), (source_length, target_length)
        self.vocab = max(self.tokenizer.vocab, self.target_tokenizer.vocab)
        both = (self.tokenizer.fingerprint, self.target_tokenizer.fingerprint)
        content = digest("pairs", LAYOUT, self.files.fingerprint, self.fields, both, *([score] if score else []))
        self._arrays = cached(content, self._encode)
        self.fingerprint = digest("pairs", content, self.lengths, long)
        sizes = np.stack([np.diff(self._arrays[f"{side}_bounds"]) for side in ("source", "target")])
        over = (sizes > np.array(self.lengths)[:, None]).any(0)
        if over.any() and long == "fail":
            first = int(np.flatnonzero(over)[0])
            raise DataError(
                f"{int(over.sum())} of {len(over)} pairs are too long, the first is pair {first}: {sizes[0, first]} "
                f"tokens of {source!r} (at most {source_length}) and {sizes[1, first]} of {target!r} (at most "
                f"{target_length}); raise the lengths to {sizes[0].max()} and {sizes[1].max()}, or choose "
                "long='truncate' or 'drop'"
            )
        self.long = {"truncated": 0, "dropped": 0}
        if over.any():
            self.long["truncated" if long == "truncate" else "dropped"] = int(over.sum())
            log.warning("%d of %d pairs are too long: %s", over.sum(), len(over), self.long)
        self._kept = np.flatnonzero(~over) if long == "drop" else np.arange(len(over))
        if not len(self._kept):
            raise DataError(f"every pair in {self.files} is too long: raise source_length and target_length")

    def __repr__(self) -> str:
        return f"{self.files}, {len(self)} pairs {self.fields[0]} to {self.fields[1]}"

    def __len__(self) -> int:
        return len(self._kept)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The pairs at `indices`, stacked."""
        indices = self.inside(indices)
        pairs = self._kept[indices]
        tokens, segments, positions = self._side("source", pairs, self.lengths[0])
        targets, target_segments, target_positions = self._side("target", pairs, self.lengths[1])
        rows = {
            "tokens": tokens,
            "segment_ids": segments,
            "positions": positions,
            "targets": targets,
            "target_segment_ids": target_segments,
            "target_positions": target_positions,
            "weights": target_segments.astype(np.float32),
        }
        if (widths := self.target_tokenizer.widths) is not None:
            rows["bytes"] = (widths[targets] * target_segments).sum(1, dtype=np.int32)
        if self.score is not None:
            rows["score"] = self._arrays["score"][pairs]
        return rows

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of a target's token ids."""
        return self.target_tokenizer.decode(tokens)

    def reference(self, index: int) -> str:
        """The target text of a row as the file has it: whole, and before any tokenizer."""
        return self._texts[self._kept[index]]

    @functools.cached_property
    def _texts(self) -> list[str]:
        return [target for _, target in self.files.records(self.fields)]

    def _side(self, side: str, pairs: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, length) int32 tokens, segments and positions."""
        stream, bounds = self._arrays[side], self._arrays[f"{side}_bounds"]
        starts, sizes = bounds[pairs], np.minimum(bounds[pairs + 1] - bounds[pairs], length)
        column = aranges(sizes)
        slot = (np.repeat(np.arange(len(pairs)), sizes), column)
        tokens, segments, positions = (np.zeros((len(pairs), length), np.int32) for _ in range(3))
        tokens[slot] = gather([stream], bounds, np.repeat(starts, sizes) + column)
        segments[slot], positions[slot] = 1, column
        return tokens, segments, positions

    def _encode(self) -> dict[str, np.ndarray]:
        texts = list(self.files.records(self.fields))
        if not texts:
            raise DataError(f"there are no pairs in {self.files}")
        out: dict[str, Any] = {}
        for side, field, one, column in zip(
            ("source", "target"),
            self.fields,
            (self.tokenizer, self.target_tokenizer),
            zip(*texts, strict=True),
            strict=True,
        ):
            for k, text in enumerate(column):
                if not text.strip():
                    raise DataError(f"pair {k} in {self.files} has no text in {field!r}: leave it out")
            ids = [np.append(ids, np.array(one.eos, ids.dtype)) for ids in one.encode_many(column)]
            out[side], out[f"{side}_bounds"] = np.concatenate(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64)
        if self.score is not None:
            out["score"] = np.array([number(record, self.score, at) for at, record in objects(self.files)], np.float32)
        return out
