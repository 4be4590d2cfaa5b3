"""Text in memory: a corpus, a tokenizer, and windows of tokens."""

from typing import Any

import numpy as np

from fmjax.core.errors import DataError
from fmjax.data.cache import cached, digest
from fmjax.data.tokenizer import Tokenizer
from fmjax.data.windows import LAYOUT, TokenWindows, with_end


class Windows(TokenWindows):
    """Windows over a corpus that fits in memory as tokens (2 or 4 bytes each).

    `stride=1` for training, `stride=None` for evaluation: see `TokenWindows`. A corpus is encoded once a process;
    what subwords made of it is kept on disk too, because that takes longer than to read it back.

    Args:
      corpus: documents with a `fingerprint` (corpora.py).
      tokenizer: what turns them to ids (tokenizers.py).
      length: targets in a window; a row has `length + 1` tokens.
      stride: tokens between the starts of windows; None covers every token once.
      context: with `stride=None`, targets of each window that are only context.
    """

    def __init__(self, corpus: Any, tokenizer: Tokenizer, length: int, stride: int | None = None, context: int = 0):
        fingerprint = digest("tokens", LAYOUT, corpus.fingerprint, tokenizer.fingerprint)
        # Held, so that other windows over the same corpus find it in the process.
        self._arrays = cached(
            fingerprint, lambda: encode(corpus, tokenizer), keep=tokenizer.kind not in ("byte", "characters")
        )
        tokens, documents = self._arrays["tokens"], self._arrays["documents"]
        super().__init__(repr(corpus), [tokens], documents, tokenizer, length, stride, context, fingerprint)


def encode(corpus: Any, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """The stream of a corpus: tokens, and where its documents start, with the end as the last.

    Raises:
      DataError: a corpus without text.
    """
    texts = list(corpus)
    if not any(texts):
        raise DataError(f"{corpus!r} has no text")
    ids = [with_end(ids, tokenizer) for ids in tokenizer.encode_many(texts)]
    return {"tokens": np.concatenate(ids), "documents": np.cumsum([0, *map(len, ids)], dtype=np.int64)}
