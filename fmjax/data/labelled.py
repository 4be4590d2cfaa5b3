"""Texts with labels: one text or two in a row, and a class or a number to say of them."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest
from fmjax.data.corpora import TextFiles
from fmjax.data.framing import LAYOUT, Texts, frame, shorten
from fmjax.data.source import ByRows
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LONG = ("fail", "truncate", "drop")


class LabelledTexts(ByRows):
    """A field of JSON lines, or a pair of them, framed as the tokenizer's models know it (framing.py), and its label.

    Rows hold tokens, segment_ids (0 for padding) and, for pairs, token_types (length,) int32; label int32, or with
    `numbers` targets float32.

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      tokenizer: what turns text to ids; without cls and sep, its eos ends each text.
      text: the field that is read.
      pair: the field of a second text; None for one text.
      label: the field of the class, a whole number or a name; None where there is none, and rows come without.
      classes: the names of the classes in order; None takes all names that occur, sorted, or leaves whole numbers.
        A part of the data may lack a class: name them wherever there are several parts.
      numbers: the label is a number to regress.
      length: tokens of a row, special ones included.
      long: at a row that is longer: "fail", "truncate" it (of a pair, the longer text first), or "drop" it.
      pattern: which files of a folder.

    Attributes:
      vocab: ids of the tokenizer.
      classes: names, or None.
      long: {"truncated": rows, "dropped": rows}.

    Raises:
      ConfigError: a tokenizer with nothing to end a text. DataError: a row that is too long, or whose label is none of
        the classes; it is named.
    """

    unit = "texts"
    along = ("tokens", "segment_ids", "token_types")

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        text: str = "sentence",
        pair: str | None = None,
        label: str | None = "label",
        classes: tuple[str, ...] | None = None,
        numbers: bool = False,
        length: int = 64,
        long: str = "fail",
        pattern: str = "*.jsonl*",
    ):
        if long not in LONG:
            raise ConfigError(f"long must be one of {', '.join(LONG)}, not {long!r}; {did_you_mean(long, LONG)}")
        if classes and (numbers or len(set(classes)) < len(classes)):
            raise ConfigError(f"classes={classes}: names differ, and a number to regress has none")
        self.frame, self.length = frame(tokenizer, pair is not None), length
        room = self.frame.room(length, pair is not None)
        self.files, self.tokenizer, self.vocab = TextFiles(paths, pattern), tokenizer, tokenizer.vocab
        self.texts, self.label, self.numbers = (text,) if pair is None else (text, pair), label, numbers
        content = digest("labelled", LAYOUT, self.files.fingerprint, self.texts, label, tokenizer.fingerprint)
        self._arrays = cached(content, self._encode)
        self.classes, self._labels = self._named(classes) if label is not None else (None, None)
        settings = (self.frame.front, self.frame.between, self.frame.back, self.frame.typed)
        self.fingerprint = digest("labelled", content, settings, self.classes, numbers, length, long)
        sizes = np.stack([np.diff(self._arrays[f"{field}_bounds"]) for field in range(len(self.texts))])
        over = sizes.sum(0) > room
        if over.any() and long == "fail":
            first, longest = int(np.flatnonzero(over)[0]), int(sizes.sum(0).max()) + length - room
            raise DataError(
                f"{int(over.sum())} of {len(over)} rows of {self.files} are longer than length={length}, the first is "
                f"row {first}; the longest needs {longest}: raise length, or choose long='truncate' or 'drop'"
            )
        self.long = {"truncated": int(over.sum()) * (long == "truncate"), "dropped": int(over.sum()) * (long == "drop")}
        if over.any():
            log.warning("%d of %d rows of %s are too long: %s", over.sum(), len(over), self.files, self.long)
        self._kept = np.flatnonzero(~over) if long == "drop" else np.arange(len(over))
        if not len(self._kept):
            raise DataError(f"every row of {self.files} is longer than length={length}: raise it")
        self._sizes = np.minimum(sizes, room) if pair is None else np.stack(shorten(*sizes, room))

    def __repr__(self) -> str:
        return f"{self.files}, {len(self)} texts"

    def __len__(self) -> int:
        return len(self._kept)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The texts at `indices`, stacked."""
        kept = self._kept[self.inside(indices)]
        texts = [
            Texts(self._arrays[f"{i}"], self._arrays[f"{i}_bounds"][kept], self._sizes[i][kept])
            for i in range(len(self.texts))
        ]
        laid = self.frame.lay(self.length, *texts)
        rows = {"tokens": laid.tokens, "segment_ids": laid.segment_ids}
        if len(texts) > 1:
            rows["token_types"] = laid.token_types
        if self._labels is not None:
            rows["targets" if self.numbers else "label"] = self._labels[kept]
        return rows

    @property
    def lengths(self) -> np.ndarray:
        """The tokens in each row, special ones included."""
        sizes = self._sizes[:, self._kept].sum(0)
        return sizes + self.length - self.frame.room(self.length, len(self.texts) > 1)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def _named(self, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...] | None, np.ndarray]:
        """The names of the classes, and every row's class or number."""
        values = self._arrays["label"]
        if values.dtype.kind == "U":
            names = tuple(np.unique(values).tolist()) if classes is None else classes
            if self.numbers:
                raise DataError(
                    f"row 0 of {self.files}: {self.label!r} is {str(values[0])!r}; numbers=True needs a number"
                )
            index = {name: i for i, name in enumerate(names)}
            for row, value in enumerate(values.tolist()):
                if value not in index:
                    raise DataError(
                        f"row {row} of {self.files} has the label {value!r}, which is no class; "
                        f"{did_you_mean(value, names)}"
                    )
            return names, np.array([index[value] for value in values.tolist()], np.int32)
        if self.numbers:
            return None, values.astype(np.float32)
        top = len(classes) if classes else np.inf
        wrong = np.flatnonzero((values != np.round(values)) | (values < 0) | (values >= top))
        if len(wrong):
            limit = f"0 to {len(classes) - 1}" if classes else "0 or more"
            raise DataError(
                f"row {int(wrong[0])} of {self.files} has the label {values[wrong[0]]:g}, which is no class ({limit}); "
                "numbers=True regresses it"
            )
        return classes, values.astype(np.int32)

    def _encode(self) -> dict[str, np.ndarray]:
        columns: list[list[str]] = [[] for _ in self.texts]
        labels: list[Any] = []
        fields = (*self.texts, *(() if self.label is None else (self.label,)))
        for at, record in self.files.objects(fields):
            for column, field in zip(columns, self.texts, strict=True):
                column.append(self.files.text(record[field], field, at))
            if self.label is not None:
                labels.append(_label(record[self.label], self.label, at))
                if isinstance(labels[-1], str) != isinstance(labels[0], str):
                    raise DataError(f"{at}: {self.label!r} is {labels[-1]!r}, and on the first line {labels[0]!r}")
        if not columns[0]:
            raise DataError(f"there are no texts in {self.files}")
        out: dict[str, np.ndarray] = {} if self.label is None else {"label": np.array(labels)}
        for i, column in enumerate(columns):
            ids = self.tokenizer.encode_many(column)
            out[f"{i}"], out[f"{i}_bounds"] = np.concatenate(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return out


def _label(value: Any, field: str, at: str) -> str | float:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)) and np.isfinite(value):
        return float(value)
    raise DataError(f"{at}: {field!r} is {value!r}, which is neither a class nor a number")
