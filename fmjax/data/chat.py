"""Chats: who said what, written with a template; only what the assistant says counts as a target."""

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.asked import Asked
from fmjax.data.cache import cached, digest
from fmjax.data.corpora import TextFiles
from fmjax.data.jsonlines import field, objects, words
from fmjax.data.packing import Plan, laid_out, plan
from fmjax.data.source import ByRows, identity
from fmjax.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)
LAYOUT = 1  # version of how a chat becomes ids
LONG = ("fail", "truncate", "drop")
ROLES = ("system", "user", "assistant")
EOS = "<eos>"  # in a template: the tokenizer's own end, nothing where it has none
Message = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Template:
    """How chats are written: `begin`, then for every message its header, its text, `end` and `between`.

    What the tokenizer has as a token of that name becomes its id, everything else is encoded as text. A message that
    spells such a name is encoded as the text it is, so that no user can end a turn.

    Attributes:
      header: before a message, with "{role}" or "{Role}" in it.
      end: after a message; after an assistant's it is a target, because it is what stops the writing.
      end_other: after the messages of others; None is `end`.
      between: after every end, never a target.
      strip: whether spaces around a message are cut.
    """

    header: str
    end: str
    begin: str = ""
    end_other: str | None = None
    between: str = ""
    strip: bool = False


TEMPLATES = {
    "chatml": Template("<|im_start|>{role}\n", "<|im_end|>", between="\n"),
    "llama3": Template(
        "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", begin="<|begin_of_text|>", strip=True
    ),
    "plain": Template("{Role}: ", EOS, end_other="", between="\n", strip=True),
}


def template_of(template: str | Template) -> Template:
    """A template by name, or one's own.

    Raises:
      ConfigError: there is no such template.
    """
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise ConfigError(f"there is no chat template {template!r}; {did_you_mean(template, TEMPLATES)}")
    return TEMPLATES[template]


def written(
    messages: Sequence[Message], tokenizer: Tokenizer, template: str | Template = "chatml", ask: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, weights) of a chat: int32, and float32 that is 1 for the assistant's words and the end after them.

    Args:
      messages: {"role", "content"} of each.
      ask: whether the header of an answer to come is put at the end, for a model to continue.
    """
    how = template_of(template)
    pieces, counted = [_marked(how.begin, tokenizer)], [False]
    for message in messages:
        answer, text = message["role"] == "assistant", message["content"]
        last = how.end if answer or how.end_other is None else how.end_other
        pieces += [
            _marked(_header(how, message["role"]), tokenizer),
            tokenizer.encode(text.strip() if how.strip else text),
            _marked(last, tokenizer),
            _marked(how.between, tokenizer),
        ]
        counted += [False, answer, answer, False]
    if ask:
        # What is said next must come after the header as in training: encoded apart.
        pieces, counted = [*pieces, _marked(_header(how, "assistant"), tokenizer)], [*counted, False]
    weights = np.repeat(np.float32(counted), [len(piece) for piece in pieces])
    return np.concatenate([np.asarray(piece, np.int32) for piece in pieces]), weights


class Chats(ByRows):
    """Chats of JSON lines as rows for next-token objectives, with weight on the answers only; random access.

    A line holds "messages", a list of {"role", "content"} with roles system, user and assistant, or the two texts
    "prompt" and "response". Rows hold tokens, segment_ids, positions (length + 1,), weights (length,) of the targets,
    and bytes, how many bytes of text the weighted targets stand for, where the tokenizer knows (`Tokenizer`).

    Args:
      paths: `.jsonl` files or folders of them, `.gz` and `.xz` unpacked.
      tokenizer: what turns text to ids.
      template: "chatml", "llama3", "plain", or a `Template`.
      length: targets in a row.
      long: at a chat that is longer than a row: "fail", "drop" it, or "truncate" its end; the questions before an
        answer always stay, and a chat of which no answer is left is dropped.
      pack: put several chats into a row, as documents of their own; best fit, longest first.
      prompt: the field of the question, in lines without messages.
      response: the field of the answer.
      asked: what makes a question and an answer of a labelled line (`asked.Asked`); None takes lines as they are.
      pattern: which files of a folder.

    Attributes:
      long: {"truncated": chats, "dropped": chats}.
      plan: which chat lies where, see `packing.Plan`.

    Raises:
      DataError: a line that is no chat, or a chat that is too long; it is named.
    """

    unit = "rows of chats"

    def __init__(
        self,
        paths: str | tuple[str, ...],
        tokenizer: Tokenizer,
        template: str = "chatml",
        length: int = 512,
        long: str = "fail",
        pack: bool = False,
        prompt: str = "prompt",
        response: str = "response",
        asked: Asked | None = None,
        pattern: str = "*.jsonl*",
    ):
        if long not in LONG:
            raise ConfigError(f"long must be one of {', '.join(LONG)}, not {long!r}; {did_you_mean(long, LONG)}")
        if length < 1:
            raise ConfigError(f"no rows of length={length}")
        self.tokenizer, self.vocab, self.length = tokenizer, tokenizer.vocab, length
        self.template, self.fields = template_of(template), (prompt, response)
        self.files, self.asked = TextFiles(paths, pattern), asked
        how = (dataclasses.astuple(self.template), identity(asked), self.fields)
        content = digest("chats", LAYOUT, self.files.fingerprint, tokenizer.fingerprint, how)
        self._arrays = cached(content, self._encode)
        self.fingerprint = digest("chat rows", content, length, long, pack)
        bounds = self._arrays["bounds"]
        starts, sizes = bounds[:-1], np.diff(bounds)
        over = sizes > length + 1
        if over.any() and long == "fail":
            first = int(np.flatnonzero(over)[0])
            raise DataError(
                f"{int(over.sum())} of {len(over)} chats are too long, the first is chat {first} with {sizes[first]} "
                f"tokens (a row has {length + 1}): raise the length to {sizes.max() - 1}, or choose long='truncate' or "
                "'drop'"
            )
        kept = ~over if long == "drop" else self._answered(starts, sizes)
        self.long = {"truncated": int((over & kept).sum()), "dropped": int((~kept).sum())}
        if over.any():
            log.warning("%d of %d chats are too long: %s", over.sum(), len(over), self.long)
        if not kept.any():
            raise DataError(f"every chat in {self.files} is too long: raise the length to {sizes.max() - 1}")
        starts, sizes = starts[kept], np.minimum(sizes[kept], length + 1)
        if pack:
            self.plan = plan(starts, sizes, length + 1)
        else:
            self.plan = Plan(starts, sizes.astype(np.int32), np.arange(len(starts) + 1))

    def __repr__(self) -> str:
        return f"{self.files}, {len(self.plan.starts)} chats in {len(self)} rows of {self.length}"

    def __len__(self) -> int:
        return len(self.plan.rows) - 1

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at `indices`, stacked."""
        stream, weights = self._arrays["tokens"], self._arrays["weights"]
        read = lambda at: stream[at].astype(np.int32)  # noqa: E731
        out = laid_out(self.plan, self.inside(indices), self.length + 1, read, weights=weights)
        out["weights"] = out["weights"][:, 1:].astype(np.float32)
        if (widths := self.tokenizer.widths) is not None:
            out["bytes"] = (widths[out["tokens"][:, 1:]] * (out["weights"] > 0)).sum(1, dtype=np.int32)
        return out

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(tokens)

    def _answered(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which chats have a target in their first `length + 1` tokens."""
        before = np.concatenate([[0], np.cumsum(self._arrays["weights"], dtype=np.int64)])
        return before[starts + np.minimum(sizes, self.length + 1)] > before[starts]

    def _encode(self) -> dict[str, np.ndarray]:
        tokens, weights = [], []
        for at, record in objects(self.files, self.asked):
            ids, own = written(messages_of(record, at, *self.fields), self.tokenizer, self.template)
            tokens.append(ids.astype(self.tokenizer.dtype))
            weights.append(own.astype(np.uint8))
        if not tokens:
            raise DataError(f"there are no chats in {self.files}")
        bounds = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        return {"tokens": np.concatenate(tokens), "weights": np.concatenate(weights), "bounds": bounds}


def messages_of(
    record: Mapping[str, Any], at: str, prompt: str = "prompt", response: str = "response"
) -> list[dict[str, str]]:
    """The messages of a line, checked: every answer has a question, every message a text.

    Raises:
      DataError: says in which line, and what is wrong.
    """
    if "messages" not in record:
        if prompt not in record:
            raise DataError(f"{at} has neither 'messages' nor {prompt!r}; {did_you_mean('messages', record)}")
        return [
            {"role": "user", "content": words(record[prompt], repr(prompt), at)},
            {"role": "assistant", "content": words(field(record, response, at), repr(response), at)},
        ]
    messages = record["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise DataError(f"{at}: 'messages' is a list of objects with role and content")
    out, asked = [], False
    for number, message in enumerate(messages):
        where = f"{at}, message {number}"
        role = field(message, "role", where)
        if role not in ROLES:
            raise DataError(f"{where}: there is no role {role!r}; {did_you_mean(role, ROLES)}")
        if role == "assistant" and not asked:
            raise DataError(f"{where} answers a question that is not there: a user speaks first")
        asked = asked or role == "user"
        out.append({"role": role, "content": words(field(message, "content", where), "'content'", where)})
    if not any(m["role"] == "assistant" for m in out):
        raise DataError(f"{at}: the assistant says nothing, so there is nothing to learn from: leave it out")
    return out


def _header(how: Template, role: str) -> str:
    return how.header.replace("{role}", role).replace("{Role}", role.capitalize())


def _marked(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a template's text: names that the tokenizer has are one id, the rest is encoded."""
    known = {**tokenizer.names, EOS: tokenizer.eos}
    out: list[np.ndarray] = []
    for piece in re.split("(" + "|".join(map(re.escape, sorted(known, key=len, reverse=True))) + ")", text):
        if piece in known:
            out.append(np.array([] if known[piece] is None else [known[piece]], np.int32))
        elif piece:
            out.append(np.asarray(tokenizer.encode(piece), np.int32))
    return np.concatenate(out) if out else np.zeros(0, np.int32)
