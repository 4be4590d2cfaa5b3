"""Questions about a text, answered by a span of it: SQuAD 1.1 (arXiv 1606.05250) and 2.0 (arXiv 1806.03822)."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest
from fmjax.data.corpora import BROKEN, OPENERS
from fmjax.data.framing import LAYOUT, Texts, frame
from fmjax.data.packing import aranges
from fmjax.data.source import ByRows
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
PARTS = ("all", "train", "validation")


class Question(NamedTuple):
    """A question as the file has it; `answers` are (text, first character), none where there is no answer."""

    id: str
    title: str
    context: int
    text: str
    answers: tuple[tuple[str, int], ...]


class Questions(ByRows):
    """Rows "cls question sep window sep": a context longer than a row lies in several windows, which overlap.

    Rows hold tokens, segment_ids, token_types, framed as for `LabelledTexts`; weights float32, 1 for the tokens that an
    answer may begin and end with: those of the window, and the first of the row, which stands for "no answer here";
    span (2,) int32, the first and last token of the question's first answer, both 0 where it is not in the window.

    Args:
      paths: files in SQuAD's JSON, `.gz` and `.xz` unpacked.
      tokenizer: what turns text to ids; it must have a cls, and say where in a text its tokens are from.
      length: tokens of a row.
      stride: tokens from the start of a window to that of the next.
      longest: tokens of a question; the end of a longer one is cut.
      answerable: leave out the questions without an answer (those of SQuAD 2.0).
      without: files whose articles are left out, by title.
      part: "train" or "validation" holds whole articles out, chosen by the hash of their title; or "all".
      held_out: the fraction of the articles that goes to validation, rounded, at least one.

    Attributes:
      vocab: ids of the tokenizer.
      questions: all of them, each a `Question`, by number.
      contexts: the texts.
      question: (rows,) the number of each row's question.
      unmarked: answers that no run of tokens covers; their rows say that there is none.

    Raises:
      ConfigError: a tokenizer without cls, or lengths that leave no window. DataError: a file of another form, an
        answer that is not in its text (it is named), or nothing left.
    """

    unit = "windows"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        length: int = 256,
        stride: int = 128,
        longest: int = 64,
        answerable: bool = False,
        without: str | tuple[str, ...] | None = None,
        part: str = "all",
        held_out: float = 0.15,
    ):
        tokenizer.special_id("cls")
        self.frame, self.length, self.stride = frame(tokenizer, pair=True), length, stride
        if stride < 1 or longest < 1:
            raise ConfigError(f"stride and longest are 1 or more, not {stride} and {longest}")
        if self.frame.room(length, pair=True) - longest < stride:
            raise ConfigError(
                f"a row of length={length} with a question of longest={longest} has windows of "
                f"{self.frame.room(length, pair=True) - longest} tokens, and stride={stride} would leave some out"
            )
        self.paths, self.tokenizer, self.vocab = _tuple(paths), tokenizer, tokenizer.vocab
        self.contexts, self.questions = read(self.paths, answerable, _tuple(without), part, held_out)
        content = digest("questions", LAYOUT, self.contexts, [tuple(q) for q in self.questions], tokenizer.fingerprint)
        self._arrays = cached(content, self._encode)
        settings = (self.frame.front, self.frame.between, self.frame.back, self.frame.typed)
        self.fingerprint = digest("questions", content, settings, length, stride, longest)
        self._plan(longest)

    def __repr__(self) -> str:
        return f"Questions({', '.join(self.paths)}), {len(self.questions)} questions in {len(self)} windows"

    def __len__(self) -> int:
        return len(self.question)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The windows at `indices`, stacked."""
        at = self.inside(indices)
        arrays, asked = self._arrays, self.question[at]
        first = Texts(arrays["questions"], arrays["questions_bounds"][asked], self._asked[asked])
        second = Texts(arrays["contexts"], self._start[at], self._size[at])
        laid = self.frame.lay(self.length, first, second)
        begin = laid.begins[1]
        column = np.arange(self.length)
        inside = (column >= begin[:, None]) & (column < (begin + self._size[at])[:, None])
        span = arrays["spans"][asked] - self._start[at][:, None]  # from the start of the window
        there = (arrays["spans"][asked, 0] >= 0) & (span[:, 0] >= 0) & (span[:, 1] < self._size[at])
        return {
            "tokens": laid.tokens,
            "segment_ids": laid.segment_ids,
            "token_types": laid.token_types,
            "weights": (inside | (column == 0)).astype(np.float32),
            "span": np.where(there[:, None], span + begin[:, None], 0).astype(np.int32),
        }

    def answer(self, row: int, first: int, last: int) -> str:
        """The text from token `first` to token `last` of a row; "" for (0, 0) and what is outside of the window."""
        question = int(self.question[row])
        begin = len(self.frame.front) + int(self._asked[question]) + len(self.frame.between)
        a, b = first - begin, last - begin
        if not 0 <= a <= b < self._size[row]:
            return ""
        offsets = self._arrays["offsets"]
        start, stop = offsets[self._start[row] + a, 0], offsets[self._start[row] + b, 1]
        return self.contexts[self.questions[question].context][start:stop].strip()

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def _plan(self, longest: int) -> None:
        """Which window of which question each row is."""
        bounds = self._arrays["contexts_bounds"]
        context = np.array([q.context for q in self.questions])
        self._asked = np.minimum(np.diff(self._arrays["questions_bounds"]), longest)
        room = self.frame.room(self.length, pair=True) - self._asked
        sizes = np.diff(bounds)[context]
        counts = 1 + np.maximum(-(-(sizes - room) // self.stride), 0)
        self.question = np.repeat(np.arange(len(context)), counts)
        offset = aranges(counts) * self.stride
        self._start = bounds[context][self.question] + offset
        self._size = np.minimum(sizes[self.question] - offset, room[self.question])
        self.unmarked = int(sum(bool(q.answers) for q in self.questions) - (self._arrays["spans"][:, 0] >= 0).sum())
        if self.unmarked:
            log.warning("%s: no run of tokens covers %d answers", self, self.unmarked)

    def _encode(self) -> dict[str, np.ndarray]:
        encoded = [self.tokenizer.encode_with_offsets(text) for text in self.contexts]
        asked = self.tokenizer.encode_many([q.text for q in self.questions])
        bounds = np.cumsum([0, *(len(ids) for ids, _ in encoded)], dtype=np.int64)
        spans = np.full((len(self.questions), 2), -1, np.int64)
        for number, question in enumerate(self.questions):
            if question.answers:
                text, start = question.answers[0]
                found = covering(encoded[question.context][1], start, start + len(text))
                if found is not None:
                    spans[number] = bounds[question.context] + np.array(found)
        return {
            "contexts": np.concatenate([ids for ids, _ in encoded]),
            "contexts_bounds": bounds,
            "offsets": np.concatenate([offsets for _, offsets in encoded]),
            "questions": np.concatenate(asked),
            "questions_bounds": np.cumsum([0, *map(len, asked)], dtype=np.int64),
            "spans": spans,
        }


class Passages:
    """A corpus of the texts and the questions about them: for training a tokenizer. Takes what `Questions` does."""

    def __init__(
        self,
        paths: str | tuple[str, ...],
        answerable: bool = False,
        without: str | tuple[str, ...] | None = None,
        part: str = "all",
        held_out: float = 0.15,
    ):
        self.paths = _tuple(paths)
        self.contexts, questions = read(self.paths, answerable, _tuple(without), part, held_out)
        self.questions = [q.text for q in questions]
        self.fingerprint = digest("passages", self.contexts, self.questions)

    def __repr__(self) -> str:
        return f"Passages({', '.join(self.paths)})"

    def __iter__(self) -> Iterator[str]:
        yield from self.contexts
        yield from self.questions


def read(
    paths: tuple[str, ...], answerable: bool, without: tuple[str, ...], part: str, held_out: float
) -> tuple[list[str], list[Question]]:
    """The contexts and the questions of files; contexts that no question asks about are left out.

    Raises:
      DataError: as `Questions` does.
    """
    if part not in PARTS or not 0 < held_out < 1:
        raise ConfigError(f"part={part!r} of held_out={held_out}: {did_you_mean(part, PARTS)}; a fraction of articles")
    articles = [pair for path in paths for pair in _articles(path)]
    refused = {title for path in without for title, _ in _articles(path)}
    articles = [(title, paragraphs) for title, paragraphs in articles if title not in refused]
    if part != "all":
        titles = sorted({title for title, _ in articles}, key=lambda title: digest("article", title))
        held = set(titles[: max(round(held_out * len(titles)), 1)])
        articles = [pair for pair in articles if (pair[0] in held) == (part == "validation")]
    contexts: list[str] = []
    questions: list[Question] = []
    for title, paragraphs in articles:
        for paragraph in paragraphs:
            try:
                text = paragraph["context"]
                asked = [_question(item, title, len(contexts), text) for item in paragraph["qas"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"the article {title!r} is not in SQuAD's form: {error!r}") from None
            asked = [question for question in asked if question.answers or not answerable]
            if asked:
                contexts.append(text)
                questions += asked
    if not questions:
        raise DataError(f"no question is left of {', '.join(paths)} (part={part!r}, {len(refused)} titles left out)")
    return contexts, questions


def covering(offsets: np.ndarray, start: int, stop: int) -> tuple[int, int] | None:
    """(first, last) of the tokens that hold characters start to stop - 1; None where there are none."""
    held = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < stop) & (offsets[:, 1] > offsets[:, 0]))
    return (int(held[0]), int(held[-1])) if len(held) else None


def _question(item: dict[str, Any], title: str, context: int, text: str) -> Question:
    answers = tuple((answer["text"], int(answer["answer_start"])) for answer in item["answers"])
    if item.get("is_impossible"):
        answers = ()
    for answer, start in answers:
        if not answer or text[max(start, 0) : start + len(answer)] != answer:
            there = text[max(start, 0) : max(start, 0) + len(answer)]
            raise DataError(
                f"question {item['id']} of the article {title!r}: the text has {there!r} at character {start}, "
                f"and not the answer {answer!r}"
            )
    return Question(str(item["id"]), title, context, item["question"], answers)


def _articles(path: str) -> list[tuple[str, list[Any]]]:
    """(title, paragraphs) of a file."""
    file = Path(os.path.expandvars(path)).expanduser()
    try:
        with OPENERS.get(file.suffix, open)(file, "rb") as opened:
            data = json.loads(opened.read())
        return [(str(article["title"]), article["paragraphs"]) for article in data["data"]]
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except BROKEN as error:
        raise DataError(f"cannot read {file}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is not in SQuAD's form ({error!r}): it has articles with paragraphs in 'data'"
        ) from None


def _tuple(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if paths is None else (paths,) if isinstance(paths, str) else tuple(paths)
