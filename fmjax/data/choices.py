"""Multiple choice: a question and several answers, one of them right, as a language model scores them."""

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.asked import Asked
from fmjax.data.cache import cached, digest
from fmjax.data.chat import template_of, written
from fmjax.data.corpora import TextFiles
from fmjax.data.jsonlines import field, objects, words
from fmjax.data.packing import Plan, laid_out
from fmjax.data.source import ByRows, identity
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LAYOUT = 1  # version of how a question becomes ids


class Choices(ByRows):
    """Questions with answers to choose from, from JSON lines; random access.

    A line holds "question", a text, "choices", a list of texts, and "answer", the index of the right one. Rows hold
    choices (C, length + 1), the question with each answer; choice_weights (C, length) of the targets, 1 for the
    answer; choice_characters and choice_bytes (C,), how long each answer is; label. A row with fewer than C answers
    has weights of 0 in their place. Beside them stand tokens and weights, those of the right answer, so that a row
    is also one for next-token objectives.

    Question and answer are put together as EleutherAI's lm-eval does: spaces at the end of the question belong to
    the answer, both are encoded as one text, and the answer begins after as many tokens as the question has alone.
    With a chat template, the answer comes after the assistant's header instead, and is encoded apart.

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      tokenizer: what turns text to ids; its `eos` stands before the answers to an empty question.
      length: targets in a row; of a question that is too long, the beginning is cut.
      template: a chat template (`chat.Chats`), or None to continue plain text.
      delimiter: between question and answer.
      question, choices, answer: the fields.
      asked: what makes a question of a labelled line (`asked.Asked`); None takes lines as they are.
      pattern: which files of a folder.

    Attributes:
      long: {"truncated": answers whose question is cut}.

    Raises:
      DataError: a line that is no question, or an answer that is longer than a row; it is named.
    """

    unit = "questions"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        length: int = 512,
        template: str | None = None,
        delimiter: str = " ",
        question: str = "question",
        choices: str = "choices",
        answer: str = "answer",
        asked: Asked | None = None,
        pattern: str = "*.jsonl*",
    ):
        if length < 1:
            raise ConfigError(f"no rows of length={length}")
        self.tokenizer, self.vocab, self.length = tokenizer, tokenizer.vocab, length
        self.template = None if template is None else template_of(template)
        self.delimiter, self.fields, self.asked = delimiter, (question, choices, answer), asked
        self.files = TextFiles(paths, pattern)
        how = (None if template is None else dataclasses.astuple(self.template), delimiter, self.fields)
        content = digest("choices", LAYOUT, self.files.fingerprint, tokenizer.fingerprint, how, identity(asked))
        self._arrays = cached(content, self._encode)
        self.fingerprint = digest("choice rows", content, length)
        bounds, answers = self._arrays["bounds"], self._arrays["answers"]
        if answers.max() > length:
            row = int(np.searchsorted(self._arrays["firsts"], int(answers.argmax()), "right")) - 1
            raise DataError(
                f"question {row} in {self.files} has an answer of {answers.max()} tokens: raise the length to that"
            )
        sizes = np.diff(bounds)
        starts = bounds[:-1] + np.maximum(sizes - (length + 1), 0)  # the beginning goes
        self.long = {"truncated": int((sizes > length + 1).sum())}
        if self.long["truncated"]:
            log.warning("the questions of %d of %d answers are cut", self.long["truncated"], len(sizes))
        self._plan = Plan(starts, np.minimum(sizes, length + 1).astype(np.int32), np.arange(len(sizes) + 1))

    def __repr__(self) -> str:
        return f"{self.files}, {len(self)} questions"

    def __len__(self) -> int:
        return len(self._arrays["firsts"]) - 1

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The questions at `indices`, stacked."""
        indices, arrays = self.inside(indices), self._arrays
        first, counts = arrays["firsts"][indices], np.diff(arrays["firsts"])[indices]
        most = int(np.diff(arrays["firsts"]).max())
        which = np.minimum(first[:, None] + np.arange(most), len(arrays["answers"]) - 1)
        real = np.arange(most) < counts[:, None]
        read = lambda at: arrays["tokens"][at].astype(np.int32)  # noqa: E731
        tokens = laid_out(self._plan, which.ravel(), self.length + 1, read)["tokens"].reshape(*which.shape, -1)
        sizes, answers = self._plan.lengths[which][..., None], arrays["answers"][which][..., None]
        at = np.arange(1, self.length + 1)
        weights = ((at >= sizes - answers) & (at < sizes) & real[..., None]).astype(np.float32)
        tokens, label = tokens * real[..., None], arrays["label"][indices]
        own = (np.arange(len(indices)), label)
        return {
            "choices": tokens, "choice_weights": weights, "tokens": tokens[own], "weights": weights[own],
            "label": label, "choice_characters": arrays["characters"][which] * real,
            "choice_bytes": arrays["bytes"][which] * real,
        }  # fmt: skip

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def encoded(self, question: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a question and of an answer to it."""
        if self.template is not None:
            asked, _ = written([{"role": "user", "content": question}], self.tokenizer, self.template, ask=True)
            return asked, np.asarray(self.tokenizer.encode(answer), np.int32)
        return split_encoded(self.tokenizer, question, self.delimiter + answer)

    def _encode(self) -> dict[str, np.ndarray]:
        tokens, answers, labels, counts, characters, sizes = [], [], [], [], [], []
        for at, record in objects(self.files, self.asked):
            question, choices, label = self._checked(record, at)
            for choice in choices:
                both = self.encoded(question, choice)
                if not len(both[1]):
                    raise DataError(f"{at}: the answer {choice!r} has no token of its own after its question")
                tokens.append(np.concatenate(both).astype(self.tokenizer.dtype))
                answers.append(len(both[1]))
                characters.append(len(choice))
                sizes.append(len(choice.encode("utf-8")))
            labels.append(label)
            counts.append(len(choices))
        if not labels:
            raise DataError(f"there are no questions in {self.files}")
        bounds = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        arrays = {"answers": answers, "label": labels, "characters": characters, "bytes": sizes}
        whole = {key: np.array(values, np.int32) for key, values in arrays.items()}
        return {"tokens": np.concatenate(tokens), "bounds": bounds, "firsts": np.cumsum([0, *counts]), **whole}

    def _checked(self, record: dict[str, Any], at: str) -> tuple[str, list[str], int]:
        question, choices, label = (field(record, name, at) for name in self.fields)
        if not isinstance(question, str):
            raise DataError(f"{at}: {self.fields[0]!r} is no text but {type(question).__name__}")
        if not isinstance(choices, list) or len(choices) < 2:
            raise DataError(f"{at}: {self.fields[1]!r} is a list of two texts or more")
        if type(label) is not int or not 0 <= label < len(choices):
            raise DataError(f"{at}: {self.fields[2]!r} is {label!r}, and the {len(choices)} answers are 0, 1, ...")
        return question, [words(c, f"answer {i}", at) for i, c in enumerate(choices)], label


def split_encoded(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a context and of what continues it, as lm-eval splits them.

    Raises:
      ConfigError: an empty context, and a tokenizer without `eos` to put in its place.
    """
    if not context.rstrip():  # what is all spaces belongs to the continuation
        continuation = context + continuation
        if tokenizer.eos is None:
            raise ConfigError(
                f"an empty context needs an eos in its place, and the {tokenizer.kind} tokenizer has none"
            )
        return np.array([tokenizer.eos], np.int32), np.asarray(tokenizer.encode(continuation), np.int32)
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    whole = np.asarray(tokenizer.encode(context + continuation), np.int32)
    before = len(tokenizer.encode(context))
    return whole[:before], whole[before:]
