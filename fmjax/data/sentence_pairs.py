"""Pairs of texts for next-sentence prediction (BERT, arXiv 1810.04805): does the second follow the first?"""

from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest

LAYOUT = 1  # version of how a pair is drawn and laid out


class SentencePairs:
    """Rows "cls first sep second sep", where the second text follows the first (label 0) or is another's (label 1).

    Each document is cut into blocks that fill a row, and each block in two at a random place: all the text of a
    corpus is in some row once, but for blocks of one token. For half of the rows, drawn, the second text gives way to
    as many tokens from a random place of another document (or fewer, when that is shorter). Where and whether is
    keyed by (seed, index), the same in every epoch. Segments are spans of tokens, as in RoBERTa's SEGMENT-PAIR, and
    not sentences of a grammar.

    Rows hold tokens, token_types (0 up to the first sep, then 1) and segment_ids (0 for padding), int32 (length,),
    and label.

    Args:
      source: windows (`text.Windows`, `Shards`); of them the stream, the documents and the length are used.
      cls: the id in front.
      sep: the id after each text.
      seed: of the draws.

    Raises:
      DataError: fewer than two documents of two tokens.
    """

    classes = ("next", "random")

    def __init__(self, source: Any, cls: int, sep: int, seed: int = 0):
        self.source, self.cls, self.sep, self.seed, self.length = source, cls, sep, seed, source.length
        if min(cls, sep) < 0 or self.length < 5:
            raise ConfigError(f"a pair needs ids of 0 or more and length 5 or more, not {cls}, {sep} and {self.length}")
        room, eos = self.length - 3, source.tokenizer.eos
        starts, stops = (np.asarray(x, np.int64) for x in (source.documents[:-1], source.documents[1:]))
        self._documents = np.stack([starts, stops - (eos is not None)], 1)  # sep stands for the end of a document
        self._documents = self._documents[np.diff(self._documents, axis=1)[:, 0] >= 2]
        if len(self._documents) < 2:
            raise DataError(f"{source}: a random second text needs two documents of at least two tokens")
        sizes = np.diff(self._documents, axis=1)[:, 0]
        counts = (sizes + room - 2) // room  # a last block of one token has no two halves
        self._document = np.repeat(np.arange(len(sizes)), counts)
        number = np.arange(len(self._document)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._start = self._documents[self._document, 0] + number * room
        self._bounds = np.cumsum([0, *map(len, source.parts)])
        self.fingerprint = digest("sentence pairs", LAYOUT, source.fingerprint, cls, sep, seed)

    def __repr__(self) -> str:
        return f"SentencePairs({self.source})"

    def __len__(self) -> int:
        return len(self._start)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64)))
        own, start = int(self._document[index]), int(self._start[index])
        stop = min(start + self.length - 3, int(self._documents[own, 1]))
        cut = start + int(rng.integers(1, stop - start))
        first, second, label = self._take(start, cut), (cut, stop), int(rng.integers(2))
        if label:
            other = int(rng.integers(len(self._documents) - 1))
            low, high = map(int, self._documents[other + (other >= own)])
            begin = int(rng.integers(low, max(high - (stop - cut), low) + 1))
            second = begin, min(begin + stop - cut, high)
        text = [self.cls, *first, self.sep, *self._take(*second), self.sep]
        rows = np.zeros((3, self.length), np.int32)
        rows[0, : len(text)], rows[1, len(first) + 2 : len(text)], rows[2, : len(text)] = text, 1, 1
        return {"tokens": rows[0], "token_types": rows[1], "segment_ids": rows[2], "label": np.int32(label)}

    def decode(self, tokens: Any) -> str:
        """The text of token ids."""
        return self.source.decode(tokens)

    def _take(self, start: int, stop: int) -> np.ndarray:
        """Tokens of the stream, which lies in parts."""
        first, last = np.searchsorted(self._bounds, (start, stop - 1), "right") - 1
        parts = [
            self.source.parts[p][max(start - self._bounds[p], 0) : stop - self._bounds[p]]
            for p in range(first, last + 1)
        ]
        return np.concatenate(parts)
