"""What counting says on the rows that a run is tested on: the baselines of benchmarks/seeds.py's language studies.

Each takes a study's parts (fmjax/run.py) and gives (the baseline's name, its number, a note that names the others).
"""

import gzip
import itertools
from typing import Any

import numpy as np

from fmjax.data import token_baselines

TRAIN_BATCHES = 600  # of a run, to count the targets of an encoder-decoder in


def bits_per_byte(parts: Any) -> tuple[str, float, str]:
    """The next token after the one before it, in bits a byte; and what gzip -9 makes of all the held-out text."""
    found = token_baselines.next_token_baselines(_stream(parts), _tested(parts), parts.config.model.vocab)
    text = np.concatenate(parts.evaluators["test"].data.source.parts)
    text = text[text < 256].astype(np.uint8).tobytes()
    packed = 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)
    note = f"unigram {found['unigram_bits_per_byte']:.3f}, gzip -9 of all the test text {packed:.3f}"
    return "bigram, same rows", found["bigram_bits_per_byte"], note


def masked_accuracy(parts: Any) -> tuple[str, float, str]:
    """A hidden token after its left neighbour."""
    found = token_baselines.masked_baselines(_stream(parts), _tested(parts), parts.config.model.vocab)
    note = f"unigram {found['unigram_accuracy']:.3f}, counts of both neighbours {found['both_accuracy']:.3f}"
    return "bigram (left neighbour), same rows", found["left_accuracy"], note


def target_accuracy(parts: Any) -> tuple[str, float, str]:
    """A target after the one before it, counted on batches of the training data."""
    train = itertools.islice(parts.data.iterate(seed=0, start=0), TRAIN_BATCHES)
    found = token_baselines.sequence_baselines(train, _tested(parts), parts.config.model.vocab)
    return "bigram of the targets, same rows", found["bigram_accuracy"], f"unigram {found['unigram_accuracy']:.3f}"


def _stream(parts: Any) -> np.ndarray:
    return np.concatenate(parts.data.source.parts)


def _tested(parts: Any) -> Any:
    data = parts.evaluators["test"].data
    return data.iterate(stop=len(data))
