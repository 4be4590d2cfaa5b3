"""Windows: rows of a long stream of tokens, for training (every offset) and for evaluation (every token once).

The stream is the documents one after the other, each followed by the tokenizer's `eos` when it has one. A window
holds `length + 1` tokens: the inputs are all but the last of them, the targets all but the first.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest
from fmjax.data.source import ByRows
from fmjax.data.tokenizer import Tokenizer

LAYOUT = 1  # version of how documents are laid out in a stream and cut into windows


class TokenWindows(ByRows):
    """A source of windows over token ids that lie in one or several arrays, memory-mapped or not.

    With `stride=None` the windows cover the stream: each token but the first is a target of weight 1 exactly once,
    the last window is padded (weight 0), so that sums over rows are exact. With a `stride` the windows start at 0,
    stride, 2 stride, ... and are all full: 1 gives every offset, whose shuffled order is that of random crops.

    Rows hold tokens int32 (length + 1,); weights float32 (length,); bytes int32, how many bytes of text the weighted
    targets stand for. `eos` stands for none, but predicting it counts in the loss: bits per byte pay for ends. There
    are no `bytes` under a tokenizer that changes text (`Tokenizer`).

    Args:
      name: for people.
      parts: the stream, cut anywhere.
      documents: (documents + 1,) where each document starts in the stream, and the end.
      tokenizer: the one that made the ids.
      length: targets in a window.
      stride: tokens between the starts of windows; None covers the stream.
      context: with `stride=None`, how many targets at the start of each window but the first are only context for
        the others (weight 0), as in sliding-window evaluation.
      fingerprint: digest of the content of `parts`.

    Raises:
      DataError: the stream is too short for one window.
    """

    unit = "windows"

    def __init__(
        self,
        name: str,
        parts: Sequence[np.ndarray],
        documents: np.ndarray,
        tokenizer: Tokenizer,
        length: int,
        stride: int | None,
        context: int,
        fingerprint: str,
    ):
        if length < 1 or (stride is not None and stride < 1) or not 0 <= context < length:
            raise ConfigError(f"no windows of length={length}, stride={stride}, context={context}")
        if stride is not None and context:
            raise ConfigError("context is for covering windows: it wants stride=None")
        self.name, self.parts, self.documents = name, list(parts), documents
        self.tokenizer, self.vocab = tokenizer, tokenizer.vocab
        self.length, self.stride, self.context = length, stride, context
        self.fingerprint = digest("windows", LAYOUT, fingerprint, tokenizer.fingerprint, length, stride, context)
        self._bounds = np.cumsum([0, *map(len, self.parts)])
        self.total = int(self._bounds[-1])
        if self.total < (2 if stride is None else length + 1):
            raise DataError(f"{name} has {self.total} tokens, too few for windows of {length} + 1")
        if stride is None:
            self._step = length - context
            self._rows = 1 + max(0, -(-(self.total - 1 - length) // self._step))
        else:
            self._step = stride
            self._rows = 1 + (self.total - 1 - length) // stride

    def __repr__(self) -> str:
        return f"{self.name}, {len(self)} windows of {self.length}"

    def __len__(self) -> int:
        return self._rows

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The windows at `indices`, stacked."""
        indices = self.inside(indices)
        starts = indices * self._step
        tokens = self._take(starts)
        weights = np.ones((len(indices), self.length), np.float32)
        if self.stride is None:
            target = np.arange(self.length)
            weights *= target < (self.total - 1 - starts)[:, None]
            weights *= (target >= self.context) | (indices == 0)[:, None]
        rows = {"tokens": tokens, "weights": weights}
        if (widths := self.tokenizer.widths) is not None:
            sizes = widths[tokens[:, 1:]]
            rows["bytes"] = (sizes if self.stride else sizes * (weights > 0)).sum(1, dtype=np.int32)
        return rows

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def _take(self, starts: np.ndarray) -> np.ndarray:
        """(B, length + 1) int32 tokens from each start; zeros after the end of the stream."""
        width = self.length + 1
        first = np.searchsorted(self._bounds, starts, "right") - 1
        whole = starts + width <= self._bounds[first + 1]  # in one part
        if len(self.parts) == 1 and starts.size and whole.all():
            return _sliding(self.parts[0], width)[starts].astype(np.int32)
        out = np.zeros((len(starts), width), np.int32)
        for p in np.unique(first[whole]):
            mine = whole & (first == p)
            out[mine] = _sliding(self.parts[p], width)[starts[mine] - self._bounds[p]]
        for row in np.flatnonzero(~whole):  # across a border, or over the end
            at, p, filled = int(starts[row] - self._bounds[first[row]]), int(first[row]), 0
            while filled < width and p < len(self.parts):
                piece = self.parts[p][at : at + width - filled]
                out[row, filled : filled + len(piece)] = piece
                at, p, filled = 0, p + 1, filled + len(piece)
        return out


def _sliding(part: np.ndarray, width: int) -> np.ndarray:
    """Every window of a part, without a copy: numpy's sliding_window_view, whose checks take longer than a batch."""
    return np.ndarray((len(part) - width + 1, width), part.dtype, part, strides=part.strides * 2)


def with_end(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """A document as it lies in the stream."""
    return ids if tokenizer.eos is None else np.append(ids, np.array(tokenizer.eos, ids.dtype))
