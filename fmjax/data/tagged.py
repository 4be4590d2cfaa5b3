"""Words with tags: sentences in rows, where the first subword of a word carries its tag (named entities, BIO)."""

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest
from fmjax.data.corpora import TextFiles
from fmjax.data.framing import LAYOUT, Texts, frame
from fmjax.data.packing import aranges
from fmjax.data.source import ByRows
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LONG = ("split", "truncate", "fail")
OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-.+", re.DOTALL)


class TaggedWords(ByRows):
    """Sentences of words with a BIO tag each; a word is encoded by itself, and its first subword is asked for its tag.

    Rows hold tokens and segment_ids (0 for padding), framed as for `LabelledTexts`; targets, the tags; and weights
    float32, 1 for the first subword of each word; all (length,).

    A word of which the tokenizer leaves nothing (a control character) is read as `unk`, or lost where there is none;
    one that is longer than a row by itself loses its end but not its tag. `assembled` puts sentences together again,
    in which lost words count as outside every entity: none is missing when entities are counted.

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      tokenizer: what turns words to ids.
      tokens: the field with the list of words.
      tags: the field with the list of tags: "O", "B-type" for the first word of an entity, "I-type" for the others.
      names: all tags in the order of their ids; None takes those that occur, "O" first. A part of the data may lack
        one: name them (`bio`) wherever there are several parts.
      length: tokens of a row, special ones included.
      long: at a sentence that is longer: "split" it between words into several rows, "truncate" it (the words after
        are lost), or "fail".
      pattern: which files of a folder.

    Attributes:
      vocab: ids of the tokenizer.
      names: the tags, by id.
      sentences: how many there are.
      long: {"split": sentences, "truncated": sentences}.
      lost: words that are in no row.

    Raises:
      DataError: a tag that is unknown or of another scheme, or a sentence that is too long; it is named.
    """

    unit = "rows of words"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        tokens: str = "tokens",
        tags: str = "tags",
        names: tuple[str, ...] | None = None,
        length: int = 64,
        long: str = "split",
        pattern: str = "*.jsonl*",
    ):
        if long not in LONG:
            raise ConfigError(f"long must be one of {', '.join(LONG)}, not {long!r}; {did_you_mean(long, LONG)}")
        for name in names or ():
            _check_tag(name, "names")
        self.frame, self.length = frame(tokenizer), length
        self._room = self.frame.room(length, pair=False)
        self.files, self.tokenizer, self.vocab = TextFiles(paths, pattern), tokenizer, tokenizer.vocab
        self.fields = (tokens, tags)
        content = digest("tagged", LAYOUT, self.files.fingerprint, self.fields, tokenizer.fingerprint)
        self._arrays = cached(content, self._encode)
        self.names, self.tags = self._named(names)
        self.sentences = len(self._arrays["sentences"]) - 1
        settings = (self.frame.front, self.frame.back)
        self.fingerprint = digest("tagged", content, settings, self.names, length, long)
        self._plan(long)

    def __repr__(self) -> str:
        return f"{self.files}, {self.sentences} sentences in {len(self)} rows"

    def __len__(self) -> int:
        return len(self._rows) - 1

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at `indices`, stacked."""
        indices = self.inside(indices)
        at, words = self._rows[indices], np.diff(self._rows)[indices]
        row, number = np.repeat(np.arange(len(indices)), words), aranges(words)
        word = self._words[np.repeat(at, words) + number]
        sizes = self._sizes[word]
        ends = np.cumsum(sizes)
        before = ends - sizes  # tokens of this batch before each word
        begins = before[np.cumsum(words) - words] if len(word) else np.zeros(len(indices), np.int64)
        totals = np.bincount(row, sizes, len(indices)).astype(np.int64)
        stream = self._arrays["tokens"][np.repeat(self._arrays["words"][word], sizes) + aranges(sizes)]
        laid = self.frame.lay(self.length, Texts(stream, begins, totals))
        targets, weights = np.zeros_like(laid.tokens), np.zeros(laid.tokens.shape, np.float32)
        slot = (row, laid.begins[0][row] + before - begins[row])
        targets[slot], weights[slot] = self.tags[word], 1
        return {"tokens": laid.tokens, "segment_ids": laid.segment_ids, "targets": targets, "weights": weights}

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def assembled(self, predicted: np.ndarray, first: int = 0) -> list[tuple[list[str], list[str]]]:
        """(true tags, predicted tags) of every sentence that lies whole in these rows; lost words are predicted "O".

        Args:
          predicted: (N, length) ids of tags, of the rows from `first` on.

        Raises:
          DataError: more rows than there are, or others.
        """
        if len(predicted) + first > len(self) or predicted.shape[1:] != (self.length,):
            raise DataError(f"predictions {predicted.shape} are not of the {len(self)} rows of {self.length} of {self}")
        guess = np.full(len(self.tags), self.names.index(OUTSIDE) if OUTSIDE in self.names else -1)
        step = 1024
        for start in range(0, len(predicted), step):
            index = np.arange(start, min(start + step, len(predicted)))
            at, words = self._rows[first + index], np.diff(self._rows)[first + index]
            word = self._words[np.repeat(at, words) + aranges(words)]
            guess[word] = predicted[index][self.rows(first + index)["weights"] > 0]
        bounds, out = self._arrays["sentences"], []
        said = lambda ids: [self.names[i] if i >= 0 else OUTSIDE for i in ids.tolist()]  # noqa: E731
        for sentence in np.flatnonzero((self._first >= first) & (self._last < first + len(predicted))):
            own = slice(bounds[sentence], bounds[sentence + 1])
            out.append((said(self.tags[own]), said(guess[own])))
        return out

    def _plan(self, long: str) -> None:
        """Which words lie in which row: row r holds words `_words[_rows[r]:_rows[r + 1]]`."""
        bounds = self._arrays["sentences"]
        self._sizes = np.minimum(np.diff(self._arrays["words"]), self._room)
        words: list[np.ndarray] = []
        rows, self.long = [0], {"split": 0, "truncated": 0}
        self._first, self._last = np.zeros(self.sentences, np.int64), np.zeros(self.sentences, np.int64)
        for sentence in range(self.sentences):
            own = np.arange(bounds[sentence], bounds[sentence + 1])
            own = own[self._sizes[own] > 0]
            total = int(self._sizes[own].sum())
            self._first[sentence] = len(rows) - 1
            if total > self._room and long == "fail":
                raise DataError(
                    f"sentence {sentence} of {self.files} has {total} tokens, and {self._room} fit into "
                    f"length={self.length}: raise it, or choose long='split' or 'truncate'"
                )
            if total > self._room:
                self.long["truncated" if long == "truncate" else "split"] += 1
            while len(own):
                count = int(np.searchsorted(np.cumsum(self._sizes[own]), self._room, "right"))
                words.append(own[:count])
                rows.append(rows[-1] + count)
                own = own[len(own) if long == "truncate" else count :]
            self._last[sentence] = len(rows) - 2
            if self._last[sentence] < self._first[sentence]:  # no word of it is in a row
                self._first[sentence] = self._last[sentence] = max(len(rows) - 2, 0)
        if len(rows) < 2:
            raise DataError(f"no word of {self.files} is in a row: the tokenizer leaves nothing of them")
        self._words, self._rows = np.concatenate(words), np.array(rows)
        self.lost = len(self._sizes) - len(self._words)
        if self.lost:
            log.warning("%s: %d of %d words are in no row and count as outside of entities (%d sentences are cut)",
                        self.files, self.lost, len(self._sizes), self.long["truncated"])  # fmt: skip

    def _named(self, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], np.ndarray]:
        """The names, and every word's id."""
        there = self._arrays["names"].tolist()
        if names is None:
            return tuple(there), self._arrays["tags"]
        for i, tag in enumerate(there):
            if tag not in names:
                word = int(np.flatnonzero(self._arrays["tags"] == i)[0])
                sentence = int(np.searchsorted(self._arrays["sentences"], word, "right")) - 1
                raise DataError(
                    f"sentence {sentence} of {self.files} has the tag {tag!r}, which is none of names; "
                    f"{did_you_mean(tag, names)}"
                )
        return tuple(names), np.array([names.index(tag) for tag in there], np.int32)[self._arrays["tags"]]

    def _encode(self) -> dict[str, np.ndarray]:
        words: list[str] = []
        tags: list[str] = []
        bounds = [0]
        exact = self.tokenizer.widths is not None  # then words are told apart by the space in front of them
        for at, record in self.files.objects(self.fields):
            given = [record[field] for field in self.fields]
            for field, values in zip(self.fields, given, strict=True):
                if not isinstance(values, list):
                    raise DataError(f"{at}: {field!r} is no list but {type(values).__name__}")
            if len(given[0]) != len(given[1]) or not given[0]:
                raise DataError(f"{at} has {len(given[0])} words and {len(given[1])} tags: one tag a word")
            spaced = ["", *[" " * exact] * (len(given[0]) - 1)]
            words += [s + self.files.text(w, self.fields[0], at) for s, w in zip(spaced, given[0], strict=True)]
            tags += [_check_tag(tag, f"{at}: {self.fields[1]!r}") for tag in given[1]]
            bounds.append(len(words))
        if not words:
            raise DataError(f"there are no words in {self.files}")
        known = sorted(set(words))
        encoded = dict(zip(known, self.tokenizer.encode_many(known), strict=True))
        if (unk := self.tokenizer.special.get("unk")) is not None:
            nothing = np.array([unk], self.tokenizer.dtype)
            encoded = {word: ids if len(ids) else nothing for word, ids in encoded.items()}
        ids = [encoded[word] for word in words]
        names = sorted(set(tags), key=lambda tag: (tag != OUTSIDE, tag[2:], tag))
        index = {name: i for i, name in enumerate(names)}
        return {
            "tokens": np.concatenate(ids),
            "words": np.cumsum([0, *map(len, ids)], dtype=np.int64),
            "sentences": np.array(bounds, np.int64),
            "tags": np.array([index[tag] for tag in tags], np.int32),
            "names": np.array(names),
        }


class Sentences:
    """A corpus of such sentences, the words of each with a space between: for training a tokenizer.

    Args:
      paths: as for `TaggedWords`.
      tokens: the field with the list of words.
    """

    def __init__(self, paths: str | tuple[str, ...], tokens: str = "tokens", pattern: str = "*.jsonl*"):
        self.files, self.field = TextFiles(paths, pattern), tokens
        self.fingerprint = digest("sentences", self.files.fingerprint, tokens)

    def __repr__(self) -> str:
        return f"Sentences({self.files})"

    def __iter__(self) -> Iterator[str]:
        for at, record in self.files.objects((self.field,)):
            yield " ".join(self.files.text(word, self.field, at) for word in record[self.field])


def bio(*types: str) -> tuple[str, ...]:
    """The tags of these types of entities, "O" first: B-a, I-a, B-b, I-b, ..."""
    return (OUTSIDE, *(f"{mark}-{kind}" for kind in types for mark in "BI"))


def _check_tag(tag: Any, at: str) -> str:
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise DataError(f"{at} has the tag {tag!r}, and BIO tags are 'O', 'B-type' and 'I-type'")
    return tag
