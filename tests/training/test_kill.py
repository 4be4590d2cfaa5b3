"""A process killed at any moment loses time and nothing else; one that is asked to stop saves first."""

import importlib.util
import json
import random
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("kill", ROOT / "benchmarks" / "kill.py")
kill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(what the run left alone gives, seconds it trains)."""
    workdir = tmp_path_factory.mktemp("alone")
    seconds = kill.straight(workdir)
    return kill.result(workdir), seconds


def test_the_run_left_alone_has_every_step(alone):
    (step, digest, course, numbers), _ = alone
    assert step == 60
    assert [s for s, *_ in course] == list(range(1, 61))
    assert len(digest) >= 16
    assert "validation/bits_per_byte" in numbers


@pytest.mark.parametrize("i", [0, *(pytest.param(i, marks=pytest.mark.nightly) for i in (1, 2, 3))])
def test_killed_at_a_random_moment_it_ends_in_the_same_bits(alone, tmp_path, i):
    wanted, seconds = alone
    workdir, code, _ = kill.trial(tmp_path, "killed", signal.SIGKILL, seconds, random.Random(time.time_ns()))
    assert code == -signal.SIGKILL
    assert kill.result(workdir) == wanted
    assert (workdir / "state").read_text() == "finished\n"


def test_asked_to_stop_it_saves_says_so_and_ends_in_the_same_bits(alone, tmp_path):
    wanted, seconds = alone
    for attempt in range(10):
        workdir = tmp_path / str(attempt)
        done = kill.interrupt(workdir, signal.SIGTERM, random.uniform(0, seconds / 2))
        if done is not None:
            break
    code, _ = done
    assert code == 0
    assert (workdir / "state").read_text() == "interrupted\n"
    last = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last["event"], last["signal"]) == ("interrupted", "SIGTERM")
    assert (workdir / "checkpoints" / str(last["step"]) / "manifest.json").is_file()
    kill.finish(kill.start(workdir))
    assert kill.result(workdir) == wanted


def test_asked_to_stop_before_step_0_there_is_nothing_to_save(tmp_path):
    run = kill.start(tmp_path)
    while not (tmp_path / "config.json").exists():
        assert run.poll() is None
        time.sleep(0.005)
    run.terminate()
    run.communicate()
    assert run.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)  # a shell says 143 for both
    assert not kill.trains(tmp_path)
