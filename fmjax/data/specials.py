"""Special ids added at the end of any tokenizer's vocabulary: mask, pad, cls, sep, and sentinels of spans."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError
from fmjax.data.tokenizer import ROLES, SENTINEL, Tokenizer


class WithSpecials(Tokenizer):
    """A tokenizer with more special ids than it came with; the ids that it had stay what they are.

    Args:
      tokenizer: the one that reads and writes text.
      names: the parts to add, of pad, unk, bos, cls, sep, mask and eos; those that it has are not added again.
      sentinels: how many ids for spans left out; when it has as many already, they are used.

    Attributes:
      added: what was added, in the order of the new ids.
    """

    kind = "specials"

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str] = ("mask", "pad"), sentinels: int = 0):
        self.inner, known = tokenizer, (*ROLES, "eos")
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no special token {name!r}; {did_you_mean(name, known)}")
        if sentinels < 0:
            raise ConfigError(f"sentinels is 0 or more, not {sentinels}")
        self.added = tuple(n for n in dict.fromkeys(names) if n not in tokenizer.special)
        more = sentinels if len(tokenizer.sentinels) < sentinels else 0
        first = tokenizer.vocab + len(self.added)
        new = {name: tokenizer.vocab + i for i, name in enumerate(self.added)}
        pieces = None if tokenizer.pieces is None else (*tokenizer.pieces, *[b""] * (len(self.added) + more))
        spec = {"inner": tokenizer.fingerprint, "names": list(names), "sentinels": sentinels}
        super().__init__(pieces, new.get("eos", tokenizer.eos), spec, vocab=first + more)
        self.names = dict(tokenizer.names)
        self.special = {**tokenizer.special, **new}
        self.sentinels = tuple(range(first, first + more)) if more else tokenizer.sentinels[: sentinels or None]

    def __reduce__(self):
        return WithSpecials, (self.inner, tuple(self.spec["names"]), self.spec["sentinels"])

    def encode(self, text: str | bytes) -> np.ndarray:
        return self.inner.encode(text).astype(self.dtype)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [ids.astype(self.dtype) for ids in self.inner.encode_many(texts)]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = self.inner.encode_with_offsets(text)
        return ids.astype(self.dtype), offsets

    def show(self, ids: Sequence[int]) -> str:
        """The text with the special ids written out, for people: "the <extra_id_0> sat <mask>"."""
        shown = {i: f"<{name}>" for name, i in self.special.items()}
        shown |= {i: SENTINEL.format(n) for n, i in enumerate(self.sentinels)}
        out, run = [], []
        for i in [*self._checked(ids), None]:
            if i is None or i in shown:
                out += [self.decode(run), shown.get(i, "")]
                run = []
            else:
                run.append(i)
        return "".join(out)

    def _decoded(self, ids: list[int]) -> str:
        return self.inner._decoded([i for i in ids if i < self.inner.vocab])

    def _saved(self, folder: Path) -> dict[str, Any]:
        self.inner.save(folder / "inner")
        return self.spec
