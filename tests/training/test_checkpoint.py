"""Checkpoints: what is saved comes back bit for bit, and what the policy keeps stays."""

import json
import threading
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.training import checkpoint_folder as folders
from fmjax.training.checkpoint import Checkpoints, Policy


@flax.struct.dataclass
class Everything:
    """As the state of a run, with every kind of leaf."""

    step: jax.Array
    rng: jax.Array
    params: dict
    opt_state: dict
    mutable: dict
    frozen: dict
    carry: dict


def everything(seed: int = 0) -> Everything:
    params = {
        "model": {"dense": {"kernel": jax.random.normal(jax.random.key(seed), (3, 4)), "none": jnp.zeros((0, 4))}}
    }
    carry = {
        "flags": jnp.array([True, False]),
        "small": jnp.arange(-2, 3, dtype=jnp.int8),
        "tiny": jnp.array([-8, 7, 0], jnp.int4),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(seed + 1), 3),
        "other_key": jax.random.key(seed, impl="rbg"),
        "numpy": np.arange(3, dtype=np.int64),
        "count": 7,
        "rate": 0.25,
        "on": True,
        "nan": jnp.array([np.nan, -0.0, np.inf]),
        "name with / and é": jnp.ones(()),
    }
    opt_state = {"model": optax.adam(1e-3).init(params)}
    return Everything(jnp.asarray(3), jax.random.key(seed), params, opt_state, {}, {}, carry)


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x, tree)


def bits(x) -> bytes:
    is_key = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x).tobytes()


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (type(x), getattr(x, "dtype", None), np.shape(x)) == (type(y), getattr(y, "dtype", None), np.shape(y))
        assert bits(x) == bits(y)


def small(value: float = 0.0) -> dict:
    return {"w": jnp.full((2, 3), value, jnp.float32), "n": jnp.asarray(int(value))}


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state = everything()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"seed": 5, "mesh": {"data": 1}}, wait=True)
        got, manifest = checkpoints.restore(abstract(state))
    assert_same(got, state)
    assert str(jax.random.key_impl(got.carry["other_key"])) == "rbg"
    assert (manifest["step"], manifest["seed"], manifest["mesh"], manifest["warnings"]) == (3, 5, {"data": 1}, [])


def test_the_manifest_can_be_read_without_the_code(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, everything(), {"config": "abc"}, wait=True)
    manifest = json.loads((tmp_path / "3" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["config"] == "abc"
    leaf = manifest["leaves"]["params/model/dense/kernel"]
    assert (leaf["shape"], leaf["dtype"], len(leaf["digest"])) == ([3, 4], "float32", 16)
    assert manifest["leaves"]["carry/keys"]["key"] == "threefry2x32"
    assert "opt_state/model/0/mu/model/dense/kernel" in manifest["leaves"]


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = step({"w": jnp.zeros((300, 1000)), "v": jnp.zeros((7,))})
    with Checkpoints(tmp_path) as checkpoints:
        for k in range(3):
            want = jax.tree.map(np.array, state)
            checkpoints.save(k, state, {})
            for _ in range(4):
                state = step(state)
            got, _ = checkpoints.restore(want, step=k)
            assert_same(got, want)


def test_numpy_targets_come_back_as_numpy_and_empty_trees_as_empty(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(3), "none": {}}, {}, wait=True)
        checkpoints.save(2, {"none": {}}, {}, wait=True)
        got, _ = checkpoints.restore({"w": np.zeros(3, np.float32), "none": {}}, step=1)
        assert type(got["w"]) is np.ndarray
        assert checkpoints.restore({"none": {}}, step=2)[0] == {"none": {}}


def test_part_of_a_checkpoint_can_be_restored(tmp_path):
    state = everything()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, wait=True)
        got, _ = checkpoints.restore({"params": abstract(state.params)}, partial=True)
        assert_same(got["params"], state.params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {**s, "w": jnp.zeros((2, 4))}, "w is float32(2, 3) in it and float32(2, 4) here"),
        (lambda s: {**s, "w": s["w"].astype(jnp.bfloat16)}, "w is float32(2, 3) in it and bfloat16(2, 3) here"),
        (lambda s: {**s, "new": jnp.zeros(())}, "new is not in it"),
        (lambda s: {"w": s["w"]}, "n is only in it"),
        (lambda s: {f"x{i}": s["w"] for i in range(9)}, "and 8 more"),
    ],
)
def test_another_model_is_refused_by_address(tmp_path, change, said):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(), {}, wait=True)
        with pytest.raises(CheckpointError, match="does not fit") as caught:
            checkpoints.restore(abstract(change(small())))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leaf", ["a word", np.array([object()], dtype=object)])
def test_what_is_no_number_is_refused(tmp_path, leaf):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=r"step 1 .*model/x .*arrays and"):
        checkpoints.save(1, {"model": {"x": leaf}}, {})
    assert folders.steps(tmp_path) == []


def test_two_leaves_of_one_address_are_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="two leaves have the address a/b"):
        checkpoints.save(1, {"a": {"b": jnp.ones(2)}, "a/b": jnp.zeros(2)}, {})


def test_a_manifest_that_is_no_json_is_a_bug_of_the_caller(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, small(), {"bad": object()})
        with pytest.raises(ValueError, match="leaves"):
            checkpoints.save(1, small(), {"leaves": {}})


def test_nothing_there_and_no_such_step_are_said(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            checkpoints.restore(small())
        checkpoints.save(4, small(), {}, wait=True)
        with pytest.raises(CheckpointError, match="no step 5; there is 4"):
            checkpoints.restore(small(), step=5)


@pytest.mark.parametrize("field", [{"every": 0}, {"keep": 0}, {"keep_every": 0}, {"mode": "most"}])
def test_a_policy_that_makes_no_sense_is_refused(field):
    with pytest.raises(ConfigError, match=f"checkpoint.{next(iter(field))}"):
        Policy(**field)


def test_the_last_n_the_multiples_and_the_best_are_kept(tmp_path):
    policy = Policy(keep=2, keep_every=40, best="validation/accuracy")
    with Checkpoints(tmp_path, policy) as checkpoints:
        for k in range(10, 101, 10):
            checkpoints.save(k, small(k), {})
            checkpoints.mark_best(k, 0.9 if k == 30 else 0.1)
        checkpoints.wait()
        assert checkpoints.steps() == [30, 40, 80, 90, 100]
        assert (checkpoints.latest(), checkpoints.best()) == (100, 30)
        assert float(checkpoints.restore(small(), step=checkpoints.best())[0]["n"]) == 30


def test_nothing_is_deleted_before_the_next_is_whole(tmp_path, monkeypatch):
    go = threading.Event()
    publish = folders.publish
    with Checkpoints(tmp_path, Policy(keep=1)) as checkpoints:
        checkpoints.save(1, small(1), {}, wait=True)
        monkeypatch.setattr(folders, "publish", lambda path: (go.wait(30), publish(path)))
        checkpoints.save(2, small(2), {})
        time.sleep(0.2)
        assert checkpoints.steps() == [1]
        assert checkpoints.has(2)
        go.set()
        checkpoints.wait()
        assert checkpoints.steps() == [2]


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 3)])
def test_the_best_survives_a_restart_in_files(tmp_path, mode, best):
    policy = Policy(keep=5, best="validation/loss", mode=mode)
    with Checkpoints(tmp_path, policy) as checkpoints:
        for k, value in {1: 0.5, 2: 0.7, 3: 0.2, 4: float("nan")}.items():
            checkpoints.save(k, small(k), {})
            assert checkpoints.mark_best(k, value) == (k in {"max": (1, 2), "min": (1, 3)}[mode])
    with Checkpoints(tmp_path, policy) as checkpoints:
        assert checkpoints.best() == best
        assert not checkpoints.mark_best(4, {"max": 0.69, "min": 0.21}[mode])
    assert Checkpoints(tmp_path, writable=False).best() == best  # a reader need not know the policy


def test_a_value_counts_only_once_its_step_is_saved(tmp_path):
    with Checkpoints(tmp_path, Policy(best="v")) as checkpoints:
        checkpoints.save(1, small(1), {}, wait=True)
        assert checkpoints.mark_best(1, 0.5)
        assert checkpoints.mark_best(2, 0.9)
        assert not checkpoints.has(2)
        assert checkpoints.best() == 1
        checkpoints.save(2, small(2), {}, wait=True)
        assert checkpoints.best() == 2


def test_a_step_done_again_after_a_restore_loses_its_old_value(tmp_path):
    with Checkpoints(tmp_path, Policy(best="v")) as checkpoints:
        for k in (1, 2):
            checkpoints.save(k, small(k), {})
            checkpoints.mark_best(k, k)
        checkpoints.restore(small(), step=1)
        assert checkpoints.best() == 2
        checkpoints.save(2, small(7), {}, wait=True)
        assert checkpoints.best() == 1
        assert float(checkpoints.restore(small(), step=2)[0]["n"]) == 7


def test_values_of_another_metric_are_set_aside(tmp_path, caplog):
    with Checkpoints(tmp_path, Policy(best="a")) as checkpoints:
        checkpoints.save(1, small(1), {}, wait=True)
        checkpoints.mark_best(1, 0.5)
    with Checkpoints(tmp_path, Policy(best="b")) as checkpoints:
        assert checkpoints.best() is None
    assert "set aside" in caplog.text


def test_the_same_step_is_written_once_unless_its_facts_changed(tmp_path):
    def made() -> float:
        return json.loads((tmp_path / "1" / "manifest.json").read_text())["saved_at"]

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {"data_offset": 0}, wait=True)
        first = made()
        checkpoints.save(1, small(1), {"data_offset": 0}, wait=True)
        assert made() == first
        checkpoints.save(1, small(1), {"data_offset": 9}, wait=True)
        assert checkpoints.restore(small())[1]["data_offset"] == 9
        checkpoints.save(1, small(2), {"data_offset": 9}, wait=True)  # after a restore it may be another state
        assert float(checkpoints.restore(small())[0]["n"]) == 2
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == []


def test_frozen_weights_are_saved_once_under_their_digest(tmp_path):
    teacher = {"teacher": {"w": jax.random.normal(jax.random.key(0), (4, 5))}}
    with Checkpoints(tmp_path, Policy(keep=1)) as checkpoints:
        name = checkpoints.save_frozen(teacher)
        written = (tmp_path / "frozen" / name / "manifest.json").stat().st_mtime_ns
        assert checkpoints.save_frozen(jax.tree.map(np.asarray, teacher)) == name
        assert (tmp_path / "frozen" / name / "manifest.json").stat().st_mtime_ns == written
        assert checkpoints.save_frozen({"teacher": {"w": teacher["teacher"]["w"] + 1}}) != name
        for k in range(3):
            checkpoints.save(k, small(k), {"frozen": name})
        checkpoints.wait()
        assert checkpoints.steps() == [2]
        assert_same(checkpoints.restore_frozen(abstract(teacher), name), teacher)
        with pytest.raises(CheckpointError, match="no frozen weights abc"):
            checkpoints.restore_frozen(abstract(teacher), "abc")


def test_reading_writes_nothing_and_cleans_nothing(tmp_path):
    assert Checkpoints(tmp_path / "absent", writable=False).steps() == []
    assert not (tmp_path / "absent").exists()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {}, wait=True)
        (tmp_path / "2.partial").mkdir()
        before = sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
        with Checkpoints(tmp_path, writable=False) as reader:  # beside the writer
            assert float(reader.restore(small())[0]["n"]) == 1
            with pytest.raises(CheckpointError, match="not open for writing"):
                reader.save(2, small(2), {})
            with pytest.raises(CheckpointError, match="not open for writing"):
                reader.mark_best(1, 1.0)
            with pytest.raises(CheckpointError, match="not open for writing"):
                reader.save_frozen(small())
        assert sorted((str(p), p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(folders, "FORMAT", 2)
        checkpoints.save(1, small(1), {}, wait=True)
        monkeypatch.setattr(folders, "FORMAT", 1)
        with pytest.raises(CheckpointError, match=r"format 2.*upgrade fmjax"):
            checkpoints.restore(small())
