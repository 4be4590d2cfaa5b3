"""Two processes that share one folder of checkpoints: real collectives on this CPU."""

import os
import socket
import subprocess
import sys

import pytest

from fmjax.training import checkpoint_folder as folders
from fmjax.training.checkpoint_verify import damage

CODE = """
import sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from jax.sharding import NamedSharding, PartitionSpec as P
from fmjax.core.errors import CheckpointError
from fmjax.training.checkpoint import Checkpoints, Policy
folder, port, rank, passed_over = Path(sys.argv[1]), *map(int, sys.argv[2:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, rank)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
over = {"w": NamedSharding(mesh, P("data")), "n": NamedSharding(mesh, P()), "rng": NamedSharding(mesh, P())}
begin = jax.jit(
    lambda: {"w": jnp.zeros((64, 32)) + jnp.arange(32), "n": jnp.zeros((), jnp.int32), "rng": jax.random.key(3)},
    out_shardings=over,
)
step = jax.jit(lambda s: {**s, "w": s["w"] + 1, "n": s["n"] + 1}, donate_argnums=0)
state = begin()
target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
with Checkpoints(folder, Policy(keep=2, best="v")) as checkpoints:
    if (start := checkpoints.latest() or 0):
        state, manifest = checkpoints.restore(target)
        assert len(manifest["warnings"]) == passed_over, manifest["warnings"]
        start = manifest["step"]
        assert int(state["n"]) == start
        assert (np.asarray(state["w"].addressable_shards[0].data) == start + np.arange(32)).all()
    name = checkpoints.save_frozen({"w": begin()["w"]})
    checkpoints.restore_frozen({"w": target["w"]}, name)
    for k in range(start + 1, start + 4):
        state = step(state)
        checkpoints.save(k, state, {})
        assert checkpoints.mark_best(k, 1.0 / k) == (k == 1)
        assert checkpoints.has(k)
    checkpoints.wait()
    assert checkpoints.restore(target)[1]["step"] == k and checkpoints.best() == 1
"""


def both(folder, passed_over: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", CODE, str(folder), str(port)]
    started = [
        subprocess.Popen([*command, str(rank), str(passed_over)], env=env, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)


@pytest.mark.slow
def test_two_processes_save_resume_and_agree_on_what_is_damaged(tmp_path):
    both(tmp_path, 0)
    assert folders.steps(tmp_path) == [1, 2, 3]
    assert [damage(tmp_path / str(k)) for k in (1, 2, 3)] == [[], [], []]
    for path in (tmp_path / "3" / "arrays").rglob("d/*"):
        path.write_bytes(bytes(path.stat().st_size))
    both(tmp_path, 1)
    assert folders.steps(tmp_path) == [1, 4, 5]
    assert damage(tmp_path / "5") == []
