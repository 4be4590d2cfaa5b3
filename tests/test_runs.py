"""Runs: a run is known, compared and resumed from its folder alone, whatever state it was left in."""

import json
import math
import os
import subprocess
import sys
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import CONFIG, write_run

from fmjax import runs
from fmjax.core.errors import CheckpointError, DataError
from fmjax.runfolder import SavedRun, best, find, labels, lower_is_better, watched
from fmjax.training.writers import JsonLines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    write_run(folder / "area" / "a", steps=100)
    write_run(folder / "area" / "b", steps=100, state="running", config={"seed": 3, "extra": "x" * 99})
    write_run(folder / "c", steps=40, state="interrupted", every=100)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "config.json").write_text("{}")
    (folder / ".hidden").mkdir()
    return folder


def beat(run, seconds_ago):
    (run / "heartbeat").write_text(f"{time.time() - seconds_ago}\n")


def test_every_run_below_a_folder_is_listed_with_where_it_stands(folder):
    header, *rows = runs.listing(folder)
    assert header == ["run", "state", "step", "loss", "best eval", "age", "config"]
    assert [row[0] for row in rows] == ["area/a", "area/b", "c"]
    a, b, c = rows
    assert a[1:3] == ["finished", "100/100"]
    assert a[4].startswith("val/accuracy 0.")
    assert a[6] == "configs/vision/convnet_digits.py"
    assert b[1].startswith("lost (no heartbeat for ")
    assert c[1:3] == ["interrupted", "40/40"]
    assert c[4] == "-"
    last = SavedRun(folder / "c").kind("train")[-1]
    assert c[3] == f"{last['loss']:.4f}"
    assert runs.listing(folder / "c")[1][0] == "."


def test_a_run_is_lost_when_its_heart_has_not_beaten_for_a_minute(tmp_path):
    run = write_run(tmp_path / "run", steps=3, state="running")
    beat(run, 5)
    assert SavedRun(run).status() == "running"
    beat(run, 90)
    assert SavedRun(run).status() == "lost (no heartbeat for 1:30)"
    (run / "state").write_text("finished\n")
    assert SavedRun(run).status() == "finished"
    (run / "state").write_text("running")
    beat(run, -1000)  # the clock of another machine
    assert SavedRun(run).status() == "running"
    (run / "heartbeat").write_text("")  # being rewritten
    assert SavedRun(run).status() == "running"
    (run / "heartbeat").unlink()
    os.utime(run / "state", (0, 0))
    assert SavedRun(run).status().startswith("lost")


def test_damaged_and_missing_files_are_problems_and_no_crash(tmp_path):
    run = write_run(tmp_path / "run", steps=10, every=5)
    (run / "config.json").write_text("[1, 2]")
    (run / "environment.json").unlink()
    (run / "state").write_bytes(b"\xff\xfe")
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"5\n{}\n" + b'{"kind": "train", "step": "x"}\n' + b'{"kind": "eval", "st')
    _, row = runs.listing(tmp_path)
    assert row[1:3] == ["unknown", "10/?"]
    assert row[6] == "(missing)"
    opened = SavedRun(run)
    assert len(opened.kind("train")) == 10
    assert opened.environment == {}
    assert opened.config == {}
    assert opened.problems == [
        "metrics.jsonl: 2 damaged lines left out (line 17, 19)",
        "environment.json is missing",
        "config.json is damaged: it holds no object",
    ]


def test_a_glance_sees_what_reading_every_record_sees(folder):
    for run in find(folder):
        train, evals = run.glance()
        assert train == run.kind("train")[-1]
        assert evals == run.kind("eval")


def test_the_way_to_the_first_step_is_work_and_the_pause_before_a_resume_is_not(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for now, kind, step in ((0, "start", 0), (10, "train", 1), (5000, "start", 1), (5003, "train", 2)):
        first = {"first_step_seconds": 2.0} if kind == "start" else {}
        lines.write({"kind": kind, "step": step, "time": 1e9 + now, **first})
    lines.close()
    assert SavedRun(tmp_path).wall_seconds() == 10 + 3 + 2 * 2.0


def test_comparing_shows_what_differs_and_only_that(folder):
    opened = [SavedRun(folder / "area" / "a"), SavedRun(folder / "area" / "b"), SavedRun(folder / "c")]
    configs, finals = runs.comparison(opened)
    assert configs[0] == ["config", "a", "b", "c"]
    rows = {row[0]: row[1:] for row in configs[1:]}
    assert rows.keys() == {"config.seed", "config.extra", "config.steps"}
    assert rows["config.seed"] == ["0", "3", "0"]
    assert rows["config.steps"] == ["100", "100", "40"]
    assert rows["config.extra"][0] == rows["config.extra"][2] == "(absent)"
    assert len(rows["config.extra"][1]) <= runs.WIDEST
    finals = {row[0]: row[1:] for row in finals[1:]}
    assert finals["step"] == ["100/100", "100/100", "40/40"]
    assert "val/accuracy_se" not in finals
    assert finals["val/accuracy"][2] == "-"
    assert f"{opened[0].kind('eval')[-1]['val/loss']:.4f}" in finals["val/loss"][0]
    configs, _ = runs.comparison(opened[:1] * 2)
    assert len(configs) == 1


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert labels([SavedRun(p) for p in paths]) == ["x/run", "y/run"]
    assert labels([SavedRun(p) for p in paths[:1]]) == ["run"]
    assert labels([SavedRun(paths[0]), SavedRun(paths[0])]) == ["run", "run"]


values = st.lists(st.floats(), min_size=1, max_size=20)


@given(values)
def test_the_best_is_the_first_finite_extreme(found):
    steps = list(range(len(found)))
    finite = [v for v in found if math.isfinite(v)]
    for choose in (min, max):
        top = best(steps, found, lower=choose is min)
        assert top == ((found.index(choose(finite)), choose(finite)) if finite else None)


def test_the_number_that_stands_for_a_run_is_the_one_it_watches(tmp_path):
    run = SavedRun(write_run(tmp_path / "run", steps=2))
    names = ["train/accuracy", "test/accuracy", "val/accuracy", "val/accuracy_se", "val/loss"]
    assert watched(run, names) == "val/accuracy"  # config.early_stop.metric
    run.config["early_stop"]["metric"] = "val/loss"
    assert watched(run, names) == "val/loss"
    del run.config["early_stop"]
    assert watched(run, names) == "val/accuracy"
    assert watched(run, ["t/odd", "t/loss"]) == "t/loss"
    assert watched(run, []) is None


def test_which_way_is_better_is_in_the_config_or_else_in_the_name(tmp_path):
    run = SavedRun(write_run(tmp_path / "run", steps=2))
    assert [lower_is_better(n, run) for n in ("v/loss", "v/bits_per_byte", "v/accuracy", "v/f1_macro")] == [1, 1, 0, 0]
    run.config["checkpoint"] = {"best": "v/f1_macro", "mode": "min"}
    assert lower_is_better("v/f1_macro", run)
    assert not lower_is_better("v/f1_macro")


def test_resuming_runs_the_train_command_on_the_folder(tmp_path, monkeypatch):
    import fmjax

    seen = []
    train = types.SimpleNamespace(main=lambda argv: seen.append(argv) or 0)
    monkeypatch.setitem(sys.modules, "fmjax.train", train)
    monkeypatch.setattr(fmjax, "train", train, raising=False)
    run = write_run(tmp_path / "run", steps=3, state="interrupted")
    assert runs.main(["resume", str(run), "--config.steps=9"]) == 0
    assert seen == [[f"--workdir={run}", "--config.steps=9"]]
    (run / "state").write_text("running")
    beat(run, 2)  # killed just now
    assert runs.main(["resume", str(run)]) == 0
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        runs.main(["resume", str(run)])
    assert len(seen) == 2


def test_the_commands_print_tables_that_line_up(folder, capsys):
    assert runs.main(["list", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    at = lines[0].index("step")
    assert all(line[at - 1] == " " and line[at] != " " for line in lines)
    assert runs.main(["compare", str(folder / "area" / "a"), str(folder / "c")]) == 0
    assert "config.steps  100  40" in capsys.readouterr().out
    assert runs.main(["list", str(folder / "nothing")]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_names_cannot_move_the_cursor():
    assert "\x1b" not in runs.align([["a"], ["\x1b[2Jx\n"]])


def test_what_is_not_there_is_one_line(tmp_path):
    for argv in (["list", str(tmp_path / "no")], ["compare", str(tmp_path), str(tmp_path)], ["resume", str(tmp_path)]):
        with pytest.raises(DataError, match="no"):
            runs.main(argv)
    with pytest.raises(SystemExit):
        runs.main(["list", str(tmp_path), "--typo"])
    with pytest.raises(SystemExit):
        runs.main(["compare", str(tmp_path)])


def test_listing_a_long_run_is_quick_and_needs_no_jax(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "config": CONFIG}))
    (tmp_path / "state").write_text("finished")
    line = '{"kind": "train", "step": %d, "time": 1e9, "loss": 0.5, "grad_norm": 1.0, "rate": 0.1}\n'
    (tmp_path / "metrics.jsonl").write_text("".join(line % i for i in range(100_000)))
    code = (
        "import sys; from fmjax.runs import main; main(['list', sys.argv[1]])\n"
        "sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'tensorboardX')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert "99999/1000" in done.stdout
