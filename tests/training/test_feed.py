"""Feeds: rows that lie on the devices give the run that batches from the host give, in fewer calls."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from stand_ins import Crash, Plain, course, crash, records, same, tiny

from fmjax.core.config import call
from fmjax.core.errors import ConfigError, DataError, UserError
from fmjax.data import folders, pipeline
from fmjax.data.source import InMemory
from fmjax.objectives import supervised
from fmjax.run import fit
from fmjax.training import feed
from fmjax.training.feed import Resident

RESIDENT = ["--config.data.transforms=()", "--config.data.resident=True", "--config.log.every=5"]
STREAMED = ["--config.data.transforms=()", "--config.log.every=5"]


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    return fit(tiny(), tmp_path_factory.mktemp("resident"), RESIDENT)


def test_rows_on_the_devices_give_the_run_of_rows_from_the_host(resident, tmp_path):
    streamed = fit(tiny(), tmp_path, STREAMED)
    assert [r[-1] for r in course(tmp_path)] == [r[-1] for r in course(resident.folder)]
    for a, b in zip(course(tmp_path), course(resident.folder), strict=True):
        np.testing.assert_allclose(a[:-1], b[:-1], rtol=1e-5)
    same(streamed.state, resident.state, 1e-5)
    kept = lambda run: [  # noqa: E731
        (r["kind"], r["step"], r.get("event")) for r in records(run.folder) if r["kind"] != "start"
    ]
    assert sorted(kept(streamed), key=str) == sorted(kept(resident), key=str)
    assert resident.numbers == pytest.approx(streamed.numbers, rel=1e-5)


@pytest.mark.parametrize("at", [3, 6, 9])
def test_resuming_changes_no_bit_wherever_calls_begin(resident, tmp_path, at):
    with pytest.raises(Crash):  # with a hook every call is one step, afterwards up to four
        fit(tiny(), tmp_path, RESIDENT, hooks=[crash(at)])
    again = fit(tiny(), tmp_path, RESIDENT)
    same(again.state, resident.state)
    assert course(tmp_path) == course(resident.folder)


def test_calls_end_where_there_is_something_to_do_and_a_hook_sees_every_step(monkeypatch):
    asked, seen = [], []
    advance = Resident.advance

    def counted(self, state, step, k, steps):
        asked.append((step, steps))
        return advance(self, state, step, k, steps)

    monkeypatch.setattr(Resident, "advance", counted)
    monkeypatch.setattr(feed, "SECONDS", 1e6)
    fit(tiny(), None, RESIDENT)  # an evaluation each 4 steps, metrics each 5
    assert asked == [(0, 1), (1, 3), (4, 1), (5, 3), (8, 2), (10, 2)]
    asked.clear()
    fit(tiny(3), None, RESIDENT, hooks=[lambda step, state, last: seen.append((step, int(state.step)))])
    assert asked == [(0, 1), (1, 1), (2, 1)]
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_calls_are_short_where_steps_are_slow(resident, monkeypatch, tmp_path):
    monkeypatch.setattr(feed, "SECONDS", 0.0)
    taken, advance = [], Resident.advance

    def counted(self, *args):
        out = advance(self, *args)
        taken.append(len(out[2]))
        return out

    monkeypatch.setattr(Resident, "advance", counted)
    slow = fit(tiny(), tmp_path, RESIDENT)
    assert taken == [1] * 12
    same(slow.state, resident.state)


def test_a_step_that_is_not_finite_is_found_within_a_call(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step 7 .*the last good checkpoint is step 4"):
        fit(tiny(nan=51), tmp_path, RESIDENT)
    assert [r["step"] for r in records(tmp_path, "train")] == list(range(1, 8))
    run = fit(tiny(nan=51), tmp_path / "b", [*RESIDENT, "--config.nan.action=rollback"])
    back = next(r for r in records(tmp_path / "b", "event") if r["event"] == "rollback")
    assert (run.word, back["step"], back["to"], back["data_offset"]) == ("finished", 7, 4, 3)


def test_rows_that_cannot_be_used_are_refused_before_the_first_step(tmp_path, monkeypatch):
    def refuse(self, batch, outputs):
        if np.isnan(batch["features"]).any():
            raise DataError("a feature is nan")

    monkeypatch.setattr(Plain, "check", refuse)
    with pytest.raises(DataError, match="training examples from 48 on: a feature is nan"):
        fit(tiny(nan=51), tmp_path, RESIDENT)
    assert not records(tmp_path, "train")


def test_held_rows_are_those_of_the_batches_with_repeats_and_padding_marks():
    data = pipeline.stream(InMemory("ten", {"x": np.arange(10, dtype=np.int32)}), 4, repeats=2, resident=True)
    held = data.held()
    for k in range(7):
        batch = data.batch(k, seed=1)
        for key, rows in batch.items():
            np.testing.assert_array_equal(held[key][data.plan(k, seed=1)], rows)
    assert held["valid"].tolist() == [1.0] * 10


def test_only_sources_in_memory_can_be_resident(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name / "x.png")
    images = folders.ImageFolder(str(tmp_path), in_memory=False)
    memory = InMemory("ten", {"x": np.arange(10)})
    for source, more in ((images, {}), (memory, {"workers": 1}), (memory, {"transforms": (jax.tree.map,)})):
        with pytest.raises(ConfigError, match="resident wants a source in memory, without transforms or workers"):
            pipeline.stream(source, 2, resident=True, **more)


# ---- progressive resizing ---------------------------------------------------------------------------


class Seen(nn.Module):
    """Its first logit is the height of the images that it gets."""

    @nn.compact
    def __call__(self, x, train=False):
        weight = self.param("weight", nn.initializers.ones, ())
        return jnp.zeros((len(x), 2)).at[:, 0].set(x.shape[1]) + 0 * weight


class Images(InMemory):
    def __init__(self):
        images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
        super().__init__("images", {"image": images, "label": np.zeros(24, np.int32)})


def shrinking(*stages):
    config = tiny(6)
    config.model = call(Seen)
    shrink = tuple(call(supervised.Shrink, size=size, until=until) for size, until in stages)
    config.objective = call(supervised.Classify, shrink=shrink)
    config.data = call(pipeline.stream, source=call(Images), batch_size=8)
    config.evals.validation.data.source = call(Images)
    return config


def heights(folder):
    return [round(-np.log(np.expm1(r["loss"]))) for r in records(folder, "train")]


@pytest.mark.parametrize("resident", [False, True])
def test_images_grow_stage_by_stage_and_a_resumed_run_knows_its_stage(tmp_path, resident):
    stages, more = ((4, 2), (6, "75%")), [f"--config.data.resident={resident}"]
    run = fit(shrinking(*stages), tmp_path / "a", more)
    assert heights(tmp_path / "a") == [4, 4, 6, 6, 8, 8]
    assert run.numbers["validation/loss"] == pytest.approx(np.log1p(np.exp(-8.0)), rel=1e-3)
    assert all("mfu" not in r for r in records(tmp_path / "a", "train"))
    with pytest.raises(Crash):
        fit(shrinking(*stages), tmp_path / "b", more, hooks=[crash(5)])
    fit(shrinking(*stages), tmp_path / "b", more)
    assert course(tmp_path / "b") == course(tmp_path / "a")


def test_stages_that_make_no_sense_are_refused_before_the_first_step(tmp_path):
    for stages, said in (
        (((4, 4), (6, 2)), r"the stages of shrink end one after the other, not at steps \(4, 2\)"),
        (((0, 4),), "size and until of Shrink are 1 or more"),
        (((9, 4),), r"smaller: \(8, 8, 3\) is not shrunk to 9"),
    ):
        with pytest.raises(ConfigError, match=said):
            fit(shrinking(*stages), tmp_path)
