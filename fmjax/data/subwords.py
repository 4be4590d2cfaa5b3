"""Subwords of any kind: whatever a `tokenizer.json` or a SentencePiece `.model` holds, and WordPiece trained here.

Most of these change text (BERT's lower case, T5's normalised spaces, unknown words): see `Tokenizer` for what that
means. Those that do not, such as SentencePiece with the identity normaliser and byte fallback, are exact, but for
U+2581, which they use to write a space and which comes back as one.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError, extra
from fmjax.data.byte_level import ENDS, HUGGING_FACE, PROBE, chunks, encode_chunks, end_name, opened, read
from fmjax.data.tokenizer import Tokenizer, as_bytes, as_text, in_characters

PARTS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MODEL = "tokenizer.model"
SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# What works on characters and on words between spaces, so that a text may be cut at a line end.
_LOCAL = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "BertNormalizer", "Lowercase")


class Subwords(Tokenizer):
    """A `tokenizer.json` as the `tokenizers` library runs it: WordPiece, Unigram, BPE, with any normaliser.

    Args:
      source: the text of the `tokenizer.json`.
      eos: the token that ends a document; by default the first of the usual names that it has, [SEP] the last.
    """

    kind = "subwords"

    def __init__(self, source: str, eos: str | None = None):
        self._library = opened(source)
        self.source = source
        vocab, added = self._library.get_vocab(with_added_tokens=True), self._library.get_added_tokens_decoder()
        ids = {token.content: i for i, token in added.items()}
        name = end_name(ids, eos, (*ENDS, "[EOS]", "[SEP]"))
        data = json.loads(source)
        stages = [data.get(key) for key in ("normalizer", "pre_tokenizer")]
        self._cuts = stages[1] is not None and all(s is None or s.get("type") in _LOCAL for s in stages)
        self._special = {i for i, token in added.items() if token.special}
        tokens = [""] * (max(vocab.values()) + 1)
        for token, i in vocab.items():
            tokens[i] = token
        pieces = exact_pieces(
            tokens, self._special, lambda text: self._library.encode(text, add_special_tokens=False).ids
        )
        super().__init__(pieces, ids.get(name), {"json": data, "eos": name}, len(tokens), ids)

    def __reduce__(self):
        return Subwords, (self.source, self.spec["eos"])

    @classmethod
    def load(cls, path: str | Path, eos: str | None = None) -> "Subwords":
        """Read a Hugging Face `tokenizer.json`."""
        try:
            return cls(read(path), eos)
        except (DataError, ConfigError) as error:
            raise type(error)(f"{path}: {error}") from None

    @classmethod
    def train_wordpiece(
        cls, texts: Iterable[str], vocab: int, lowercase: bool = True, strip_accents: bool = True
    ) -> "Subwords":
        """BERT's tokenizer learnt from documents, which are read twice: first for the letters, then for the pieces.

        Repeatable: the letters come first and in order, so that ties between merges do not depend on a hash.
        """
        library = extra("tokenizers", "text")
        letters = sorted(_wordpiece(texts, 0, PARTS, lowercase, strip_accents).keys() - set(PARTS))
        if vocab < len(PARTS) + len(letters):
            raise ConfigError(f"a WordPiece of {len(letters)} letters needs a vocabulary of "
                              f"{len(PARTS) + len(letters)}, not {vocab}")  # fmt: skip
        found = _wordpiece(texts, vocab, (*PARTS, *letters), lowercase, strip_accents)
        made = library.Tokenizer(library.models.WordPiece(found, unk_token="[UNK]"))
        made.add_special_tokens(list(PARTS))
        _bert(made, lowercase, strip_accents)
        return cls(made.to_str())

    def encode(self, text: str | bytes) -> np.ndarray:
        return self.encode_many([as_text(text)])[0]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return encode_chunks(self._library, texts, self._chunks, self.dtype)

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        as_bytes(text)
        found = self._library.encode(text, add_special_tokens=False)
        return np.array(found.ids, self.dtype), np.array(found.offsets, np.int32).reshape(-1, 2)

    def _chunks(self, text: str, size: int = 100_000) -> Iterator[str]:
        return chunks(text, self._cuts, size)

    def _decoded(self, ids: list[int]) -> str:
        return self._library.decode([i for i in ids if i not in self._special], skip_special_tokens=True)

    def _saved(self, folder: Path) -> dict[str, Any]:
        (folder / HUGGING_FACE).write_text(self.source, encoding="utf-8")
        return {"eos": self.spec["eos"]}


class SentencePiece(Tokenizer):
    """A SentencePiece `.model` as its own library runs it.

    Args:
      model: the bytes of the file.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        self.model = bytes(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's types, on Python 3.12
            library = extra("sentencepiece", "text")
        try:
            self._library = library.SentencePieceProcessor(model_proto=self.model)
            size = self._library.get_piece_size()
        except Exception as error:  # RuntimeError and worse, by version
            raise DataError(f"not a SentencePiece model: {' '.join(str(error).split())}") from None
        if not size:
            raise DataError("not a SentencePiece model: it has no pieces")
        tokens = [self._library.id_to_piece(i) for i in range(size)]
        self._special = {i for i in range(size) if self._library.is_control(i) or self._library.is_unknown(i)}
        ids = {tokens[i]: i for i in range(size) if i in self._special or self._library.is_byte(i) or "<" in tokens[i]}
        names = {"<pad>": self._library.pad_id(), "<unk>": self._library.unk_id(), "<s>": self._library.bos_id()}
        ids |= {name: i for name, i in names.items() if i >= 0}
        eos = self._library.eos_id()
        pieces = exact_pieces(tokens, self._special, self._library.encode)
        spec = {"sha256": hashlib.sha256(self.model).hexdigest()}
        super().__init__(pieces, eos if eos >= 0 else None, spec, size, ids)

    def __reduce__(self):
        return SentencePiece, (self.model,)

    @classmethod
    def load(cls, path: str | Path) -> "SentencePiece":
        """Read a `.model` file."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read the tokenizer {path}: {error}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def encode(self, text: str | bytes) -> np.ndarray:
        text = as_text(text)
        as_bytes(text)
        return np.array(self._library.encode(text), self.dtype)

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        as_bytes(text)
        try:
            pieces = self._library.encode(text, return_type="proto").pieces
        except TypeError:  # versions that count in characters, by another name
            raise ConfigError("to say where tokens are from takes sentencepiece 0.2.3 or later") from None
        ids, begins, ends = (np.array([getattr(p, key) for p in pieces], int) for key in ("id", "begin", "end"))
        return ids.astype(self.dtype), in_characters(text, begins, ends)

    def _decoded(self, ids: list[int]) -> str:
        return self._library.decode([i for i in ids if i not in self._special])

    def _saved(self, folder: Path) -> dict[str, Any]:
        (folder / MODEL).write_bytes(self.model)
        return self.spec


def exact_pieces(
    tokens: Sequence[str], special: set[int], encode: Callable[[str], Sequence[int]]
) -> list[bytes] | None:
    """The bytes of each token when they are known to spell every text as it was; None otherwise."""
    pieces = []
    for i, token in enumerate(tokens):
        byte = _BYTE.fullmatch(token)
        text = bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")
        pieces.append(b"" if i in special else text)
    for text in (PROBE, "a", " a", "A  b", "x\n\ny "):
        if b"".join(pieces[i] for i in encode(text)) != text.encode("utf-8"):
            return None
    return pieces


def _bert(made: Any, lowercase: bool, strip_accents: bool) -> None:
    library = extra("tokenizers", "text")
    made.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece(cleanup=False)


def _wordpiece(
    texts: Iterable[str], vocab: int, first: Sequence[str], lowercase: bool, strip_accents: bool
) -> dict[str, int]:
    """The vocabulary of a WordPiece with these pieces first."""
    library = extra("tokenizers", "text")
    made = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    _bert(made, lowercase, strip_accents)
    trainer = library.trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=list(first), show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made.get_vocab()
