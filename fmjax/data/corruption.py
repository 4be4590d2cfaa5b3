"""Masking: tokens hidden from an encoder, which is asked for them (BERT, arXiv 1810.04805).

A corruption reads a row of any source of text. Of a row of windows, which hold one token more than they have targets,
the targets are the text: covering windows have every token of the stream in them once. Where the row has `weights`
but no `segment_ids`, tokens of weight 0 are padding. Rows come without `bytes`: what is predicted is not all the text.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.transforms import Example

SHARES = "keep and swap are shares of the hidden tokens, 0 or more and together at most 1"


class Text(NamedTuple):
    """The text of a row: its tokens, which document each belongs to (0 is padding), and where it stands there."""

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray | None


def text_of(example: Example) -> Text:
    """The text of a row of windows, packed rows or pairs of sentences.

    Raises:
      DataError: a row without tokens, or with arrays of other lengths.
    """
    if "tokens" not in example:
        raise DataError(f"a corruption reads 'tokens', and the row holds {', '.join(sorted(example))}")
    tokens = np.asarray(example["tokens"], np.int32)
    weights = np.asarray(example.get("weights", np.ones(len(tokens))))
    extra = len(tokens) - len(weights)
    if extra not in (0, 1):
        raise DataError(f"a row of {len(tokens)} tokens has {len(weights)} weights, and wants as many or one less")
    segments, positions = (
        np.asarray(example[k])[extra:] if k in example else None for k in ("segment_ids", "positions")
    )
    if segments is None:
        segments = (weights > 0).astype(np.int32)
    return Text(tokens[extra:], segments, positions)


@dataclasses.dataclass(frozen=True)
class MaskTokens:
    """Hides tokens: most become `mask`, a few another token, a few stay; `targets` are what was there.

    A row gives tokens, targets, weights (1 for a hidden token), segment_ids, and of the row's own positions,
    token_types and label what it has. As in BERT, every row hides the same share of its tokens, rounded, and at least
    one: `rate` x length is what `MaskedTokens.most` can be set to. Special ids are never hidden nor put in.

    Attributes:
      tokenizer: says which ids are text, and where words begin.
      mask: the id that stands for a hidden token.
      rate: the share of the tokens to hide.
      keep: the share of the hidden that stays as it was.
      swap: the share of the hidden that becomes any token of text.
      whole_words: hide words, not tokens; words are drawn until the next would be too much.
      vocab: ids the model has, for the check of `mask`; None is the tokenizer's.
    """

    tokenizer: Any
    mask: int
    rate: float = 0.15
    keep: float = 0.1
    swap: float = 0.1
    whole_words: bool = False
    vocab: int | None = None

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise ConfigError(f"rate is the share of tokens to hide, between 0 and 1, not {self.rate}")
        if min(self.keep, self.swap) < 0 or self.keep + self.swap > 1:
            raise ConfigError(f"{SHARES}, not {self.keep} and {self.swap}")
        vocab = self.tokenizer.vocab if self.vocab is None else self.vocab
        if not 0 <= self.mask < vocab:
            raise ConfigError(f"mask={self.mask} is outside the vocabulary of {vocab}: reserve an id for it")
        if self._text[self.mask : self.mask + 1].any():
            raise ConfigError(f"mask={self.mask} is an id of ordinary text: reserve another one for it")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        text = text_of(example)
        targets, real = text.tokens, text.segment_ids > 0
        known = targets < len(self._text)
        open_ = real & known & self._text[np.where(known, targets, 0)]
        hidden = self._words(text, open_, rng) if self.whole_words else self._tokens(open_, rng)
        tokens, draw = targets.copy(), rng.random(len(hidden))
        tokens[hidden[draw >= self.keep + self.swap]] = self.mask
        swapped = hidden[(draw >= self.keep) & (draw < self.keep + self.swap)]
        tokens[swapped] = rng.choice(np.flatnonzero(self._text), len(swapped))
        weights = np.zeros(len(targets), np.float32)
        weights[hidden] = 1
        out = {"tokens": tokens, "targets": targets, "weights": weights, "segment_ids": text.segment_ids}
        if text.positions is not None:
            out["positions"] = text.positions
        return out | {key: example[key] for key in ("token_types", "label") if key in example}

    def _count(self, open_: np.ndarray) -> int:
        total = int(open_.sum())
        return min(total, max(1, round(self.rate * total)))

    def _tokens(self, open_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(np.flatnonzero(open_), self._count(open_), replace=False)

    def _words(self, text: Text, open_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        at, left, hidden = np.flatnonzero(open_), self._count(open_), []
        starts = self._begins[text.tokens[at]]
        starts |= (np.diff(at, prepend=-2) > 1) | (np.diff(text.segment_ids[at], prepend=-1) != 0)
        words = np.split(at, np.flatnonzero(starts)[1:]) if len(at) else []
        for i in rng.permutation(len(words)):
            if len(words[i]) <= left:
                hidden.append(words[i])
                left -= len(words[i])
        return np.concatenate(hidden or [at[:0]])

    @functools.cached_property
    def _text(self) -> np.ndarray:
        return ordinary(self.tokenizer)

    @functools.cached_property
    def _begins(self) -> np.ndarray:
        return begins_word(self.tokenizer)


def ordinary(tokenizer: Any) -> np.ndarray:
    """(vocab,) whether each id is text, and not special."""
    if tokenizer.widths is not None:
        return tokenizer.widths > 0
    text = np.ones(tokenizer.vocab, bool)
    text[[*tokenizer.special.values(), *tokenizer.sentinels]] = False
    return text


def begins_word(tokenizer: Any) -> np.ndarray:
    """(vocab,) whether each id begins a word: by a space or a sign in front, or because decoding puts one there.

    So "(" and " the" begin words of a byte-level vocabulary, and the letters after them do not; of WordPiece and
    SentencePiece, whose decoders put spaces between words, what goes on with a word does not begin one.
    """
    begins = np.ones(tokenizer.vocab, bool)
    for i in np.flatnonzero(ordinary(tokenizer)):
        one, two = tokenizer.decode([i]), tokenizer.decode([i, i])
        if two == one + one:
            begins[i] = not (one[:1].isalnum() or one[:1] == "\ufffd")  # half a character goes on
        elif one.startswith("##"):
            begins[i] = two != one + one[2:]
    return begins
