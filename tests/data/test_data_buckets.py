"""Batches by length: the same rows as without, cut where nothing but padding is; training does not notice the cut."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from stand_ins import Crash, course, crash, events, records

from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.data import labelled, pipeline, splits, tokenizers
from fmjax.models import heads, transformer
from fmjax.objectives import texts
from fmjax.optim import optimizers
from fmjax.run import fit
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log

BUCKETS = (6, 10, 16)


class Words:
    """Rows of 1 to 16 tokens."""

    along = ("tokens",)

    def __init__(self, lengths):
        self.lengths, self.fingerprint = np.asarray(lengths), "0"

    def __len__(self):
        return len(self.lengths)

    def rows(self, indices):
        used = np.arange(16) < self.lengths[indices][:, None]
        return {"tokens": np.where(used, 1 + np.asarray(indices)[:, None], 0), "square": np.zeros((len(indices), 16))}

    def __getitem__(self, index):
        return {key: rows[0] for key, rows in self.rows(np.array([index])).items()}


@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=60), size=st.integers(1, 8), seed=st.integers(0, 3)
)  # fmt: skip
def test_a_pool_has_the_rows_that_it_has_without_buckets(lengths, size, seed):
    source = Words(lengths)
    plain, cut = (pipeline.stream(source, size, buckets=buckets) for buckets in ((), BUCKETS))
    pool = cut.buckets.pool
    for start in (0, pool):
        together = [
            np.concatenate([d.plan(k, seed) for k in range(start, start + pool)])
            for d in (plain, cut)
        ]  # fmt: skip
        np.testing.assert_array_equal(*map(np.sort, together))
    for k in range(pool):
        indices, batch = cut.plan(k, seed), cut.batch(k, seed)
        longest = source.lengths[indices].max()
        assert batch["tokens"].shape[1] == min(b for b in BUCKETS if b >= longest)
        assert batch["square"].shape[1] == 16
        assert (batch["tokens"] != 0).sum() == source.lengths[indices].sum()
        half = slice(0, size // 2)  # a host's rows are cut as the others' are
        np.testing.assert_array_equal(cut.batch(k, seed, half)["tokens"], batch["tokens"][half])


def test_rows_of_a_batch_are_of_about_one_length():
    rng = np.random.default_rng(0)
    source = Words(rng.integers(1, 17, 4096))
    batches = pipeline.stream(source, 32, buckets=BUCKETS)
    widths = [batches.batch(k)["tokens"].shape[1] for k in range(64)]
    fair = np.array(BUCKETS)[np.searchsorted(BUCKETS, source.lengths)].mean()
    assert np.mean(widths) < fair + 0.5  # without sorting nearly all would be 16 wide
    assert len({tuple(widths[i : i + 8]) for i in range(0, 64, 8)}) == 8, "short batches do not come first"


def test_a_pass_keeps_its_order_and_its_padding_rows():
    source = Words([3, 16, 2, 5, 1])
    whole, cut = (pipeline.one_pass(source, 2, buckets=buckets) for buckets in ((), BUCKETS))
    for k, width in enumerate((16, 6, 6)):
        np.testing.assert_array_equal(cut.batch(k)["tokens"], whole.batch(k)["tokens"][:, :width])
        np.testing.assert_array_equal(cut.batch(k)["valid"], whole.batch(k)["valid"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"buckets": (8, 4)}, "lengths that ascend"),
        ({"buckets": (0, 16)}, "lengths that ascend"),
        ({"buckets": (4, 8)}, "the longest row has 16 tokens"),
        ({"buckets": (16,), "repeats": 2}, "buckets go with neither"),
        ({"buckets": (16,), "resident": True}, "buckets go with neither"),
    ],
)
def test_wrong_buckets_are_one_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        pipeline.stream(Words([16, 3]), 2, **settings)


def test_a_source_without_lengths_is_named():
    with pytest.raises(ConfigError, match="does not know the lengths"):
        pipeline.stream(Plain(), 1, buckets=(4,))


class Plain:
    fingerprint = "0"

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"a": np.zeros(3)}

    def __repr__(self):
        return "plain"


def config(path, **settings):
    made = ConfigDict({"seed": 0, "steps": 6})
    backbone = call(transformer.Encoder, vocab=260, width=8, depth=1, heads=2, output="none", position="rotary")
    made.model = call(heads.Classifier, backbone=backbone, classes=2, pool="mean")
    made.objective = call(texts.ClassifyText)
    made.optimizer = call(optimizers.adamw, rate=1e-2)
    framed = call(tokenizers.with_specials, tokenizer=call(tokenizers.byte), names=("cls", "sep"))
    source = call(labelled.LabelledTexts, paths=path, tokenizer=framed, length=16, classes=("a", "b"))
    held_in = call(splits.Split, source=source, part="train", fraction=0.1)
    made.data = call(pipeline.stream, source=held_in, batch_size=4, **settings)
    made.checkpoint = call(Policy, every=2)
    made.log = call(Log, every=1, tensorboard=False, progress=False)
    return made


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
    rows = [{"sentence": "ab"[i % 2] * (1 + i * 7 % 14), "label": i % 2} for i in range(40)]
    made = tmp_path / "texts.jsonl"
    made.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(made)


def test_training_does_not_notice_what_is_cut_off(path, tmp_path):
    for name, buckets in (("whole", ()), ("cut", (8, 12, 16))):
        fit(config(path, shuffle=False, buckets=buckets), workdir=tmp_path / name)
    whole, cut = (records(tmp_path / name, "train") for name in ("whole", "cut"))
    np.testing.assert_allclose([r["loss"] for r in cut], [r["loss"] for r in whole], rtol=1e-5)
    assert [r["batch"] for r in cut] != [r["batch"] for r in whole]
    assert "tokens_per_second" not in cut[-1]
    assert "tokens_per_second" in whole[-1]


def test_a_run_of_buckets_resumes_as_if_it_had_not_stopped(path, tmp_path):
    buckets = {"buckets": (8, 12, 16)}
    fit(config(path, **buckets), workdir=tmp_path / "whole")
    with pytest.raises(Crash):
        fit(config(path, **buckets), workdir=tmp_path / "halves", hooks=[crash(4)])
    fit(config(path, **buckets), workdir=tmp_path / "halves")
    assert course(tmp_path / "whole") == course(tmp_path / "halves")
    assert "resumed" in events(tmp_path / "halves")
