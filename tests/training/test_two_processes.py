"""Two processes that train together give what one gives."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stand_ins import records, tiny

from fmjax.run import fit
from fmjax.training.program import batch_digest

SCRIPT = Path(__file__).parent / "two_processes.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ONE = ["--config.accumulation.steps=1"]


def together(workdir, steps, *overrides, terminate=None):
    """What each of two processes said at its end; `terminate` one of them after the first step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    runs = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(port), str(i), str(workdir), str(steps), *overrides],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        while terminate is not None and runs[terminate].poll() is None:
            if records(Path(workdir), "start"):
                runs[terminate].terminate()
                terminate = None
            time.sleep(0.05)
        said = [run.communicate(timeout=500) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, (_, err) in zip(runs, said):
        assert run.returncode == 0, err[-4000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.nightly
def test_two_processes_learn_what_one_learns_and_either_goes_on_for_the_other(tmp_path):
    whole = fit(tiny(8), tmp_path / "one", ONE)
    a, b = together(tmp_path / "two", 8)
    assert (a["devices"], a["step"], a["word"]) == (2, 8, "finished")
    assert a == b
    np.testing.assert_allclose(a["up"], whole.state.params["model"]["up"]["kernel"], rtol=1e-4, atol=1e-5)
    assert a["numbers"] == pytest.approx(whole.numbers, rel=1e-4)
    there, here = records(tmp_path / "one", "train"), records(tmp_path / "two", "train")
    assert [r["step"] for r in here] == list(range(1, 9))
    assert [r["loss"] for r in here] == pytest.approx([r["loss"] for r in there], rel=1e-4)
    data = whole.parts.data  # the record is of the rows that process 0 read
    assert [r["batch"] for r in here] == [batch_digest(data.batch(k, seed=3, rows=slice(0, 4))) for k in range(8)]


class Stop(Exception):
    pass


def stop(step, state, metrics):
    if step == 6:
        raise Stop


def test_a_run_of_one_process_goes_on_with_two(tmp_path):
    whole = fit(tiny(8), tmp_path / "one", ONE)
    with pytest.raises(Stop):
        fit(tiny(8), tmp_path / "half", ONE, hooks=[stop])
    a, b = together(tmp_path / "half", 8, "--config.mesh.fsdp=2", "--config.sharding=fsdp")
    assert a == b
    np.testing.assert_allclose(a["up"], whole.state.params["model"]["up"]["kernel"], rtol=1e-4, atol=1e-5)
    seen = [r["step"] for r in records(tmp_path / "half", "train")]
    assert seen == list(range(1, 9))


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    a, b = together(tmp_path, 3000, "--config.evals.validation.every=0", "--config.checkpoint.every=1000", terminate=1)
    assert a == b
    assert (a["word"], (tmp_path / "state").read_text()) == ("interrupted", "interrupted\n")
    assert (tmp_path / "checkpoints" / str(a["step"]) / "manifest.json").is_file()
