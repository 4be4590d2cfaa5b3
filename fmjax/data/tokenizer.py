"""What a tokenizer is: text to token ids and back, and how many bytes of text each id stands for."""

import abc
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest

FORMAT = 1
FILE = "fmjax_tokenizer.json"
# What each part is called in the vocabularies that people share; the first name that is there counts.
ROLES = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
SENTINEL = "<extra_id_{}>"  # T5's name for the n-th span that is left out


class Tokenizer(abc.ABC):
    """What every tokenizer offers.

    A tokenizer is exact when text comes back as it was, byte for byte. Then every id stands for some bytes of text,
    and bits per byte can be computed from ids. One that changes text (lower case, Unicode normalisation, unknown
    words) has no `pieces` and no `widths`: its rows come without `bytes`, because the nats it pays are for another,
    poorer text, and dividing them by the bytes of the original would flatter it.

    Attributes:
      pieces: the bytes of each id, empty for special ids; None when that is not known.
      vocab: number of ids.
      eos: the id that ends a document, or None.
      widths: (vocab,) int32, the number of UTF-8 bytes each id stands for; None when that is not known.
      special: {part: id} of pad, unk, bos, cls, sep, mask and eos, as far as it has them.
      names: {text: id} of the tokens that are written only when asked for, such as "<|im_start|>".
      sentinels: the ids that stand for spans left out, the first span's first.
      dtype: uint16 or uint32, what `encode` gives.
      fingerprint: changes with anything that changes the ids.
    """

    kind: str

    def __init__(
        self,
        pieces: Sequence[bytes] | None,
        eos: int | None,
        spec: dict[str, Any],
        vocab: int | None = None,
        names: Mapping[str, int] | None = None,
    ):
        self.pieces, self.eos, self.spec = None if pieces is None else tuple(pieces), eos, spec
        self.vocab = vocab if vocab is not None else len(pieces or ())
        self.widths = None if pieces is None else np.array([len(p) for p in pieces], np.int32)
        self.dtype = np.dtype("<u2" if self.vocab <= 1 << 16 else "<u4")
        self.fingerprint = digest("tokenizer", FORMAT, self.kind, spec)
        self.names = dict(names or {})
        self.special, self.sentinels = roles(self.names, eos)

    @abc.abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """(T,) ids of one document, without special ids.

        Raises:
          DataError: text that is no valid Unicode, or that the vocabulary cannot spell.
        """

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each document."""
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(T,) ids as `encode` gives them, and (T, 2) where each begins and ends in the text, in characters.

        A token of a part of a character has all of it; tokens may share a character, and leave some out.

        Raises:
          ConfigError: a tokenizer that changes text and cannot say where its tokens are from.
        """
        if self.widths is None:
            raise ConfigError(f"the {self.kind} tokenizer cannot say where in a text its tokens are from")
        ids = self.encode(text)
        ends = np.cumsum(self.widths[ids])
        return ids, in_characters(text, ends - self.widths[ids], ends)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for, exactly where the tokenizer is exact; special ids stand for none.

        Raises:
          DataError: an id outside the vocabulary.
        """
        ids = self._checked(ids)
        return self._decoded(ids).encode("utf-8") if self.pieces is None else b"".join([self.pieces[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no valid UTF-8, such as half a character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def special_id(self, name: str) -> int:
        """The id of a part: "mask", "pad", "cls", "sep", "unk", "bos" or "eos".

        Raises:
          ConfigError: it has none.
        """
        if name in self.special:
            return self.special[name]
        if name not in ROLES and name != "eos":
            raise ConfigError(f"no token has the part {name!r}; {did_you_mean(name, [*ROLES, 'eos'])}")
        raise ConfigError(
            f"the {self.kind} tokenizer has no {name} token: wrap it, "
            f"call(tokenizers.with_specials, tokenizer=..., names=({name!r},))"
        )

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, for `tokenizers.load`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "kind": self.kind, "vocab": self.vocab, "fingerprint": self.fingerprint}
        (folder / FILE).write_text(json.dumps({**head, **self._saved(folder)}, indent=1) + "\n", encoding="utf-8")

    def _saved(self, folder: Path) -> dict[str, Any]:
        return self.spec

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = np.asarray(ids if hasattr(ids, "__array__") else list(ids)).ravel().tolist()
        for i in ids:
            if not 0 <= i < self.vocab:
                raise DataError(f"token {i} is outside the tokenizer's vocabulary of {self.vocab}")
        return ids

    def _decoded(self, ids: list[int]) -> str:
        """The text of ids, for a tokenizer without `pieces`."""
        raise TypeError(f"{type(self).__name__} has no pieces, so it must define _decoded(ids)")


def roles(names: Mapping[str, int], eos: int | None) -> tuple[dict[str, int], tuple[int, ...]]:
    """The parts that special tokens of these names play, and the sentinels."""
    found = {part: names[n] for part, usual in ROLES.items() for n in usual[::-1] if n in names}
    sentinels = []
    while (name := SENTINEL.format(len(sentinels))) in names:
        sentinels.append(names[name])
    return found | ({} if eos is None else {"eos": eos}), tuple(sentinels)


def as_text(text: str | bytes) -> str:
    """Text, decoded when it comes as bytes."""
    try:
        return text if isinstance(text, str) else bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"text is not valid UTF-8 at byte {error.start}") from None


def in_characters(text: str, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(T, 2) characters of a text, from places in its UTF-8; a part of a character counts as all of it."""
    raw = np.frombuffer(as_bytes(text), np.uint8)
    at = np.append(np.cumsum((raw & 0xC0) != 0x80) - 1, len(text))  # bytes 10xxxxxx continue a character
    return np.stack([at[begins], np.where(ends > begins, at[ends - 1] + 1, at[begins])], 1).astype(np.int32)


def as_bytes(text: str) -> bytes:
    """UTF-8 of a text."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"text holds half a surrogate pair at character {error.start}") from None
