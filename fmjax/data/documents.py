"""Documents made clean: Unicode in one form, without control characters, neither too short, too long nor repetitive."""

import dataclasses
import functools
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError, extra
from fmjax.data.cache import digest
from fmjax.data.parallel import alongside, groups, mapped

FORMS = ("NFC", "NFKC", "none")
# The most that the commonest n-gram, and all n-grams that occur again, may take of a text's words (arXiv 2112.11446,
# table A1; there of its characters).
COMMONEST = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
# C0 and C1 controls but tab and line feed, and the marks that are left over from files: none is seen by a reader.
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFEFF, 0xFFFE, 0xFFFF])
_SUSPECT = re.compile(f"[{re.escape(''.join(map(chr, _CONTROLS)))}\r]")


@dataclasses.dataclass(frozen=True)
class Cleaner:
    """What one document becomes: (text, "") when it is kept, ("", reason) when it is not; a plain function of it.

    Attributes:
      unicode: "NFC", "NFKC" (also full-width letters, ligatures) or "none".
      controls: drop control characters, and write every line end as a line feed.
      fix: repair text that was decoded wrongly (mojibake), with the `ftfy` library.
      min_chars: a shorter document is dropped: "too short".
      max_chars: a longer one too: "too long"; None keeps it.
      min_words: one with fewer words between spaces is dropped: "too few words".
      repetition: drop documents that repeat themselves: "repeated lines", "repeated words".
      duplicate_lines: the largest fraction of lines that were there before, and two thirds of it that of characters
        in such lines.
      ngrams: multiplies the largest fractions of words in repeated n-grams; 1 is what Gopher used.
    """

    unicode: str = "NFC"
    controls: bool = True
    fix: bool = False
    min_chars: int = 1
    max_chars: int | None = None
    min_words: int = 0
    repetition: bool = True
    duplicate_lines: float = 0.3
    ngrams: float = 1.0

    def __post_init__(self) -> None:
        if self.unicode not in FORMS:
            raise ConfigError(f"unicode must be one of {', '.join(FORMS)}, not {self.unicode!r}")
        if self.min_chars < 0 or self.min_words < 0 or (self.max_chars is not None and self.max_chars < 1):
            raise ConfigError("min_chars and min_words are 0 or more, max_chars is 1 or more")
        if not 0 <= self.duplicate_lines <= 1 or not math.isfinite(self.ngrams) or self.ngrams < 0:
            raise ConfigError("duplicate_lines is a fraction from 0 to 1, ngrams is 0 or more")

    @property
    def fingerprint(self) -> str:
        version = extra("ftfy", "text").__version__ if self.fix else None
        return digest("cleaner", 1, dataclasses.asdict(self), unicodedata.unidata_version, version)

    def __call__(self, text: str) -> tuple[str, str]:
        text = self.normalised(text)
        reason = self.reason(text)
        return ("", reason) if reason else (text, "")

    def normalised(self, text: str) -> str:
        """The text in one form, before any is dropped; doing it again changes nothing."""
        if self.fix:
            text = extra("ftfy", "text").fix_text(text, normalization=None)
        if self.controls and _SUSPECT.search(text):
            text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS)
        return text if self.unicode == "none" else unicodedata.normalize(self.unicode, text)

    def reason(self, text: str) -> str:
        """Why a document is dropped; "" keeps it."""
        stripped = text.strip()
        if len(stripped) < max(self.min_chars, 1):
            return "too short"
        if self.max_chars is not None and len(text) > self.max_chars:
            return "too long"
        words = stripped.split() if self.min_words or self.repetition else []
        if len(words) < self.min_words:
            return "too few words"
        if not self.repetition:
            return ""
        # Gopher counts paragraphs too; but headings are paragraphs, and a table of contents has them all again.
        count, chars = _repeats(stripped.split("\n"))
        if count > self.duplicate_lines or chars > self.duplicate_lines * 2 / 3:
            return "repeated lines"
        return "repeated words" if _repetitive(words, self.ngrams) else ""


class Cleaned:
    """A corpus with every document cleaned and the bad ones left out.

    Args:
      corpus: the documents.
      cleaner: what cleans one; `call(documents.Cleaner, min_chars=200)`.
      workers: processes that clean; 0 cleans here. It changes no document.

    Attributes:
      documents: how many there were, and
      dropped: {reason: how many} were left out, when it was last iterated over to the end.
    """

    def __init__(self, corpus: Any, cleaner: Cleaner | None = None, workers: int = 0):
        if workers < 0:
            raise ConfigError(f"workers is 0 or more, not {workers}")
        self.corpus, self.cleaner, self.workers = corpus, cleaner or Cleaner(), workers
        self.documents, self.dropped = 0, {}
        self._kept: bytes | None = None  # 1 for each document that stays: found by the first pass, used by the others

    def __repr__(self) -> str:
        return f"Cleaned({self.corpus!r})"

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest("cleaned", self.corpus.fingerprint, self.cleaner.fingerprint)

    def __iter__(self) -> Iterator[str]:
        if self._kept is not None:
            for text, kept in alongside(self.corpus, self._kept):
                if kept:
                    yield self.cleaner.normalised(text)
            return
        kept, dropped = bytearray(), Counter()
        for group in mapped(_Each(self.cleaner), groups(self.corpus), self.workers):
            for text, reason in group:
                kept.append(not reason)
                if reason:
                    dropped[reason] += 1
                else:
                    yield text
        self.documents, self.dropped, self._kept = len(kept), dict(sorted(dropped.items())), bytes(kept)
        if not any(kept):
            self._kept = None
            why = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise DataError(f"cleaning leaves nothing of the {len(kept)} documents of {self.corpus!r} ({why})")


class _Each:
    """A function of one document as one of a group."""

    def __init__(self, function: Callable[[str], Any]):
        self.function = function

    def __call__(self, group: list[str]) -> list[Any]:
        return [self.function(text) for text in group]


def _repeats(parts: list[str]) -> tuple[float, float]:
    """(fraction of the parts, fraction of their characters) that were there before; empty parts do not count."""
    parts = [part.strip() for part in parts if part.strip()]
    if len(parts) < 2:
        return 0.0, 0.0
    counts = Counter(parts)
    again = sum(count - 1 for count in counts.values())
    chars = sum((count - 1) * len(part) for part, count in counts.items())
    return again / len(parts), chars / sum(map(len, parts))


def _repetitive(words: list[str], slack: float) -> bool:
    """Whether n-grams take too many of the words."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
    grams = ids  # the same number where the last n words are the same
    for n in itertools.count(2):
        if n > max(REPEATED) or len(ids) < n:
            return False
        grams = np.unique(grams[:-1] * len(numbers) + ids[n - 1 :], return_inverse=True)[1].reshape(-1)
        counts = np.bincount(grams)
        if n in COMMONEST and counts.max() > 1 and counts.max() * n > COMMONEST[n] * slack * len(ids):
            return True
        if n in REPEATED:
            covered = np.zeros(len(ids) + 1, np.int64)  # +1 where a repeated n-gram begins, -1 where it has ended
            begins = np.flatnonzero(counts[grams] > 1)
            np.add.at(covered, begins, 1)
            np.add.at(covered, begins + n, -1)
            if (np.cumsum(covered) > 0).sum() > REPEATED[n] * slack * len(ids):
                return True
        if counts.max() == 1:  # longer ones do not repeat either
            return False
    return False
