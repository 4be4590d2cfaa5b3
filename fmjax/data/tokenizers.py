"""Tokenizers: text to token ids and back, under one name for configs: `call(tokenizers.byte)`.

Ids from one tokenizer's `encode` are below `vocab`. `eos` ends a document; it stands for no text, and text that
spells its name is encoded as the ordinary text it is. A tokenizer is saved as JSON, so that it travels with a run.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError, extra
from fmjax.data import cache
from fmjax.data.atomic import atomic_folder
from fmjax.data.byte_level import BPE, END, HUGGING_FACE, WORDS, ByteLevel, Unigram
from fmjax.data.cache import digest
from fmjax.data.specials import WithSpecials
from fmjax.data.subwords import MODEL, SentencePiece, Subwords
from fmjax.data.tokenizer import FILE, FORMAT, Tokenizer, as_bytes, as_text

__all__ = [
    "BPE", "END", "FILE", "FORMAT", "HUGGING_FACE", "WORDS", "ByteLevel", "Bytes", "Characters", "SentencePiece",
    "Subwords", "Tokenizer", "Unigram", "WithSpecials", "bpe", "byte", "characters", "hugging_face", "load",
    "sentencepiece", "sentinels", "special_id", "trained_bpe", "trained_unigram", "trained_wordpiece", "with_specials",
]  # fmt: skip


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8, and 256 for `eos`; needs no training and spells everything."""

    kind = "byte"

    def __init__(self):
        super().__init__([bytes([i]) for i in range(256)] + [b""], eos=256, spec={})

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.frombuffer(text if isinstance(text, bytes) else as_bytes(text), np.uint8).astype(self.dtype)


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
        super().__init__([as_bytes(c) for c in letters], eos=None, spec={"alphabet": letters})
        self._points = np.array([ord(c) for c in letters], np.uint32)

    def encode(self, text: str | bytes) -> np.ndarray:
        points = np.frombuffer(as_text(text).encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = np.searchsorted(self._points, points).clip(max=self.vocab - 1)
        strange = np.flatnonzero(self._points[ids] != points)
        if strange.size:
            char, at = chr(points[strange[0]]), strange[0]
            raise DataError(f"the alphabet has no {char!r} (character {at} of the text): take it from all the text")
        return ids.astype(self.dtype)


def _byte_level(cls: type[ByteLevel]) -> Callable[[Path, dict[str, Any]], Tokenizer]:
    return lambda folder, data: cls.load(folder / HUGGING_FACE, data.get("eos"), bool(data.get("exact", True)))


LOADERS: dict[str, Callable[[Path, dict[str, Any]], Tokenizer]] = {
    "byte": lambda folder, data: Bytes(),
    "characters": lambda folder, data: Characters(str(data.get("alphabet", ""))),
    "byte_level": _byte_level(ByteLevel),
    "bpe": _byte_level(BPE),
    "unigram": _byte_level(Unigram),
    "subwords": lambda folder, data: Subwords.load(folder / HUGGING_FACE, data.get("eos")),
    "sentencepiece": lambda folder, data: SentencePiece.load(folder / MODEL),
    "specials": lambda folder, data: WithSpecials(
        load(str(folder / "inner")), tuple(data.get("names", ())), int(data.get("sentinels", 0))
    ),
}


def load(path: str) -> Tokenizer:
    """The tokenizer saved in a folder (a run's, or one of shards), of a `tokenizer.json`, or of a `.model` file.

    Raises:
      DataError: nothing there, or not what was saved.
    """
    folder = Path(path)
    if folder.is_file():
        return SentencePiece.load(folder) if folder.suffix == ".model" else hugging_face(path)
    for name, reader in ((HUGGING_FACE, hugging_face), (MODEL, sentencepiece)):
        if not (folder / FILE).exists() and (folder / name).exists():
            return reader(str(folder / name))
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, kind, fingerprint = int(data["format"]), data["kind"], data["fingerprint"]
    except FileNotFoundError:
        raise DataError(f"there is no tokenizer in {folder}: it would hold {FILE} or {HUGGING_FACE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FILE} is no saved tokenizer: {error!r}") from None
    if version > FORMAT or kind not in LOADERS:
        raise DataError(f"{folder / FILE} holds a {kind!r} tokenizer of format {version}: upgrade fmjax")
    made = LOADERS[kind](folder, data)
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


def hugging_face(path: str, eos: str | None = None) -> Tokenizer:
    """Any Hugging Face `tokenizer.json`: byte-level where it is exact, else as the library runs it."""
    try:
        return BPE.load(path, eos)
    except ConfigError:
        return Subwords.load(path, eos)


def sentencepiece(path: str) -> SentencePiece:
    """A SentencePiece `.model` file."""
    return SentencePiece.load(path)


def with_specials(tokenizer: Tokenizer, names: tuple[str, ...] = ("mask", "pad"), sentinels: int = 0) -> Tokenizer:
    """`tokenizer` with ids for these parts (mask, pad, cls, sep, unk, bos, eos) and so many sentinels at the end."""
    return WithSpecials(tokenizer, names, sentinels)


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of "mask", "pad", "cls", "sep", "unk", "bos" or "eos", for an argument in a config."""
    return tokenizer.special_id(name)


def sentinels(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of the sentinels, the first span's first, for an argument in a config."""
    if not tokenizer.sentinels:
        raise ConfigError(
            f"the {tokenizer.kind} tokenizer has no sentinels: with_specials(..., sentinels=100) adds some"
        )
    return tokenizer.sentinels


def trained_bpe(corpus: Any, vocab: int = 8192) -> BPE:
    """A BPE trained on `corpus` (with a `fingerprint`), or read from the cache when that was done before."""
    return _trained(("bpe", corpus.fingerprint, vocab, WORDS), lambda: BPE.train(corpus, vocab))


def trained_unigram(corpus: Any, vocab: int = 8192) -> Unigram:
    """A byte-level Unigram trained on `corpus`, or read from the cache; exact."""
    return _trained(("unigram", corpus.fingerprint, vocab, WORDS), lambda: Unigram.train(corpus, vocab))


def trained_wordpiece(corpus: Any, vocab: int = 8192, lowercase: bool = True, strip_accents: bool = True) -> Subwords:
    """BERT's WordPiece trained on `corpus`, or read from the cache.

    Text does not come back as it was: spaces, unknown words and, by these options, case and accents are lost; rows
    come without `bytes` then, and bits per byte are not reported.
    """
    key = ("wordpiece", corpus.fingerprint, vocab, lowercase, strip_accents)
    return _trained(key, lambda: Subwords.train_wordpiece(corpus, vocab, lowercase, strip_accents))


def _trained(settings: tuple, train: Callable[[], Tokenizer]) -> Any:
    library = extra("tokenizers", "text")
    name, fingerprint, *rest = settings
    folder = cache.folder() / "tokenizers" / digest(name, FORMAT, fingerprint, *rest, library.__version__)
    if not folder.is_dir():
        made = train()
        with atomic_folder(folder) as new:
            made.save(new)
    return load(str(folder))
