"""One or two texts in a row, framed by the special ids that their tokenizer has: [CLS] a [SEP] b [SEP]."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.data.packing import aranges
from fmjax.data.tokenizer import Tokenizer

LAYOUT = 1  # version of how texts become a row


class Texts(NamedTuple):
    """A text for each row: `sizes[i]` tokens of `stream` from `starts[i]`."""

    stream: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


class Laid(NamedTuple):
    """Rows of `length` tokens.

    Attributes:
      tokens: (B, length) int32, 0 for padding.
      segment_ids: (B, length) int32, 1 for tokens, 0 for padding.
      token_types: (B, length) int32, 1 for the second text and what ends it.
      begins: (B,) the column where each row's first text starts, and that of the second text (B,).
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    token_types: np.ndarray
    begins: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around texts.

    Attributes:
      front: ids before the first text.
      between: ids after the first of two.
      back: ids after the last.
      typed: whether the second text has a type of its own (BERT) or not (RoBERTa).
    """

    front: tuple[int, ...]
    between: tuple[int, ...]
    back: tuple[int, ...]
    typed: bool

    def room(self, length: int, pair: bool) -> int:
        """Tokens of text that fit into a row of `length`.

        Raises:
          ConfigError: none does.
        """
        room = length - len(self.front) - len(self.back) - pair * len(self.between)
        if room < 1 + pair:
            raise ConfigError(f"a row of length={length} has no room for text: {length - room} ids stand around it")
        return room

    def lay(self, length: int, first: Texts, second: Texts | None = None) -> Laid:
        """Rows of these texts, which must fit."""
        count = len(first.starts)
        zeros = np.zeros(count, np.int64)

        def same(ids: tuple[int, ...]) -> Texts:
            return Texts(np.array(ids, np.int32), zeros, np.full(count, len(ids)))

        pieces = [(same(self.front), 0), (first, 0)]
        if second is not None:
            pieces += [(same(self.between), 0), (second, int(self.typed))]
        pieces.append((same(self.back), pieces[-1][1]))
        tokens, segments, types = (np.zeros((count, length), np.int32) for _ in range(3))
        column, begins = zeros.copy(), []
        for (stream, starts, sizes), kind in pieces:
            begins.append(column.copy())
            inner = aranges(sizes)
            slot = (np.repeat(np.arange(count), sizes), np.repeat(column, sizes) + inner)
            tokens[slot], segments[slot], types[slot] = stream[np.repeat(starts, sizes) + inner], 1, kind
            column = column + sizes
        return Laid(tokens, segments, types, (begins[1], begins[3 if second is not None else 1]))


def frame(tokenizer: Tokenizer, pair: bool = False) -> Frame:
    """How models that read with this tokenizer frame texts, as `transformers` does.

    With cls and sep: cls a sep b sep, the second text of type 1 (BERT); where the two are the tokens that begin and
    end a document: <s> a </s></s> b </s>, all of type 0 (RoBERTa). Without cls: a eos b eos.

    Args:
      pair: whether there are two texts, which need something between them.

    Raises:
      ConfigError: a tokenizer with nothing that ends a text.
    """
    special = tokenizer.special
    if "cls" in special and "sep" in special:
        twice = special["cls"] == special.get("bos") and special["sep"] == tokenizer.eos
        sep = (special["sep"],)
        return Frame((special["cls"],), sep * 2 if twice else sep, sep, typed=not twice)
    end = special.get("sep", tokenizer.eos)
    if end is None:
        raise ConfigError(
            f"the {tokenizer.kind} tokenizer has nothing to end a text with: wrap it, "
            "call(tokenizers.with_specials, tokenizer=..., names=('cls', 'sep'))"
        )
    front = (special["cls"],) if "cls" in special else ()
    return Frame(front, (end,), (end,), typed=True)


def shorten(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of two texts cut to `room` together, from the longer until both are alike, then from both.

    An odd token stays with the text that was longer (at a tie, the second), as in the `tokenizers` library.
    """
    small = np.minimum(np.minimum(first, second), room // 2)
    large, fits, longer = room - small, first + second <= room, first > second
    return (
        np.where(fits, first, np.where(longer, large, small)),
        np.where(fits, second, np.where(longer, small, large)),
    )
