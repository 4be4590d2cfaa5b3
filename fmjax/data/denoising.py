"""Denoising: a text in two halves, one that is read and one that is asked for (T5, UL2, prefix language models).

Every denoiser gives the rows of an encoder-decoder: tokens, segment_ids, positions, and targets, target_segment_ids,
target_positions, weights (1 for a target, 0 for padding), all padded to lengths that depend on its settings only. Of
a packed row each document is denoised apart, so that nothing is asked for from another document. `Joined` makes rows
for a decoder of them. What of a row is text: see corruption.py.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.corruption import text_of
from fmjax.data.transforms import Example


class Denoiser:
    """What denoisers share: rows made of documents. Subclass as a frozen dataclass with a `length`."""

    length: int

    @property
    def sizes(self) -> tuple[int, int]:
        """The tokens and targets of a row."""
        raise TypeError(f"{type(self).__name__} must define sizes")

    def split(self, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What is read of a document of at least two tokens, and what is asked for."""
        raise TypeError(f"{type(self).__name__} must define split(text, rng)")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        text = text_of(example)
        real = text.segment_ids > 0
        if real.sum() > self.length:
            raise DataError(f"a row of {int(real.sum())} tokens, and {type(self).__name__} has length={self.length}")
        tokens, segments = text.tokens[real], text.segment_ids[real]
        cuts = np.flatnonzero(np.diff(segments)) + 1
        sides: tuple[list, list] = ([], [])
        room = list(self.sizes)
        for document in np.split(tokens, cuts):
            halves = self.split(document, rng) if len(document) > 1 else (document, document[:0])
            # Rounding can make many short documents a little longer than one long one: what has no room is left out.
            if all(len(half) <= left for half, left in zip(halves, room, strict=True)):
                for k, half in enumerate(halves):
                    sides[k].append(half)
                    room[k] -= len(half)
        read, asked = (_padded(side, size) for side, size in zip(sides, self.sizes, strict=True))
        return {
            "tokens": read[0], "segment_ids": read[1], "positions": read[2],
            "targets": asked[0], "target_segment_ids": asked[1], "target_positions": asked[2],
            "weights": (asked[1] > 0).astype(np.float32),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Denoiser):
    """Spans are replaced by sentinels in what is read, and asked for after the same sentinels (T5, arXiv 1910.10683).

    "a b c d e" becomes "a <0> d <1>" and "<0> b c <1> e". As in T5, noise and spans are as many as the length says,
    the spans' lengths are random with the mean that was asked for, and a text begins unharmed and ends in a span.

    Attributes:
      length: tokens of text in a row, at most.
      sentinels: their ids, the first span's first: `tokenizers.sentinels`, or `top_sentinels`.
      density: the share of the tokens that is asked for.
      mean_span: the mean length of a span.
      eos: put after both halves, or None.
    """

    length: int
    sentinels: tuple[int, ...]
    density: float = 0.15
    mean_span: float = 3.0
    eos: int | None = None

    def __post_init__(self):
        if not 0 < self.density < 1:
            raise ConfigError(f"density is the share of tokens to ask for, between 0 and 1, not {self.density}")
        if self.length < 2 or self.mean_span < 1:
            raise ConfigError(f"length is 2 or more and mean_span 1 or more, not {self.length} and {self.mean_span}")
        if len(set(self.sentinels)) < len(self.sentinels) or min(self.sentinels, default=0) < 0:
            raise ConfigError("sentinels are different ids of 0 or more")
        spans = self.counts(self.length)[1]
        if spans > len(self.sentinels):
            raise ConfigError(f"{self.length} tokens have {spans} spans, and there are {len(self.sentinels)} sentinels")

    def counts(self, length: int) -> tuple[int, int]:
        """How many tokens of a text are asked for, in how many spans."""
        noise = min(max(round(length * self.density), 1), length - 1)
        return noise, min(max(round(noise / self.mean_span), 1), noise, length - noise)

    @property
    def sizes(self) -> tuple[int, int]:
        noise, spans = self.counts(self.length)
        more = spans + (self.eos is not None)
        return self.length - noise + more, noise + more

    def split(self, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if np.isin(text, self.sentinels).any():
            raise DataError("the text holds a sentinel: give sentinels that no text is encoded to")
        noise, spans = self.counts(len(text))
        lengths = np.stack([_parts(len(text) - noise, spans, rng), _parts(noise, spans, rng)], 1).ravel()
        pieces = np.split(text, np.cumsum(lengths)[:-1])
        marks = [np.array([s], np.int32) for s in self.sentinels[:spans]]
        end = [] if self.eos is None else [np.array([self.eos], np.int32)]
        read = [half for pair in zip(pieces[::2], marks, strict=True) for half in pair]
        asked = [half for pair in zip(marks, pieces[1::2], strict=True) for half in pair]
        return np.concatenate(read + end), np.concatenate(asked + end)


@dataclasses.dataclass(frozen=True)
class SplitPrefix(Denoiser):
    """The beginning is read and the rest asked for; the cut is uniform between two shares of the text.

    Attributes:
      length: tokens of text in a row, at most.
      low: the smallest share that is read.
      high: the largest.
      eos: put after what is asked for, or None.
    """

    length: int
    low: float = 0.5
    high: float = 1.0
    eos: int | None = None

    def __post_init__(self):
        _check_shares(self.length, self.low, self.high)

    @property
    def sizes(self) -> tuple[int, int]:
        low, high = _cuts(self.length, self.low, self.high)
        return high, self.length - low + (self.eos is not None)

    def split(self, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        low, high = _cuts(len(text), self.low, self.high)
        cut = rng.integers(low, high + 1)
        end = [] if self.eos is None else [np.int32(self.eos)]
        return text[:cut], np.append(text[cut:], end).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Denoisers(Denoiser):
    """One of several denoisers for each document, drawn, behind a token that says which kind it is (UL2).

    Attributes:
      denoisers: what to draw from.
      modes: of each, the id put in front of what is read; () for none.
      rates: of each, how often it is drawn, relative to the others; () for all alike.
    """

    denoisers: tuple[Denoiser, ...]
    modes: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()

    def __post_init__(self):
        for what, given in (("modes", self.modes), ("rates", self.rates)):
            if given and len(given) != len(self.denoisers):
                raise ConfigError(f"there are {len(self.denoisers)} denoisers and {len(given)} {what}")
        if not self.denoisers or (self.rates and (min(self.rates) < 0 or not sum(self.rates))):
            raise ConfigError("a mixture has at least one denoiser, and rates of 0 or more that are not all 0")

    @property
    def length(self) -> int:
        return min(denoiser.length for denoiser in self.denoisers)

    @property
    def sizes(self) -> tuple[int, int]:
        read, asked = zip(*(denoiser.sizes for denoiser in self.denoisers), strict=True)
        return max(read) + bool(self.modes), max(asked)

    def split(self, text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chances = np.array(self.rates) / sum(self.rates) if self.rates else None
        which = int(rng.choice(len(self.denoisers), p=chances))
        read, asked = self.denoisers[which].split(text, rng)
        return np.append(np.array(self.modes[which : which + 1], np.int32), read).astype(np.int32), asked


def ul2(length: int, sentinels: tuple[int, ...], modes: tuple[int, ...] = (), eos: int | None = None) -> Denoisers:
    """The seven denoisers of UL2 (arXiv 2205.05131, table 1), all alike often.

    Args:
      length: tokens of text in a row, at most.
      sentinels: as for `SpanCorruption`; half of the tokens in spans of 3 are length / 6 of them.
      modes: ids that say "regular", "sequential" and "extreme"; () for none.
      eos: as for `SpanCorruption`.
    """
    if modes and len(modes) != 3:
        raise ConfigError(f"modes are three ids (regular, sequential, extreme) or none, not {len(modes)}")
    spans = ((0.15, 3), (0.15, 8), (0.5, 3), (0.5, 8), (0.15, 64), (0.5, 64))
    made = tuple(SpanCorruption(length, sentinels, density, mean, eos) for density, mean in spans)
    kinds = (0, 0, 1, 2, 2, 2, 2)
    return Denoisers((*made[:2], SplitPrefix(length, eos=eos), *made[2:]), tuple(modes[k] for k in kinds if modes))


def top_sentinels(vocab: int, count: int = 100) -> tuple[int, ...]:
    """The last `count` ids of a vocabulary, downwards as in T5.

    Raises:
      ConfigError: more of them than ids.
    """
    if not 0 < count < vocab:
        raise ConfigError(f"{count} sentinels do not fit a vocabulary of {vocab}")
    return tuple(range(vocab - 1, vocab - 1 - count, -1))


def text_length(size: int, density: float = 0.15, mean_span: float = 3.0, eos: bool = False) -> int:
    """The `length` of text whose span corruption is read as at most `size` tokens: T5 reads 512 of 568 + eos.

    Raises:
      ConfigError: no text is that short.
    """
    fits = [n for n in range(2, math.ceil(size / (1 - density)) + 2) if _read(n, density, mean_span, eos) <= size]
    if not fits:
        raise ConfigError(f"no text is read as {size} tokens once spans are sentinels")
    return fits[-1]


@dataclasses.dataclass(frozen=True)
class MarkPrefix:
    """The beginning of each document of a next-token row is marked in `prefix`: seen both ways, and not asked for.

    The cut is uniform between two shares of the document. The row loses its `bytes`: it no longer asks for all of them.

    Attributes:
      low: the smallest share that is marked.
      high: the largest.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        _check_shares(2, self.low, self.high)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if "tokens" not in example:
            raise DataError(f"a prefix is marked in 'tokens', and the row holds {', '.join(sorted(example))}")
        size = len(example["tokens"])
        segments = example.get("segment_ids")
        if segments is None:  # padding is at the end of a window
            weights = np.flatnonzero(np.asarray(example.get("weights", np.ones(size - 1))))
            segments = np.arange(size) < (weights[-1] + 2 if len(weights) else 0)
        segments, prefix = np.asarray(segments), np.zeros(size, np.int32)
        for document in np.unique(segments[segments > 0]):
            at = np.flatnonzero(segments == document)
            if len(at) > 1:
                low, high = _cuts(len(at), self.low, self.high)
                prefix[at[: rng.integers(low, high + 1)]] = 1
        return {**{key: value for key, value in example.items() if key != "bytes"}, "prefix": prefix}


@dataclasses.dataclass(frozen=True)
class Uncounted:
    """Targets of these ids weigh nothing: sentinels are easily told, and would flatter an accuracy."""

    ids: tuple[int, ...]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, "weights": example["weights"] * ~np.isin(example["targets"], self.ids)}


@dataclasses.dataclass(frozen=True)
class Joined:
    """A row of an encoder-decoder made one of a decoder: each document's targets follow its tokens, the `prefix`."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        sides, size = ([], []), len(example["tokens"]) + len(example["targets"])
        pairs = (("tokens", "segment_ids"), ("targets", "target_segment_ids"))
        for document in range(1, int(example["segment_ids"].max(initial=0)) + 1):
            halves = [example[key][example[segments] == document] for key, segments in pairs]
            sides[0].append(np.concatenate(halves))
            sides[1].append(np.arange(len(sides[0][-1])) < len(halves[0]))
        tokens, segments, positions = _padded(sides[0], size)
        prefix = np.pad(np.concatenate(sides[1] or [[]]), (0, size - sum(map(len, sides[1]))))
        return {"tokens": tokens, "segment_ids": segments, "positions": positions, "prefix": prefix.astype(np.int32)}


def _parts(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Random lengths of 1 or more that add up to the total, all ways alike."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def _padded(documents: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(size,) tokens, documents from 1, and positions."""
    out = np.zeros((3, size), np.int32)
    at = 0
    for number, tokens in enumerate(documents, 1):
        out[:, at : at + len(tokens)] = tokens, np.full(len(tokens), number), np.arange(len(tokens))
        at += len(tokens)
    return out[0], out[1], out[2]


def _read(length: int, density: float, mean_span: float, eos: bool) -> int:
    ids = tuple(range(length))
    return SpanCorruption(length, ids, density, mean_span, 0 if eos else None).sizes[0]


def _check_shares(length: int, low: float, high: float) -> None:
    if length < 2 or not 0 <= low <= high <= 1:
        raise ConfigError(f"length is 2 or more and 0 <= low <= high <= 1, not {length}, {low} and {high}")


def _cuts(length: int, low: float, high: float) -> tuple[int, int]:
    """The smallest and the largest prefix of a text of at least two tokens; both halves keep a token."""
    first = min(max(math.ceil(low * length), 1), length - 1)
    return first, max(first, min(math.floor(high * length), length - 1))
