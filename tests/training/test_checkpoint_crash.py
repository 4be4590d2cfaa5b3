"""Kills, full disks, second writers, other meshes: what is on disk stays whole."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import CheckpointError
from fmjax.training import checkpoint_folder as folders
from fmjax.training.checkpoint import Checkpoints, Policy
from fmjax.training.checkpoint_lock import Lock
from fmjax.training.checkpoint_verify import damage

TARGET = {"w": jax.ShapeDtypeStruct((64, 32), jnp.float32), "n": jax.ShapeDtypeStruct((), jnp.int32)}


def weights(k: int) -> dict:
    return {"w": jnp.full((64, 32), k, jnp.float32) + jnp.arange(32), "n": jnp.asarray(k, jnp.int32)}


def is_state(tree: dict, k: int) -> bool:
    return all(bool((np.asarray(tree[name]) == np.asarray(x)).all()) for name, x in weights(k).items())


def child(code: str, *args: object, devices: int = 1) -> subprocess.Popen:
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env={**os.environ, **flags}, stdout=subprocess.PIPE, text=True)


SAVING = """
import sys, jax.numpy as jnp
from pathlib import Path
from fmjax.training.checkpoint import Checkpoints, Policy
checkpoints = Checkpoints(Path(sys.argv[1]), Policy(keep=2))
k = (checkpoints.latest() or 0) + 1
while True:
    state = {"w": jnp.full((64, 32), k, jnp.float32) + jnp.arange(32), "n": jnp.asarray(k, jnp.int32)}
    checkpoints.save(k, state, {})  # waits for the one before
    print(k, flush=True)
    k += 1
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_loses_at_most_the_save_underway(tmp_path, seed):
    rng = random.Random(seed)
    process = child(SAVING, tmp_path)
    for _ in range(rng.randrange(2, 6)):
        begun = int(process.stdout.readline())
    time.sleep(rng.random() * 0.15)
    process.send_signal(signal.SIGKILL)
    begun = max([begun, *map(int, process.communicate()[0].split())])
    with Checkpoints(tmp_path, Policy(keep=2)) as checkpoints:  # the lock died with its holder
        assert checkpoints.latest() >= begun - 1
        assert all(damage(tmp_path / str(k)) == [] for k in checkpoints.steps())
        got, manifest = checkpoints.restore(TARGET)
        assert manifest["step"] == checkpoints.latest()
        assert is_state(got, manifest["step"])
        assert manifest["warnings"] == []
        checkpoints.save(begun + 9, weights(1), {}, wait=True)
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == []


def test_what_a_killed_save_left_is_removed_by_the_next_writer(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, weights(1), {}, wait=True)
        checkpoints.save(2, weights(2), {}, wait=True)
    shutil.copytree(tmp_path / "1", tmp_path / "3.partial")
    shutil.copytree(tmp_path / "1", tmp_path / "frozen" / "abc.partial")
    (tmp_path / "1").rename(tmp_path / "1.deleted")
    (tmp_path / "2").rename(tmp_path / "2.replaced")  # killed between the renames of a replacement
    assert Checkpoints(tmp_path, writable=False).steps() == []
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]
        assert is_state(checkpoints.restore(TARGET)[0], 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "frozen", "lock"]
    assert list((tmp_path / "frozen").iterdir()) == []


def test_a_second_writer_is_refused_by_the_pid_of_the_first(tmp_path):
    first = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=f"being written by process {os.getpid()} on "):
        Checkpoints(tmp_path)
    first.close()
    Checkpoints(tmp_path).close()


def test_a_forked_child_does_not_hold_the_lock_of_its_dead_parent(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from fmjax.training.checkpoint_lock import Lock
lock = Lock(Path(sys.argv[1]))
if os.fork() == 0:
    os.close(1)
    time.sleep(30)
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    child(code, tmp_path / "lock").communicate()
    Lock(tmp_path / "lock").release()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoints into .*: Not a directory"):
        Checkpoints(tmp_path / "file" / "run")


@pytest.fixture
def no_big_files():
    """Every file past 64 kB fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("when", ["save", "wait", "check", "close"])
def test_a_full_disk_surfaces_at_the_next_call_and_spares_what_is_saved(tmp_path, no_big_files, when):
    big = {"w": jax.random.normal(jax.random.key(0), (400, 400))}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, weights(1), {}, wait=True)
    checkpoints.save(2, big, {})
    checkpoints._saver._thread.join()
    with pytest.raises(CheckpointError, match=r"could not save step 2 .*; the checkpoints of 1 are intact") as caught:
        checkpoints.save(3, big, {}) if when == "save" else getattr(checkpoints, when)()
    assert "\n" not in str(caught.value)
    assert checkpoints.steps() == [1]
    assert not (tmp_path / "2.partial").exists()
    assert not big["w"].is_deleted()
    if when != "close":  # it was said once; with room again the run goes on
        assert is_state(checkpoints.restore(TARGET)[0], 1)
        no_big_files()
        checkpoints.save(2, big, {}, wait=True)
        assert checkpoints.steps() == [1, 2]
        checkpoints.close()
    Checkpoints(tmp_path).close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount")
    try:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, weights(1), {}, wait=True)
            with pytest.raises(CheckpointError, match=r"could not save step 2 .*: No space left on device; "):
                checkpoints.save(2, {"w": jax.random.normal(jax.random.key(0), (900, 900))}, {}, wait=True)
            assert damage(tmp_path / "1") == []
            checkpoints.save(2, weights(2), {}, wait=True)  # the space came back
            assert checkpoints.steps() == [1, 2]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_error_while_hashing_is_an_error_of_the_save(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(folders, "write", full)
        checkpoints.save(1, weights(1), {})
        with pytest.raises(CheckpointError, match=r"step 1 .*No space left on device; none was saved before"):
            checkpoints.wait()
        with pytest.raises(CheckpointError, match="the best value"):
            checkpoints.mark_best(1, 0.5)
        checkpoints.wait()
    assert not list(tmp_path.glob("1*"))


ON_EIGHT = """
import sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec as P
from fmjax.training.checkpoint import Checkpoints
mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
place = lambda shape, dtype, *spec: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))
target = {"w": place((64, 32), jnp.float32, "fsdp", "data"), "n": place((), jnp.int32),
          "half": place((8, 3), jnp.bfloat16, ("data", "fsdp")),
          "none": place((0, 8), jnp.float32, None, "data"), "rng": place((), jax.random.key(0).dtype)}
here, there = map(Path, sys.argv[1:])
tree, manifest = Checkpoints(here, writable=False).restore(target)
assert manifest["warnings"] == []
for name, x in tree.items():
    assert x.sharding.is_equivalent_to(target[name].sharding, x.ndim), name
assert len(tree["w"].addressable_shards) == 8 and tree["w"].addressable_shards[0].data.shape == (32, 8)
with Checkpoints(there) as checkpoints:
    checkpoints.save(7, tree, {"mesh": dict(mesh.shape)}, wait=True)
    checkpoints.restore(target)
print("ok")
"""


def test_saved_on_one_device_restored_on_eight_and_back(tmp_path):
    state = {**weights(7), "half": jnp.arange(24, dtype=jnp.bfloat16).reshape(8, 3), "none": jnp.zeros((0, 8))}
    state["rng"] = jax.random.key(4)
    with Checkpoints(tmp_path / "one") as checkpoints:
        checkpoints.save(7, state, {}, wait=True)
    assert child(ON_EIGHT, tmp_path / "one", tmp_path / "eight", devices=8).communicate()[0] == "ok\n"
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with Checkpoints(tmp_path / "eight", writable=False) as checkpoints:
        got, manifest = checkpoints.restore(target)
    assert manifest["mesh"] == {"data": 4, "fsdp": 2}
    assert manifest["digest"] == folders.read_manifest(tmp_path / "one" / "7")["digest"]
    assert damage(tmp_path / "eight" / "7") == []
    for name in state.keys() - {"rng"}:
        assert np.asarray(got[name]).tobytes() == np.asarray(state[name]).tobytes()
    assert jnp.array_equal(jax.random.key_data(got["rng"]), jax.random.key_data(state["rng"]))
