"""Byte-level subwords by the `tokenizers` library: pieces are runs of bytes, so that every text is spelled."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from fmjax.core.errors import ConfigError, DataError, extra
from fmjax.data.tokenizer import Tokenizer, as_bytes, as_text

HUGGING_FACE = "tokenizer.json"
END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>")
# The words that GPT-4's tokenizer splits text into before merging: numbers of at most three digits, and line ends
# kept apart from the indentation that follows them, which suits source code.
WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINE_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # under such a pattern no word crosses a line end before a letter
_CUT = re.compile(r"\n(?=\w)")
_CHUNK = 100_000  # characters; the library keeps some 150 bytes per token while it encodes
PROBE = "a\0 b\r\n\n\t<|endoftext|>  e\u0301 \u212b \ufeff \U0001f600" + "".join(map(chr, range(1, 0x250)))


class ByteLevel(Tokenizer):
    """A `tokenizer.json` whose pieces are bytes; subclasses say how one is learnt.

    Args:
      source: the text of a Hugging Face `tokenizer.json`.
      eos: the token that ends a document; by default the first of the usual names that it has.
      exact: refuse a tokenizer that changes text (Unicode normalisation, a space put in front), under which
        bits per byte would be those of another text.
    """

    kind = "byte_level"

    def __init__(self, source: str, eos: str | None = None, exact: bool = True):
        self._library = opened(source)
        self.source, self.exact = source, exact
        pieces, added = _pieces(self._library), self._library.get_added_tokens_decoder()
        ids = {token.content: i for i, token in added.items()}
        name = end_name(ids, eos, ENDS)
        spec = {"json": json.loads(source), "eos": name, "exact": exact}
        super().__init__(pieces, eos=ids.get(name), spec=spec, names=ids)
        # A document can be encoded in chunks, cut where the pattern always cuts and nothing rewrites the text.
        self._cuts = _LINE_ENDS in _pattern(spec["json"]) and spec["json"].get("normalizer") is None
        if exact and any(self.decode(self.encode(text)) != text for text in (PROBE, "", "a", " a")):
            raise ConfigError("this tokenizer changes the text it encodes; pass exact=False to accept that")

    def __reduce__(self):
        return type(self), (self.source, self.spec["eos"], self.exact)

    @classmethod
    def load(cls, path: str | Path, eos: str | None = None, exact: bool = True) -> Self:
        """Read a Hugging Face `tokenizer.json`."""
        try:
            return cls(read(path), eos, exact)
        except (DataError, ConfigError) as error:
            raise type(error)(f"{path}: {error}") from None

    def encode(self, text: str | bytes) -> np.ndarray:
        return self.encode_many([as_text(text)])[0]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return encode_chunks(self._library, texts, self._chunks, self.dtype)

    def _chunks(self, text: str, size: int = _CHUNK) -> Iterator[str]:
        return chunks(text, self._cuts, size)

    def _saved(self, folder: Path) -> dict[str, Any]:
        (folder / HUGGING_FACE).write_text(self.source, encoding="utf-8")
        return {"eos": self.spec["eos"], "exact": self.exact}


class BPE(ByteLevel):
    """Byte-pair encoding: frequent pairs are merged, one after the other."""

    kind = "bpe"

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> "BPE":
        """Learn merges from documents until there are `vocab` ids, or nothing is left to merge.

        Repeatable: the same texts give the same tokenizer.
        """
        library = _enough(vocab, "BPE")
        bpe = _untrained(library.models.BPE())
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=[END], initial_alphabet=_alphabet(), show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe.to_str(), eos=END)


class Unigram(ByteLevel):
    """A unigram language model over pieces (arXiv 1804.10959): a text is split the most probable way.

    T5 and Llama learn theirs over characters, with unknown ones and normalised spaces; over bytes it is exact.
    """

    kind = "unigram"

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> "Unigram":
        """Learn pieces and their probabilities from documents: at most `vocab` ids, eos first.

        The library sums in any order, so scores repeat to about 6 digits; they are rounded there, and a piece on
        the edge of a rounding or of being kept may still differ. `trained_unigram` keeps what was learnt.
        """
        library = _enough(vocab, "Unigram")
        made = _untrained(library.models.Unigram())
        trainer = library.trainers.UnigramTrainer(
            vocab_size=vocab, special_tokens=[END], initial_alphabet=_alphabet(), show_progress=False
        )
        made.train_from_iterator(texts, trainer)
        data = json.loads(made.to_str())
        scores = {piece: score for piece, score in data["model"]["vocab"] if piece != END}
        floor = min(scores.values())
        # The library gives bytes that it did not see scores just above the lowest one, in an order that differs from
        # run to run.
        unseen = [b for b in _alphabet() if scores.get(b, floor) <= floor + 1e-4 * 256]
        scores = {p: round(s, 6) for p, s in {**scores, **dict.fromkeys(unseen, floor)}.items()}
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        data["model"]["vocab"] = [[END, 0.0], *map(list, ranked)]
        return cls(json.dumps(data, ensure_ascii=False), eos=END)


def opened(source: str) -> Any:
    """The library's tokenizer of a `tokenizer.json`, taking all text as text and none of it away.

    Raises:
      DataError: this is none.
    """
    library = extra("tokenizers", "text")
    try:
        made = library.Tokenizer.from_str(source)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"not a tokenizer.json that this version of tokenizers reads: {error}") from None
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True  # in text, the name of a special token is text
    return made


def read(path: str | Path) -> str:
    """The text of a `tokenizer.json`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the tokenizer {path}: {error}") from None


def end_name(ids: dict[str, int], eos: str | None, usual: Sequence[str]) -> str | None:
    """The special token that ends a document: the one asked for, or the first of the usual ones that is there."""
    if eos is not None and eos not in ids:
        raise ConfigError(f"the tokenizer has no special token {eos!r}; it has {', '.join(ids) or 'none'}")
    return eos if eos is not None else next((n for n in usual if n in ids), None)


def encode_chunks(library: Any, texts: Sequence[str], cut: Any, dtype: np.dtype) -> list[np.ndarray]:
    """The ids of each text, encoded in the chunks that `cut` makes of it."""
    out: list[list[np.ndarray]] = [[] for _ in texts]
    pieces = ((i, chunk) for i, text in enumerate(texts) for chunk in cut(text))
    while batch := list(itertools.islice(pieces, 64)):
        encoded = library.encode_batch_fast([chunk for _, chunk in batch], add_special_tokens=False)
        for (i, _), encoding in zip(batch, encoded, strict=True):
            out[i].append(np.array(encoding.ids, dtype))
    return [np.concatenate(parts) for parts in out]


def chunks(text: str, cuts: bool, size: int = _CHUNK) -> Iterator[str]:
    """The text in chunks of about `size` characters, cut before a letter that starts a line; whole without `cuts`."""
    as_bytes(text)
    start = 0
    while cuts and (cut := _CUT.search(text, start + size)):
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _enough(vocab: int, name: str) -> Any:
    if vocab < 257:
        raise ConfigError(f"a byte-level {name} needs a vocabulary of at least 257 (the bytes and eos), not {vocab}")
    return extra("tokenizers", "text")


def _untrained(model: Any) -> Any:
    library = extra("tokenizers", "text")
    split, to_bytes = library.pre_tokenizers.Split, library.pre_tokenizers.ByteLevel
    made = library.Tokenizer(model)
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [split(library.Regex(WORDS), "isolated"), to_bytes(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = library.decoders.ByteLevel()
    return made


def _alphabet() -> list[str]:
    return extra("tokenizers", "text").pre_tokenizers.ByteLevel.alphabet()


def _pattern(data: dict[str, Any]) -> str:
    """Every regular expression of the pre-tokenizer."""
    stages = data.get("pre_tokenizer") or {}
    regexes = [s.get("pattern", {}).get("Regex", "") for s in stages.get("pretokenizers", [stages])]
    return "".join(regexes)


def _pieces(library: Any) -> list[bytes]:
    """The bytes of each id of a byte-level vocabulary, which spells bytes by the printable characters of GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    vocab, added = library.get_vocab(with_added_tokens=True), library.get_added_tokens_decoder()
    hint = "; tokenizers.hugging_face reads any other"
    if not byte_of.keys() <= vocab.keys():
        raise ConfigError(f"this is no byte-level vocabulary (GPT-2's, Llama 3's, Qwen's): it lacks bytes{hint}")
    pieces = [b""] * (max(vocab.values()) + 1)
    for token, i in vocab.items():
        if i in added:
            pieces[i] = b"" if added[i].special else token.encode()
        elif not set(token) <= byte_of.keys():
            raise ConfigError(f"this is no byte-level vocabulary: token {i}, {token!r}, is no bytes{hint}")
        else:
            pieces[i] = bytes(byte_of[c] for c in token)
    return pieces
