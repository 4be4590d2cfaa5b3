"""Sources that are on every machine: scikit-learn's handwritten digits, and counting."""

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np

from fmjax.core.errors import ConfigError
from fmjax.data.cache import digest
from fmjax.data.order import permute
from fmjax.data.source import InMemory

DIGITS = {"train": slice(0, 1297), "validation": slice(1297, 1497), "test": slice(1497, 1797), "all": slice(0, 1797)}


class Digits(InMemory):
    """Handwritten digits, 8x8: image uint8 (8, 8, 1), label 0 to 9; the 1797 of the UCI test set.

    One fixed random permutation cuts them into 1297 train, 200 validation and 300 test images (or "all").

    Raises:
      ConfigError: another split.
    """

    def __init__(self, split: str = "train"):
        if split not in DIGITS:
            raise ConfigError(f"Digits has no split {split!r}; there is {', '.join(DIGITS)}")
        table = _digits_table()
        table = table[permute(np.arange(len(table)), len(table), seed=0)[DIGITS[split]]]
        image = np.round(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        arrays = {"image": image, "label": table[:, -1].astype(np.int32)}
        super().__init__(f"Digits({split})", arrays, classes=[str(i) for i in range(10)])


class Counting:
    """Token sequences that count: start, start + stride, start + 2 stride, ... modulo `vocab`.

    Every start from 0 and every stride from 1 to `strides` occurs once: vocab * strides examples of tokens
    int32 (length,).
    """

    def __init__(self, vocab: int, length: int, strides: int = 1):
        if vocab < 1 or length < 1 or strides < 1:
            raise ConfigError(f"Counting wants positive numbers, not vocab={vocab} length={length} strides={strides}")
        self.vocab, self.length, self.strides = vocab, length, strides

    def __repr__(self) -> str:
        return f"Counting(vocab={self.vocab}, length={self.length})"

    def __len__(self) -> int:
        return self.vocab * self.strides

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {"tokens": self.rows(np.array([index]))["tokens"][0]}

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        stride, start = np.divmod(np.asarray(indices)[:, None], self.vocab)
        return {"tokens": ((start + (stride + 1) * np.arange(self.length)) % self.vocab).astype(np.int32)}

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(str(int(token)) for token in tokens)

    @property
    def fingerprint(self) -> str:
        return digest("counting", self.vocab, self.length, self.strides)


@functools.cache
def _digits_table() -> np.ndarray:
    """(1797, 65): 64 pixels of 0 to 16, and the label."""
    spec = importlib.util.find_spec("sklearn")  # importing it costs seconds, and the file is all we need
    file = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / "digits.csv.gz" if spec else None
    if file is not None and file.is_file():
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.concatenate([digits.data, digits.target[:, None]], axis=1)
