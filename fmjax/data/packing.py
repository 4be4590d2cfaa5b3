"""Packing: several documents in a row, planned ahead as an index, so that it stays random access and loses no token.

Documents longer than a row are cut into pieces; the pieces are put into rows by best fit, longest first. Everything
about it is settled before the first row is read: the plan is three arrays, and the fingerprint covers them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest
from fmjax.data.shards import opened
from fmjax.data.source import ByRows
from fmjax.data.text import encode
from fmjax.data.tokenizer import Tokenizer
from fmjax.data.windows import LAYOUT

PLAN = 1  # version of how pieces are cut and put into rows


class Plan(NamedTuple):
    """Which piece of the stream lies in which row: row r holds pieces `rows[r]` to `rows[r + 1]`.

    Attributes:
      starts: (pieces,) where each piece starts in the stream.
      lengths: (pieces,) its tokens.
      rows: (rows + 1,) the first piece of each row, and the end.
    """

    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray


class PackedTokens(ByRows):
    """A source of packed rows over token ids that lie in one or several arrays, memory-mapped or not.

    With `next_token`, a row is what NextToken reads: `length + 1` tokens, whose targets are all but the first. A
    piece that continues a document repeats the last token of the piece before, so that over all rows every token
    but a document's last is an input exactly once, and every one but its first a target exactly once.
    Without it, a row has `length` tokens and every token of the stream is in it exactly once: for objectives that
    corrupt tokens and ask for them back.

    Rows hold tokens, segment_ids (1, 2, ... in each row, 0 for padding) and positions (from 0 in each piece), int32;
    weights float32 of the targets (of `length`), 1 where a target is text of the input's own piece; bytes int32, how
    many bytes of text the weighted targets stand for, where the tokenizer knows (`Tokenizer`).

    Args:
      name: for people.
      parts: the stream, cut anywhere.
      documents: (documents + 1,) where each document starts in the stream, and the end.
      tokenizer: the one that made the ids.
      length: targets in a row.
      next_token: whether the targets are the tokens that follow, or the tokens themselves.
      fingerprint: digest of the content of `parts`.

    Attributes:
      plan: which piece lies where.
      fill: the fraction of the slots that hold a token.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[np.ndarray],
        documents: np.ndarray,
        tokenizer: Tokenizer,
        length: int,
        next_token: bool,
        fingerprint: str,
    ):
        if length < 1:
            raise ConfigError(f"no rows of length={length}")
        self.name, self.parts, self.length, self.next_token = name, list(parts), length, next_token
        self.tokenizer, self.vocab = tokenizer, tokenizer.vocab
        self._bounds = np.cumsum([0, *map(len, self.parts)])
        self.width = length + next_token
        starts, lengths = cut(np.asarray(documents), self.width, overlap=int(next_token))
        if not len(starts):
            raise DataError(f"{name} has no tokens")
        self.plan = plan(starts, lengths, self.width)
        self.fill = float(lengths.sum() / (len(self) * self.width))
        settings = (PLAN, fingerprint, tokenizer.fingerprint, length, next_token)
        self.fingerprint = digest("packed", settings, tuple(self.plan))

    def __repr__(self) -> str:
        return f"{self.name}, {len(self)} packed rows of {self.length}"

    def __len__(self) -> int:
        return len(self.plan.rows) - 1

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at `indices`, stacked."""
        out = laid_out(self.plan, self.inside(indices), self.width, lambda at: gather(self.parts, self._bounds, at))
        segments, targets = out["segment_ids"], out["tokens"]
        counted = segments > 0
        if self.next_token:
            counted, targets = counted[:, 1:] & (segments[:, 1:] == segments[:, :-1]), targets[:, 1:]
        out["weights"] = counted.astype(np.float32)
        if (widths := self.tokenizer.widths) is not None:
            out["bytes"] = (widths[targets] * counted).sum(1, dtype=np.int32)
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)


class Packed(PackedTokens):
    """Packed rows over a corpus that fits in memory as tokens; it is encoded once, as for `text.Windows`.

    Args:
      corpus: documents with a `fingerprint` (corpora.py).
      tokenizer: what turns them to ids (tokenizers.py).
      length: targets in a row.
      next_token: whether rows are for next-token objectives (`length + 1` tokens) or for others (`length`).
    """

    def __init__(self, corpus: Any, tokenizer: Tokenizer, length: int, next_token: bool = True):
        fingerprint = digest("tokens", LAYOUT, corpus.fingerprint, tokenizer.fingerprint)
        keep = tokenizer.kind not in ("byte", "characters")
        self._arrays = cached(fingerprint, lambda: encode(corpus, tokenizer), keep=keep)
        tokens, documents = self._arrays["tokens"], self._arrays["documents"]
        super().__init__(repr(corpus), [tokens], documents, tokenizer, length, next_token, fingerprint)


class PackedShards(PackedTokens):
    """Packed rows over a folder that `python -m fmjax.tokenize` wrote; the plan needs only where documents start.

    Args:
      path: the folder.
      length: targets in a row.
      split: "train", "validation".
      next_token: as for `Packed`.
    """

    def __init__(self, path: str, length: int, split: str = "train", next_token: bool = True):
        self._given = (path, length, split, next_token)
        name, parts, documents, tokenizer, content = opened(path, split)
        super().__init__(name, parts, documents, tokenizer, length, next_token, content)

    def __reduce__(self):  # a worker process opens the files itself
        return PackedShards, self._given


def cut(documents: np.ndarray, width: int, overlap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of pieces of at most `width` tokens; one that continues repeats `overlap` tokens.

    Args:
      documents: (documents + 1,) where each starts, and the end; a document without tokens has no piece.
    """
    begins, sizes = documents[:-1].astype(np.int64), np.diff(documents.astype(np.int64))
    begins, sizes = begins[sizes > 0], sizes[sizes > 0]
    step = width - overlap
    counts = np.maximum(-(-(sizes - overlap) // step), 1)
    offsets = aranges(counts) * step
    starts = np.repeat(begins, counts) + offsets
    return starts, np.minimum(np.repeat(sizes, counts) - offsets, width)


def plan(starts: np.ndarray, lengths: np.ndarray, width: int) -> Plan:
    """Put pieces into rows of `width` by best fit, longest first; rows and the pieces in them in the order of the text.

    Pieces of one length are placed together, into all rows with the same room, so that the time grows with the
    number of different lengths and not with that of pieces times rows.
    """
    row_of = np.empty(len(lengths), np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    sizes, first = np.unique(-lengths[by_length], return_index=True)
    rooms: dict[int, list[np.ndarray]] = {}  # {slots left: rows}
    held = 0  # bit r is set where there are rows with r slots left
    rows = 0
    for size, pieces in zip((-sizes).tolist(), np.split(by_length, first[1:]), strict=True):
        while len(pieces):
            fitting = held >> size
            if fitting:  # the fullest rows that have room
                room = size + (fitting & -fitting).bit_length() - 1
                open_rows = np.concatenate(rooms.pop(room))
                held &= ~(1 << room)
            else:
                room, wanted = width, -(-len(pieces) // (width // size))
                open_rows, rows = np.arange(rows, rows + wanted), rows + wanted
            each = room // size
            used, kept = open_rows[: -(-len(pieces) // each)], open_rows[-(-len(pieces) // each) :]
            placed = np.repeat(used, each)[: len(pieces)]
            row_of[pieces[: len(placed)]], pieces = placed, pieces[len(placed) :]
            partly = len(placed) % each
            full = used[:-1] if partly else used
            for left, which in ((room, kept), (room - each * size, full), (room - partly * size, used[len(full) :])):
                if left and len(which):
                    rooms.setdefault(left, []).append(which)
                    held |= 1 << left
    order = np.lexsort((np.arange(len(row_of)), row_of))
    begins = np.flatnonzero(np.diff(row_of[order], prepend=-1))  # of each row, in `order`
    by_text = np.argsort(order[begins], kind="stable")
    counts = np.diff(begins, append=len(order))[by_text]
    order = order[np.repeat(begins[by_text], counts) + aranges(counts)]
    return Plan(starts[order], lengths[order].astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))


def laid_out(
    plan: Plan, indices: np.ndarray, width: int, read: Callable[[np.ndarray], np.ndarray], **more: np.ndarray
) -> dict[str, np.ndarray]:
    """tokens, segment_ids and positions (rows, width) of rows of a plan, 0 where there is padding.

    Args:
      read: the tokens at places of the stream.
      more: {key: an array as long as the stream}, laid out in the same way.
    """
    first, counts = plan.rows[indices], np.diff(plan.rows)[indices]
    number = aranges(counts)  # of each piece in its row
    pieces = np.repeat(first, counts) + number
    starts, lengths = plan.starts[pieces], plan.lengths[pieces]
    positions = aranges(lengths)
    where = np.repeat(starts, lengths) + positions
    row = np.repeat(np.repeat(np.arange(len(indices)), counts), lengths)
    slot = (row, aranges(np.bincount(row, minlength=len(indices))))
    found = {"tokens": read(where), "segment_ids": np.repeat(number + 1, lengths), "positions": positions}
    found |= {key: array[where] for key, array in more.items()}
    out = {}
    for key, values in found.items():
        out[key] = np.zeros((len(indices), width), more[key].dtype if key in more else np.int32)
        out[key][slot] = values
    return out


def aranges(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ..."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def gather(parts: Sequence[np.ndarray], bounds: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The tokens at these places of a stream that lies in `parts`, which start at `bounds`."""
    if len(parts) == 1:
        return parts[0][where].astype(np.int32)
    out, part = np.empty(len(where), np.int32), np.searchsorted(bounds, where, "right") - 1
    for p in np.unique(part):
        mine = part == p
        out[mine] = parts[p][where[mine] - bounds[p]]
    return out
