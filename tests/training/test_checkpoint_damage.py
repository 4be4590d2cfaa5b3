"""Damage: any flipped bit is found, a damaged checkpoint is passed over and never deleted, and nothing is executed."""

import os
import pickle
import random
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmjax
from fmjax.core.errors import CheckpointError
from fmjax.training import checkpoint_arrays as arrays_io
from fmjax.training import checkpoint_folder as folders
from fmjax.training.checkpoint import Checkpoints, Policy
from fmjax.training.checkpoint_verify import damage


def weights(value: float) -> dict:
    return {"a": jnp.full((200, 30), value, jnp.float32), "b": {"bias": jnp.arange(7.0)}, "n": jnp.asarray(int(value))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, Policy(best="v")) as checkpoints:
        for k in (1, 2, 3):
            checkpoints.save(k, weights(k), {})
            checkpoints.mark_best(k, -k)
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(bytes(raw))


def data_file(step: Path) -> Path:
    return max((step / "arrays").rglob("d/*"), key=lambda p: p.stat().st_size)


def test_what_was_saved_is_not_damaged(run):
    assert [damage(run / str(k)) for k in (1, 2, 3)] == [[], [], []]


def test_any_flipped_bit_of_any_file_is_found(run):
    rng = random.Random(0)
    for path in sorted(p for p in (run / "3").rglob("*") if p.is_file()):
        for bit in {0, 8 * path.stat().st_size - 1, *(rng.randrange(8 * path.stat().st_size) for _ in range(6))}:
            flip(path, bit)
            found = folders.damaged_files(run / "3")
            assert found, (path, bit)
            if path.name != folders.SUMS:
                assert path.relative_to(run / "3").as_posix() in found
            flip(path, bit)
    assert folders.damaged_files(run / "3") == []


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_of_the_arrays_never_gives_wrong_numbers(run, seed):
    path = data_file(run / "3")
    flip(path, random.Random(seed).randrange(8 * path.stat().st_size))
    with Checkpoints(run) as checkpoints:
        got, manifest = checkpoints.restore(weights(0))
    want = weights(manifest["step"])  # 3 still, where nothing reads that byte
    assert manifest["warnings"] or manifest["step"] == 3
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), got, want)))


def test_wrong_numbers_are_named_by_leaf_even_when_files_are_as_saved(run, monkeypatch):
    load = arrays_io.load

    def rotten(path, leaves, kinds):
        out = load(path, leaves, kinds)
        return {**out, "a": np.asarray(out["a"]) + (path.name == "3")} if "a" in out else out

    monkeypatch.setattr(arrays_io, "load", rotten)
    assert damage(run / "3") == ["leaf a is not the one that was saved"]
    with Checkpoints(run, writable=False) as checkpoints:
        with pytest.raises(CheckpointError, match=r"3 is damaged: a differ"):
            checkpoints.restore(weights(0), step=3)
        assert int(checkpoints.restore(weights(0))[0]["n"]) == 2
    with Checkpoints(run, Policy(verify=False), writable=False) as checkpoints:
        assert int(checkpoints.restore(weights(0))[0]["n"]) == 3


def break_arrays(step: Path) -> None:
    for path in (step / "arrays").rglob("d/*"):
        path.write_bytes(b"\0" * path.stat().st_size)


BREAK = {
    "arrays": break_arrays,
    "data files gone": lambda step: [path.unlink() for path in (step / "arrays").rglob("d/*")],
    "arrays gone": lambda step: shutil.rmtree(step / "arrays"),
    "manifest cut": lambda step: os.truncate(step / "manifest.json", 50),
    "manifest empty": lambda step: (step / "manifest.json").write_text(""),
    "manifest gone": lambda step: (step / "manifest.json").unlink(),
    "manifest other": lambda step: (step / "manifest.json").write_text('{"format": 1, "leaves": []}'),
    "offset changed": lambda step: (step / "manifest.json").write_text(
        (step / "manifest.json").read_text().replace('"step": 3', '"step": 4')
    ),
    "all gone": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("how", BREAK)
def test_a_damaged_latest_is_passed_over_loudly_and_left_alone(run, how, caplog):
    BREAK[how](run / "3")
    before = sorted(p for p in run.rglob("*"))
    with Checkpoints(run) as checkpoints:
        got, manifest = checkpoints.restore(weights(0))
        assert (int(got["n"]), manifest["step"]) == (2, 2)
        assert len(manifest["warnings"]) == 1
        assert f"{run}/3" in manifest["warnings"][0]
        assert manifest["warnings"][0] in caplog.text
        with pytest.raises(CheckpointError, match="/3") as caught:
            checkpoints.restore(weights(0), step=3)
        assert "\n" not in str(caught.value)
        assert sorted(p for p in run.rglob("*")) == before
        assert damage(run / "3")
        checkpoints.save(3, weights(3), {}, wait=True)  # the run gets there again
        assert damage(run / "3") == []
        assert int(checkpoints.restore(weights(0))[0]["n"]) == 3


def test_all_damaged_is_one_line(run):
    for k in (1, 2, 3):
        break_arrays(run / str(k))
    with (
        Checkpoints(run) as checkpoints,
        pytest.raises(CheckpointError, match=r"every checkpoint .* is damaged") as caught,
    ):
        checkpoints.restore(weights(0))
    assert "\n" not in str(caught.value)
    assert folders.steps(run) == [1, 2, 3]


def test_the_damaged_ones_do_not_crowd_out_the_good(run):
    break_arrays(run / "3")
    with Checkpoints(run, Policy(keep=1)) as checkpoints:
        checkpoints.restore(weights(0))
        checkpoints.save(2, weights(2), {"again": True}, wait=True)
        assert checkpoints.steps() == [2, 3]


def test_intact_files_that_cannot_be_restored_are_no_damage(run, monkeypatch):
    def broken(path, leaves, kinds):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(arrays_io, "load", broken)
    with Checkpoints(run) as checkpoints, pytest.raises(RuntimeError, match="out of memory"):
        checkpoints.restore(weights(0))


def test_without_its_hashes_a_checkpoint_still_stands_by_its_digests(run):
    (run / "3" / folders.SUMS).unlink()
    with Checkpoints(run) as checkpoints:
        assert int(checkpoints.restore(weights(0))[0]["n"]) == 3
    assert damage(run / "3") == [f"file {folders.SUMS} is missing"]


@pytest.mark.parametrize("text", ["", "{}", '{"values": 3}', "[1]", "not json"])
def test_a_damaged_file_of_values_is_said_and_counted_anew(run, text, caplog):
    (run / folders.SCORES).write_text(text)
    with Checkpoints(run, Policy(best="v")) as checkpoints:
        assert checkpoints.best() is None
        assert "damaged" in caplog.text
        assert checkpoints.mark_best(2, 0.0)
        assert checkpoints.best() == 2


def test_a_flipped_value_is_not_believed(run, caplog):
    path = run / folders.SCORES
    path.write_text(path.read_text().replace("-3.0", "-0.3"))
    assert Checkpoints(run, writable=False).best() is None
    assert "damaged" in caplog.text


class Evil:
    def __reduce__(self):
        return (os.system, (f"touch {Evil.proof}",))

    proof = ""


def test_a_hostile_file_is_never_executed(run, tmp_path):
    Evil.proof = str(tmp_path / "executed")
    bomb = pickle.dumps(Evil())
    step = run / "3"
    for path in [*(p for p in step.rglob("*") if p.is_file()), step / "state.pkl", step / "arrays" / "checkpoint"]:
        path.write_bytes(bomb)
    (run / folders.SCORES).write_bytes(bomb)
    with Checkpoints(run) as checkpoints:
        assert int(checkpoints.restore(weights(0))[0]["n"]) == 2
    assert damage(step)
    assert not (tmp_path / "executed").exists()


def test_nothing_in_the_package_unpickles():
    risky = re.compile(r"^\s*(import|from) (pickle|dill|cloudpickle|joblib|shelve)|allow_pickle=True|torch\.load", re.M)
    sources = Path(fmjax.__file__).parent.rglob("*.py")
    assert [str(path) for path in sources if risky.search(path.read_text())] == []
