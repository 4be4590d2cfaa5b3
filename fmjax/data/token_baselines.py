"""What models over tokens have to beat: guesses by counting, on exactly the rows that an evaluator reads.

Each function takes what to count, and the batches of a pass (`data.iterate()` of `pipeline.one_pass`, or their
device copies), and returns a dict of numbers. Probabilities are p(b | a) = (count(a, b) + k p(b)) / (count(a) + k)
with p(b) = (count(b) + 1) / (n + vocab), where k is the one of `ADDED` that is best on the last tenth of what is
counted: the held-out text chooses nothing. A best guess that was never seen falls back on a shorter context.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from fmjax.core.errors import DataError

ADDED = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Batches = Iterable[Mapping[str, np.ndarray]]


class Table:
    """How often each outcome followed each context: counts, and the best guess; contexts are integers of 0 or more."""

    def __init__(self, contexts: np.ndarray, outcomes: np.ndarray, vocab: int):
        self.vocab = vocab
        codes, self._counts = np.unique(contexts.astype(np.int64) * vocab + outcomes, return_counts=True)
        self._codes, contexts, outcomes = codes, codes // vocab, codes % vocab
        order = np.lexsort((outcomes, -self._counts, contexts))  # the most frequent first, of equals the smallest id
        self._contexts, first = np.unique(contexts[order], return_index=True)
        self._best = outcomes[order][first]
        self._totals = np.add.reduceat(self._counts, first) if len(first) else first

    def counts(self, contexts: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(count(context, outcome), count(context))."""
        codes = np.where(contexts < 0, -1, contexts.astype(np.int64) * self.vocab + outcomes)
        return _found(self._codes, self._counts, codes, 0), _found(self._contexts, self._totals, contexts, 0)

    def best(self, contexts: np.ndarray, otherwise: np.ndarray | int) -> np.ndarray:
        """The most frequent outcome of each context; `otherwise` where it was never seen."""
        return _found(self._contexts, self._best, contexts, otherwise)


class Counts:
    """Unigrams and bigrams of sequences."""

    def __init__(self, before: np.ndarray, tokens: np.ndarray, vocab: int):
        if len(tokens) < 20:
            raise DataError(f"too little text to count on: {len(tokens)} tokens")
        _inside(tokens, vocab)
        self.vocab, self._pairs = vocab, (before, tokens)
        self._count(before, tokens)
        self.k = self._chosen()

    def _count(self, before: np.ndarray, tokens: np.ndarray) -> None:
        counts = np.bincount(tokens, minlength=self.vocab)
        self.unigram = (counts + 1) / (counts.sum() + self.vocab)
        self.likely = int(counts.argmax())
        known = before >= 0
        self.pairs = Table(before[known], tokens[known], self.vocab)

    def _chosen(self) -> float:
        before, tokens = self._pairs
        cut = len(tokens) * 9 // 10
        part = Counts.__new__(Counts)
        part.vocab = self.vocab
        part._count(before[:cut], tokens[:cut])
        return min(ADDED, key=lambda k: part.bits(before[cut:], tokens[cut:], k).sum())

    def bits(self, before: np.ndarray, tokens: np.ndarray, k: float | None = None) -> np.ndarray:
        """Bits of each token given the one before it (-1: nothing is)."""
        k = self.k if k is None else k
        both, alone = self.pairs.counts(before, tokens)
        return -np.log2((both + k * self.unigram[tokens]) / (alone + k))

    def guesses(self, before: np.ndarray) -> np.ndarray:
        """The most likely token after each."""
        return self.pairs.best(before, self.likely)


def next_token_baselines(train: np.ndarray, batches: Batches, vocab: int) -> dict[str, float]:
    """Of every weighted target: nats and accuracy of unigram and bigram, and bits per byte where rows have `bytes`.

    Args:
      train: the stream that the model is trained on.
      batches: as NextToken reads them.
      vocab: ids that the model chooses from.
    """
    counts, sums = _stream(train, vocab), _Sums()
    for batch in map(_on_host, batches):
        segments = batch.get("segment_ids", np.ones_like(batch["tokens"]))
        weights = _weights(batch, batch["tokens"][:, 1:].shape)
        weights = weights * ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0))
        if "prefix" in batch:
            weights = weights * (batch["prefix"][:, 1:] == 0)
        sums.add(counts, batch["tokens"][:, :-1], batch["tokens"][:, 1:], weights)
        if "bytes" in batch:
            sums.bytes += float((batch["bytes"] * batch["valid"]).sum())
    return sums.report()


def sequence_baselines(train: Batches, batches: Batches, vocab: int) -> dict[str, float]:
    """Of every weighted target given the one before it: nats and accuracy of unigram and bigram.

    The first target of a document has nothing before it. Sentinels are counted as they come, so what is counted are
    targets too, of batches that the model is trained on.

    Args:
      train: some batches as SequenceToSequence reads them.
      batches: the held-out ones.
      vocab: ids that the model chooses from.
    """
    counted = [[x[w > 0] for x in (b, t)] for b, t, w, _ in map(_targets, map(_on_host, train))]
    counts = Counts(*(np.concatenate(x) for x in zip(*counted, strict=True)), vocab) if counted else _stream([], vocab)
    sums = _Sums()
    for before, targets, weights, size in map(_targets, map(_on_host, batches)):
        sums.add(counts, before, targets, weights)
        sums.bytes += size
    return sums.report()


def masked_baselines(train: np.ndarray, batches: Batches, vocab: int) -> dict[str, float]:
    """Accuracy on hidden tokens of the most frequent token, the likeliest after its left neighbour, and between both.

    Neighbours are what the model sees: a mask, a special id, or the edge of a document tells nothing.

    Args:
      train: the stream that the model is trained on, without masks.
      batches: as MaskedTokens reads them.
      vocab: ids that the model chooses from.
    """
    counts, sums = _stream(train, vocab), dict.fromkeys(("unigram", "left", "both"), 0.0)
    train = np.asarray(train, np.int64)
    between = Table(train[:-2] * vocab + train[2:], train[1:-1], vocab)
    total = 0.0
    for batch in map(_on_host, batches):
        tokens, targets = batch["tokens"].astype(np.int64), batch["targets"]
        _inside(tokens.ravel(), vocab)
        segments = batch.get("segment_ids", np.ones_like(targets))
        weights = _weights(batch, targets.shape) * (segments > 0)
        left, right = np.full_like(tokens, -1), np.full_like(tokens, -1)
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        left[:, 1:] = np.where(same, tokens[:, :-1], -1)
        right[:, :-1] = np.where(same, tokens[:, 1:], -1)
        by_left = counts.guesses(left)
        around = np.where((left < 0) | (right < 0), -1, left * vocab + right)
        guesses = {"unigram": counts.likely, "left": by_left, "both": between.best(around, by_left)}
        for name, guess in guesses.items():
            sums[name] += float(((guess == targets) * weights).sum())
        total += float(weights.sum())
    if not total:
        raise DataError("no batch hides a token: there is nothing to guess")
    return {f"{name}_accuracy": value / total for name, value in sums.items()} | {"targets": total}


class _Sums:
    """Weighted sums over targets."""

    def __init__(self):
        self.weight = self.bytes = 0.0
        self.unigram, self.bigram = np.zeros(2), np.zeros(2)  # bits, right guesses

    def add(self, counts: Counts, before: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        kept = weights > 0
        before, targets, weights = (x[kept] for x in (before, targets, weights))
        _inside(targets, counts.vocab)
        self.weight += float(weights.sum())
        self.unigram += [-(np.log2(counts.unigram[targets]) * weights).sum(), weights[targets == counts.likely].sum()]
        right = counts.guesses(before) == targets
        self.bigram += [(counts.bits(before, targets) * weights).sum(), weights[right].sum()]

    def report(self) -> dict[str, float]:
        if not self.weight:
            raise DataError("no batch has a weighted target: there is nothing to guess")
        out = {"targets": self.weight}
        for name, (bits, right) in (("unigram", self.unigram), ("bigram", self.bigram)):
            out[f"{name}_loss"] = float(bits * np.log(2) / self.weight)
            out[f"{name}_accuracy"] = float(right / self.weight)
            if self.bytes:
                out[f"{name}_bits_per_byte"] = float(bits / self.bytes)
        return out


def _stream(train: np.ndarray, vocab: int) -> Counts:
    tokens = np.asarray(train, np.int64)
    return Counts(tokens[:-1], tokens[1:], vocab)


def _targets(batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(before, targets, weights, bytes): before the first target of a document is -1."""
    targets = batch["targets"].astype(np.int64)
    segments = batch.get("target_segment_ids", np.ones_like(targets))
    before = np.full_like(targets, -1)
    before[:, 1:] = np.where(segments[:, 1:] == segments[:, :-1], targets[:, :-1], -1)
    size = float((batch["bytes"] * batch["valid"]).sum()) if "bytes" in batch else 0.0
    return before, targets, _weights(batch, targets.shape) * (segments > 0), size


def _weights(batch: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(batch["valid"][:, None], shape) * batch.get("weights", 1.0)


def _on_host(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in batch.items()}


def _inside(tokens: np.ndarray, vocab: int) -> None:
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab:
        raise DataError(f"tokens run from {tokens.min()} to {tokens.max()}, and vocab is {vocab}")


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, otherwise: np.ndarray | int) -> np.ndarray:
    """The value of each wanted key, from sorted keys."""
    if not len(keys):
        return np.broadcast_to(otherwise, wanted.shape)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], otherwise)
