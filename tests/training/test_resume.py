"""run(0..2N) == run(0..N) + resume(N..2N), bit for bit, wherever it stopped."""

import os
import signal

import pytest
from stand_ins import Crash, course, crash, events, records, same, tiny, tiny_language

from fmjax.core.errors import CheckpointError
from fmjax.run import Run, fit


def terminate(at):
    def hook(step, state, metrics):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return fit(tiny(), folder)


def same_run(a, b):
    """Assert that two runs ended in the same state, on the same course, with the same evaluations."""
    assert (a.step, a.word) == (b.step, b.word)
    same(a.state, b.state)
    assert course(a.folder) == course(b.folder)
    strip = lambda r: {k: v for k, v in r.items() if k != "time"}  # noqa: E731
    assert list(map(strip, records(a.folder, "eval"))) == list(map(strip, records(b.folder, "eval")))
    assert a.numbers == b.numbers


def test_every_step_has_one_record_and_every_evaluation_its_own(straight):
    assert [r["step"] for r in records(straight.folder, "train")] == list(range(1, 13))
    assert [r["step"] for r in records(straight.folder, "eval")] == [4, 8, 12]
    assert straight.word == "finished"
    assert len({r["batch"] for r in records(straight.folder, "train")}) == 12


@pytest.mark.parametrize("at", [3, 8, 9, 12], ids=["before any save", "at a save", "during a save", "at the end"])
def test_a_crash_loses_nothing_but_time(straight, tmp_path, at):
    with pytest.raises(Crash):
        fit(tiny(), tmp_path, hooks=[crash(at)])
    assert (tmp_path / "state").read_text() == "failed\n"
    again = fit(tiny(), tmp_path)
    same_run(again, straight)
    assert ("resumed" in events(tmp_path)) == (at > 4)


@pytest.mark.parametrize("at", [2, 6, 12])
def test_a_signal_saves_marks_and_the_run_goes_on(straight, tmp_path, at):
    half = fit(tiny(), tmp_path, hooks=[terminate(at)])
    assert (half.word, half.step) == ("interrupted", min(at + 1, 12))  # the step after the signal is the last one
    assert (tmp_path / "state").read_text() == "interrupted\n"
    assert events(tmp_path)[-1] == "interrupted"
    same_run(fit(tiny(), tmp_path), straight)


def test_many_interruptions_leave_one_record_a_step(straight, tmp_path):
    for at in (2, 5, 6, 11):
        fit(tiny(), tmp_path, hooks=[terminate(at)])
    same_run(fit(tiny(), tmp_path), straight)


def test_packed_rows_and_a_decoder_resume_exactly(tmp_path):
    whole = fit(tiny_language(), tmp_path / "a")
    with pytest.raises(Crash):
        fit(tiny_language(), tmp_path / "b", hooks=[crash(6)])
    same_run(fit(tiny_language(), tmp_path / "b"), whole)


def test_threads_change_nothing_and_may_change_on_resume(straight, tmp_path):
    with pytest.raises(Crash):
        fit(tiny(), tmp_path, ["--config.data.threads=2"], hooks=[crash(9)])
    same_run(fit(tiny(), tmp_path, ["--config.data.threads=3"]), straight)


@pytest.mark.slow
def test_worker_processes_change_nothing(straight, tmp_path):
    with pytest.raises(Crash):
        fit(tiny(), tmp_path, ["--config.data.workers=2"], hooks=[crash(9)])
    same_run(fit(tiny(), tmp_path, ["--config.data.workers=2"]), straight)


def test_a_finished_run_is_left_as_it_is(straight, tmp_path):
    done = fit(tiny(), tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("heartbeat", "lock")}
    again = fit(tiny(), tmp_path)
    same_run(again, done)
    assert again.numbers == straight.numbers
    changed = {p.name for p, data in before.items() if p.read_bytes() != data}
    assert changed <= {"metrics.jsonl"}  # which gained events, no numbers


def test_a_folder_of_another_config_is_refused_and_left_alone(straight):
    before = {p: p.read_bytes() for p in straight.folder.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"another config \(clip was 1.0, is 2.0; ema was 0.9, is 0.5\)"):
        fit(tiny(), straight.folder, ["--config.clip=2", "--config.ema=0.5"])
    assert {p: p.read_bytes() for p in straight.folder.rglob("*") if p.is_file()} == before


def test_changed_data_is_refused_and_a_finished_run_stays_finished(tmp_path, monkeypatch):
    fit(tiny(4), tmp_path)
    monkeypatch.setattr("stand_ins.Rows.fingerprint", "other")
    with pytest.raises(CheckpointError, match="the training data changed"):
        fit(tiny(4), tmp_path)
    assert (tmp_path / "state").read_text() == "finished\n"


def test_a_run_loads_from_its_folder_alone(straight):
    run = Run.load(straight.folder)
    same(run.state, straight.state)
    assert run.evaluate() == pytest.approx(straight.numbers)
    batch = run.parts.data.batch(0)
    assert run.predict(batch)["logits"].shape == (8, 3)
    same(run.predict(batch), straight.predict(batch))


def test_the_same_seed_gives_the_same_run_and_another_does_not(straight):
    here = fit(tiny())
    same(here.state, straight.state)
    assert here.folder is None
    other = fit(tiny(), overrides=["--config.seed=4"])
    assert other.numbers != here.numbers


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tiny(4))
    assert list(tmp_path.iterdir()) == []
