"""Tokenizers: text to token ids and back, with the number of bytes that each token stands for.

Ids from one tokenizer's `encode` are below `vocab`. `eos` ends a document; it stands for no text, and text that
spells its name is encoded as the ordinary text it is. A tokenizer is saved as JSON, so that it travels with a run.
"""

import abc
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError, extra
from fmjax.data import cache
from fmjax.data.atomic import atomic_folder
from fmjax.data.cache import digest

FORMAT = 1
FILE = "fmjax_tokenizer.json"
HUGGING_FACE = "tokenizer.json"
END = "<|endoftext|>"
# The words that GPT-4's tokenizer splits text into before merging: numbers of at most three digits, and line ends
# kept apart from the indentation that follows them, which suits source code.
WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINE_ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # under such a pattern no word crosses a line end before a letter
_CUT = re.compile(r"\n(?=\w)")
_CHUNK = 100_000  # characters; the library keeps some 150 bytes per token while it encodes
_PROBE = "a\0 b\r\n\n\t<|endoftext|>  e\u0301 \u212b \ufeff \U0001f600" + "".join(map(chr, range(1, 0x250)))


class Tokenizer(abc.ABC):
    """What every tokenizer offers.

    Attributes:
      pieces: the bytes of each id; empty for special ids.
      vocab: number of ids.
      eos: the id that ends a document, or None.
      widths: (vocab,) int32, the number of UTF-8 bytes each id stands for.
      dtype: uint16 or uint32, what `encode` gives.
      fingerprint: changes with anything that changes the ids.
    """

    kind: str

    def __init__(self, pieces: Sequence[bytes], eos: int | None, spec: dict[str, Any]):
        self.pieces, self.eos, self.spec = tuple(pieces), eos, spec
        self.vocab = len(self.pieces)
        self.widths = np.array([len(p) for p in self.pieces], np.int32)
        self.dtype = np.dtype("<u2" if self.vocab <= 1 << 16 else "<u4")
        self.fingerprint = digest("tokenizer", FORMAT, self.kind, spec)

    @abc.abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """(T,) ids of one document, without special ids.

        Raises:
          DataError: text that is no valid Unicode, or that the vocabulary cannot spell.
        """

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each document."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes that the ids stand for; special ids stand for none.

        Raises:
          DataError: an id outside the vocabulary.
        """
        ids = np.asarray(ids if hasattr(ids, "__array__") else list(ids)).ravel().tolist()
        for i in ids:
            if not 0 <= i < self.vocab:
                raise DataError(f"token {i} is outside the tokenizer's vocabulary of {self.vocab}")
        return b"".join([self.pieces[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no valid UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, for `load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "kind": self.kind, "vocab": self.vocab, "fingerprint": self.fingerprint}
        (folder / FILE).write_text(json.dumps({**head, **self._saved(folder)}, indent=1) + "\n", encoding="utf-8")

    def _saved(self, folder: Path) -> dict[str, Any]:
        return self.spec


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8, and 256 for `eos`; needs no training and spells everything."""

    kind = "byte"

    def __init__(self):
        super().__init__([bytes([i]) for i in range(256)] + [b""], eos=256, spec={})

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.frombuffer(text if isinstance(text, bytes) else _utf8(text), np.uint8).astype(self.dtype)


class Characters(Tokenizer):
    """One id a character, in the order of their code points; there is no `eos`.

    Args:
      alphabet: every character that may occur; order and repeats do not matter.
    """

    kind = "characters"

    def __init__(self, alphabet: str):
        letters = "".join(sorted(set(alphabet)))
        if not letters:
            raise ConfigError("a character tokenizer needs at least one character in its alphabet")
        super().__init__([_utf8(c) for c in letters], eos=None, spec={"alphabet": letters})
        self._points = np.array([ord(c) for c in letters], np.uint32)

    def encode(self, text: str | bytes) -> np.ndarray:
        points = np.frombuffer(_text(text).encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = np.searchsorted(self._points, points).clip(max=self.vocab - 1)
        strange = np.flatnonzero(self._points[ids] != points)
        if strange.size:
            char, at = chr(points[strange[0]]), strange[0]
            raise DataError(f"the alphabet has no {char!r} (character {at} of the text): take it from all the text")
        return ids.astype(self.dtype)


class BPE(Tokenizer):
    """Byte-level byte-pair encoding by the `tokenizers` library: merges of frequent pairs, and every text spelled.

    Args:
      source: the text of a Hugging Face `tokenizer.json`.
      eos: the token that ends a document; by default the first of the usual names that it has.
      exact: refuse a tokenizer that changes text (Unicode normalisation, a space put in front), under which
        bits per byte would be those of another text.
    """

    kind = "bpe"

    def __init__(self, source: str, eos: str | None = None, exact: bool = True):
        library = extra("tokenizers", "text")
        try:
            self._bpe = library.Tokenizer.from_str(source)
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"not a tokenizer.json that this version of tokenizers reads: {error}") from None
        self._bpe.no_truncation()
        self._bpe.no_padding()
        self._bpe.encode_special_tokens = True  # in text, the name of a special token is text
        self.source, self.exact = source, exact
        pieces, added = _pieces(self._bpe), self._bpe.get_added_tokens_decoder()
        ids = {token.content: i for i, token in added.items()}
        usual = (END, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>")
        if eos is not None and eos not in ids:
            raise ConfigError(f"the tokenizer has no special token {eos!r}; it has {', '.join(ids) or 'none'}")
        name = eos if eos is not None else next((n for n in usual if n in ids), None)
        spec = {"json": json.loads(source), "eos": name, "exact": exact}
        super().__init__(pieces, eos=ids.get(name), spec=spec)
        # A document can be encoded in chunks, cut where the pattern always cuts and nothing rewrites the text.
        self._cuts = _LINE_ENDS in _pattern(spec["json"]) and spec["json"].get("normalizer") is None
        if exact and any(self.decode(self.encode(text)) != text for text in (_PROBE, "", "a", " a")):
            raise ConfigError("this tokenizer changes the text it encodes; pass exact=False to accept that")

    def __reduce__(self):
        return BPE, (self.source, self.spec["eos"], self.exact)

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> "BPE":
        """Learn merges from documents until there are `vocab` ids, or nothing is left to merge.

        Repeatable: the same texts give the same tokenizer.
        """
        if vocab < 257:
            raise ConfigError(f"a byte-level BPE needs a vocabulary of at least 257 (the bytes and eos), not {vocab}")
        library = extra("tokenizers", "text")
        split, to_bytes = library.pre_tokenizers.Split, library.pre_tokenizers.ByteLevel
        bpe = library.Tokenizer(library.models.BPE())
        bpe.pre_tokenizer = library.pre_tokenizers.Sequence(
            [split(library.Regex(WORDS), "isolated"), to_bytes(add_prefix_space=False, use_regex=False)]
        )
        bpe.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=[END], initial_alphabet=to_bytes.alphabet(), show_progress=False
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe.to_str(), eos=END)

    @classmethod
    def load(cls, path: str | Path, eos: str | None = None, exact: bool = True) -> "BPE":
        """Read a Hugging Face `tokenizer.json`."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"), eos, exact)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the tokenizer {path}: {error}") from None
        except (DataError, ConfigError) as error:
            raise type(error)(f"{path}: {error}") from None

    def encode(self, text: str | bytes) -> np.ndarray:
        return self.encode_many([_text(text)])[0]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        out: list[list[np.ndarray]] = [[] for _ in texts]
        chunks = ((i, chunk) for i, text in enumerate(texts) for chunk in self._chunks(text))
        while batch := list(itertools.islice(chunks, 64)):
            encoded = self._bpe.encode_batch_fast([chunk for _, chunk in batch], add_special_tokens=False)
            for (i, _), encoding in zip(batch, encoded, strict=True):
                out[i].append(np.array(encoding.ids, self.dtype))
        return [np.concatenate(parts) for parts in out]

    def _chunks(self, text: str, size: int = _CHUNK) -> Iterator[str]:
        _utf8(text)
        start = 0
        while self._cuts and (cut := _CUT.search(text, start + size)):
            yield text[start : cut.end()]
            start = cut.end()
        yield text[start:]

    def _saved(self, folder: Path) -> dict[str, Any]:
        (folder / HUGGING_FACE).write_text(self.source, encoding="utf-8")
        return {"eos": self.spec["eos"], "exact": self.exact}


def load(path: str) -> Tokenizer:
    """The tokenizer saved in a folder (a run's, or one of shards), or of a Hugging Face `tokenizer.json`.

    Raises:
      DataError: nothing there, or not what was saved.
    """
    folder = Path(path)
    if folder.is_file() or (not (folder / FILE).exists() and (folder / HUGGING_FACE).exists()):
        return BPE.load(folder if folder.is_file() else folder / HUGGING_FACE)
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, kind, fingerprint = int(data["format"]), data["kind"], data["fingerprint"]
    except FileNotFoundError:
        raise DataError(f"there is no tokenizer in {folder}: it would hold {FILE} or {HUGGING_FACE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FILE} is no saved tokenizer: {error!r}") from None
    if version > FORMAT or kind not in ("byte", "characters", "bpe"):
        raise DataError(f"{folder / FILE} holds a {kind!r} tokenizer of format {version}: upgrade fmjax")
    if kind == "bpe":
        made: Tokenizer = BPE.load(folder / HUGGING_FACE, data.get("eos"), bool(data.get("exact", True)))
    else:
        made = Bytes() if kind == "byte" else Characters(str(data.get("alphabet", "")))
    if made.fingerprint != fingerprint:
        raise DataError(f"the tokenizer in {folder} is not the one that was saved there: its fingerprint differs")
    return made


def byte() -> Bytes:
    """The 256 bytes and `eos`."""
    return Bytes()


def characters(corpus: Iterable[str]) -> Characters:
    """One id for each character that occurs in `corpus`: give it all the text, not one split."""
    return Characters("".join(set().union(*map(set, corpus))))


def bpe(path: str, eos: str | None = None, exact: bool = True) -> BPE:
    """The byte-level BPE of a `tokenizer.json`."""
    return BPE.load(path, eos, exact)


def trained_bpe(corpus: Any, vocab: int = 8192) -> BPE:
    """A BPE trained on `corpus` (with a `fingerprint`), or read from the cache when that was done before."""
    library = extra("tokenizers", "text")
    key = digest("bpe", FORMAT, corpus.fingerprint, vocab, WORDS, library.__version__)
    folder = cache.folder() / "tokenizers" / key
    if not folder.is_dir():
        made = BPE.train(corpus, vocab)
        with atomic_folder(folder) as new:
            made.save(new)
    made = load(str(folder))
    assert isinstance(made, BPE)
    return made


def _text(text: str | bytes) -> str:
    try:
        return text if isinstance(text, str) else bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"text is not valid UTF-8 at byte {error.start}") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"text holds half a surrogate pair at character {error.start}") from None


def _pattern(data: dict[str, Any]) -> str:
    """Every regular expression of the pre-tokenizer."""
    stages = data.get("pre_tokenizer") or {}
    regexes = [s.get("pattern", {}).get("Regex", "") for s in stages.get("pretokenizers", [stages])]
    return "".join(regexes)


def _pieces(bpe: Any) -> list[bytes]:
    """The bytes of each id of a byte-level vocabulary, which spells bytes by the printable characters of GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    vocab, added = bpe.get_vocab(with_added_tokens=True), bpe.get_added_tokens_decoder()
    if not byte_of.keys() <= vocab.keys():
        raise ConfigError("only a byte-level BPE is read (GPT-2's, Llama 3's, Qwen's), and this vocabulary lacks bytes")
    pieces = [b""] * (max(vocab.values()) + 1)
    for token, i in vocab.items():
        if i in added:
            pieces[i] = b"" if added[i].special else token.encode()
        elif not set(token) <= byte_of.keys():
            raise ConfigError(f"only a byte-level BPE is read, and token {i} of this one, {token!r}, is no bytes")
        else:
            pieces[i] = bytes(byte_of[c] for c in token)
    return pieces
