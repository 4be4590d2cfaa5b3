"""Entities beside seqeval, where that is installed, on any tags at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmjax.evals.entities import EntityF1, entities

seqeval = pytest.importorskip("seqeval.metrics")
scheme = pytest.importorskip("seqeval.scheme")
TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]
pairs = st.lists(st.lists(st.tuples(*[st.sampled_from(TAGS)] * 2), min_size=1, max_size=8), min_size=1, max_size=6)


class Given:
    """A source of (true, predicted) tags, whatever the rows."""

    def __init__(self, both):
        self.both = both

    def assembled(self, ids):
        return self.both


@given(pairs, st.booleans())
def test_scores_equal_seqeval_whatever_the_tags(both, strict):
    true, called = ([[pair[i] for pair in s] for s in both] for i in (0, 1))
    if not any(entities(s, strict) for s in (*true, *called)):
        return
    mode = {"mode": "strict", "scheme": scheme.IOB2} if strict else {}
    source = Given([(a, b) for a, b in zip(true, called, strict=True)])
    found = EntityF1(source, strict).result({"tags": np.zeros((1, 1)), "broken": np.zeros(1, bool)})
    for word, fn in (("", "f1_score"), ("precision", "precision_score"), ("recall", "recall_score")):
        assert found[word] == pytest.approx(getattr(seqeval, fn)(true, called, zero_division=0, **mode)), fn
