"""Searches: a kill at any moment loses no trial and counts none twice; what was drawn depends on what ended alone."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmjax import search, search_report, sweep, sweep_results
from fmjax import study as studies
from fmjax.core.errors import ConfigError, DataError, UserError
from fmjax.search_runner import Searcher
from fmjax.search_store import STATES, Store, trial_name
from fmjax.space import Search, choice, log, uniform
from fmjax.study import Study

ROOT = Path(__file__).resolve().parents[1]
TINY = "tests/tiny_study.py"
SPACE = {"optimizer.rate": log(1e-4, 1.0), "optimizer.momentum": choice(0.0, 0.5)}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def study(**more):
    given = {"config": TINY, "metric": "validation/loss", "seeds": (0,), "space": SPACE, "search": Search(startup=3)}
    return Study(**{**given, **more})


class Killed(BaseException):
    """In place of a kill: nothing catches it."""


class Quick(Searcher):
    """A search whose runs compute their number instead of training for it."""

    kill = None  # "running", "written" or "told": where the process dies in trial 4

    def trial(self, index):
        line = self.line(index, "finished", {"validation/loss": self.number(self.trials[index])})
        self.dies("running", index)
        return line

    def number(self, trial):
        return abs(trial.overrides["optimizer.rate"] - 0.1) + 0.01 * trial.seed

    def take(self, index, line):
        code = super().take(index, line)
        self.dies("told", index)
        return code

    def _settle(self, number):
        if sweep_results.read(self.results).get((trial_name(number), self.study.seeds[-1])):
            self.dies("written", number)
        return super()._settle(number)

    def dies(self, where, index):
        if self.kill == where and index == 4:
            raise Killed


def quick(folder, most, kind=Quick, of=None, kill=None, **more):
    plan = kind(of or study(), TINY, folder, **more)
    plan.kill = kill
    return plan.search(most)


def lines(folder):
    return [json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines()]


def stored(folder, of=None):
    of = of or study()
    store = Store(folder, of.space, of.search, of.minimizes)
    try:
        return [(t.state.name, t.value, t.params) for t in store.trials()]
    finally:
        store.close()


def agree(folder, most, of=None):
    """The results hold every trial of the store once, with the same end and the same draws."""
    kept, there = lines(folder), stored(folder, of)
    assert sorted(line["change"] for line in kept) == [trial_name(i) for i in range(most)]
    for line in kept:
        state, value, drawn = there[int(line["change"].removeprefix("trial_"))]
        assert state == STATES[line["status"]]
        assert line["status"] != "finished" or value == line["numbers"]["validation/loss"]
        assert {key: str(v) for key, v in drawn.items()} == {key: line["overrides"][key] for key in drawn}
    return there


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A search of seven trials in one go: its folder."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert quick(folder, 7) == 0
    return folder


# ---- going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", ["running", "written", "told"])
def test_a_search_that_was_killed_ends_as_one_that_was_not(straight, tmp_path, kill):
    with pytest.raises(Killed):
        quick(tmp_path, 7, kill=kill)
    assert quick(tmp_path, 7) == 0
    assert agree(tmp_path, 7) == agree(straight, 7)


def test_a_trial_that_was_half_drawn_is_drawn_to_its_end(tmp_path, monkeypatch):
    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(SPACE["optimizer.momentum"]), "draw", die)
        with pytest.raises(Killed):
            quick(tmp_path, 2)
    ((state, _, drawn),) = stored(tmp_path)
    assert (state, list(drawn)) == ("RUNNING", ["optimizer.rate"])
    assert quick(tmp_path, 2) == 0
    assert agree(tmp_path, 2)[0][2]["optimizer.rate"] == drawn["optimizer.rate"]


def test_the_same_command_again_runs_nothing_and_more_trials_go_further(straight, tmp_path, capsys):
    assert quick(tmp_path, 4) == 0
    before = lines(tmp_path)
    assert quick(tmp_path, 4) == 0
    assert "4 trials, 4 ended before" in capsys.readouterr().out
    assert lines(tmp_path) == before
    assert quick(tmp_path, 7) == 0
    assert agree(tmp_path, 7) == agree(straight, 7)


def test_another_seed_of_the_sampler_draws_otherwise(straight, tmp_path):
    quick(tmp_path, 1, of=study(search=Search(startup=3, seed=1)))
    assert stored(tmp_path)[0][2] != stored(straight)[0][2]


def test_what_ran_is_an_ordinary_line_of_results(straight):
    line = lines(straight)[0]
    assert (line["change"], line["seed"], line["status"]) == ("trial_0000", 0, "finished")
    assert set(line["overrides"]) == {"optimizer.rate", "optimizer.momentum", "seed"}
    assert line["code"]["source"]


def test_processes_that_share_a_search_take_different_trials_and_inherit_those_of_the_dead(tmp_path):
    def never(trial):
        return False

    one, two = (Store(tmp_path, SPACE, Search(), True) for _ in range(2))
    assert (one.claim(3, never), two.claim(3, never)) == (0, 1)
    assert two.claim(2, never) is None  # the other trial is being run
    one.close()
    assert two.claim(2, never) == 0
    two.close()


@pytest.mark.parametrize("prune", ["median", "hyperband"])
def test_pruning_ends_trials_by_their_evaluations_and_never_the_best(tmp_path, prune):
    store, over = Store(tmp_path, SPACE, Search(prune=prune, startup=2), True), {}
    for number, level in enumerate((3.0, 4.0, 9.0, 1.0, 8.0, 7.0)):
        assert store.claim(6, lambda trial: trial.state.is_finished()) == number
        judge = store.judge(number, "validation/loss")
        for count in range(1, 5):
            judge.see(50 * count, {"other/loss": 0.0})  # of another evaluator: nothing to judge by
            judge.see(50 * count, {"validation/loss": level / count})
            if judge.over:
                break
        over[level] = judge.over
        store.tell(number, "pruned" if judge.over else "finished", level / 4)
        assert store.judge(number, "validation/loss").over == judge.over  # and of a trial that ended, for ever
    store.close()
    assert not over[1.0]
    assert over[9.0] or over[8.0] or over[7.0]


def test_the_value_of_a_trial_is_the_mean_over_its_seeds(tmp_path):
    several = study(seeds=(0, 1, 2))
    assert quick(tmp_path, 2, of=several) == 0
    own = [line["numbers"]["validation/loss"] for line in lines(tmp_path) if line["change"] == "trial_0001"]
    assert len(own) == 3
    assert stored(tmp_path, several)[1][1] == pytest.approx(sum(own) / 3, abs=1e-15)


class Sick(Quick):
    """A search whose even trials fail."""

    def number(self, trial):
        return float("nan") if int(trial.change[-1]) % 2 == 0 else super().number(trial)


def test_a_trial_that_failed_stays_in_sight_and_its_other_seeds_are_not_run(tmp_path, capsys):
    several = study(seeds=(0, 1))
    assert quick(tmp_path, 1, Sick, of=several) == 1
    assert "no trial finished" in capsys.readouterr().out
    assert quick(tmp_path, 3, Sick, of=several) == 0
    assert "1 finished, 2 failed" in (said := capsys.readouterr().out)
    assert "trial_0002 failed: validation/loss is nan" in said
    assert [(r["change"], r["seed"], r["status"]) for r in lines(tmp_path)] == [
        ("trial_0000", 0, "failed"), ("trial_0001", 0, "finished"), ("trial_0001", 1, "finished"),
        ("trial_0002", 0, "failed"),
    ]  # fmt: skip
    assert [state for state, _, _ in stored(tmp_path)] == ["FAIL", "COMPLETE", "FAIL"]


# ---- results and store ----------------------------------------------------------------------------------


def test_a_line_that_was_lost_is_written_again_and_one_that_was_changed_is_refused(straight, tmp_path):
    results = tmp_path / "results.jsonl"
    kept = lines(straight)
    results.write_text("".join(json.dumps(line) + "\n" for line in kept[1:]))
    assert quick(straight, 7, results=results) == 0
    assert sweep_results.read(results)["trial_0000", 0]["numbers"] == kept[0]["numbers"]
    store = Store(straight, SPACE, Search(startup=3), True)
    with pytest.raises(DataError, match=r"trial_0000 finished with 9\.0 by the results and ended COMPLETE with"):
        store.tell(0, "finished", 9.0)
    store.close()


def test_results_that_the_store_does_not_know_are_refused(straight, tmp_path):
    with pytest.raises(ConfigError, match=r"has trial_0000, which .*search\.db does not know"):
        quick(tmp_path, 1, results=straight / "results.jsonl")


def test_a_file_that_is_no_store_is_one_line(tmp_path):
    (tmp_path / "search.db").write_text("no database, but long enough to be taken for one" * 9)
    with pytest.raises(DataError, match=r"search\.db is no store of a search: DatabaseError"):
        quick(tmp_path, 1)


@pytest.mark.parametrize(("other", "said"), [
    ({"space": {**SPACE, "optimizer.rate": log(1e-4, 2.0)}}, r"space of optimizer.rate = log\(0.0001, 1.0\), and now "),
    ({"space": {**SPACE, "clip": uniform(1, 2)}}, "space of clip = nothing, and now it is uniform"),
    ({"search": Search(startup=3, seed=1)}, "seed = 0, and now it is 1"),
    ({"mode": "max"}, "goal = less validation/loss, and now it is more validation/loss"),
    ({"overrides": {"steps": 3}}, "config = "),
])  # fmt: skip
def test_another_search_in_the_same_folder_is_refused(straight, other, said):
    before = lines(straight)
    with pytest.raises(ConfigError, match=f"was begun with {said}"):
        quick(straight, 8, of=study(**other))
    assert lines(straight) == before


@pytest.mark.parametrize(("other", "said"), [
    ({"space": {"optimizer.rat": log(1, 2)}}, "did you mean 'rate'"),
    ({"space": {"steps": uniform(1, 2)}}, "override refused"),
    ({"metric": "test/loss"}, "no evaluator gives 'test/loss'"),
    ({"search": Search(prune="median")}, "set --config.evals.validation.every"),
    ({"space": {}}, "has no space to search: python -m fmjax.sweep"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_a_folder_is_made(tmp_path, other, said):
    with pytest.raises(ConfigError, match=said):
        quick(tmp_path / "none", 1, of=study(**other))
    assert not (tmp_path / "none").exists()


def test_a_number_that_no_run_gives_is_named(tmp_path):
    with pytest.raises(ConfigError, match="give no 'validation/los'; did you mean 'validation/loss'"):
        quick(tmp_path, 1, of=study(metric="validation/los", mode="min"))


def test_the_commands_name_each_other_and_the_extra(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"has a space to search: python -m fmjax\.search"):
        sweep.main([f"--study={TINY}:search", f"--workdir={tmp_path}"])
    with pytest.raises(ConfigError, match="--trials=0: give 1 or more"):
        search.main([f"--study={TINY}:search", f"--workdir={tmp_path}", "--trials=0"])
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"optuna is needed here .*pip install 'fmjax\[search\]'"):
        quick(tmp_path, 1)


# ---- the report ---------------------------------------------------------------------------------------


class Once(Quick):
    """A search whose first trial fails."""

    def number(self, trial):
        return float("nan") if trial.change == "trial_0000" else super().number(trial)


def test_the_report_lists_every_trial_the_best_first_and_what_mattered(tmp_path):
    assert quick(tmp_path, 11, Once) == 0
    text = search_report.write(study(), tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    values = [float(row["value"]) for row in rows[:10]]
    assert values == sorted(values)
    assert [row["ended"] for row in rows] == ["finished"] * 10 + ["failed"]
    assert f"Best: {rows[0]['trial']} with {values[0]:.5g}" in text
    assert f"--config.optimizer.rate={rows[0]['optimizer.rate']} " in text
    assert "- trial_0000 failed: validation/loss is nan" in text
    assert text == (tmp_path / "table.md").read_text()
    mattered = search_report.importances(study(), tmp_path)
    assert list(mattered) == ["optimizer.rate", "optimizer.momentum"]
    assert f"| optimizer.rate | {mattered['optimizer.rate']:.2f} |" in text


def test_a_report_of_nothing_or_of_another_study_is_one_line(straight, tmp_path):
    with pytest.raises(DataError, match="has no trial of this search"):
        search_report.write(study(), tmp_path)
    with pytest.raises(ConfigError, match="trial_0000 did not draw 'clip'"):
        search_report.write(study(space={"clip": uniform(1, 2)}), straight)


# ---- with training --------------------------------------------------------------------------------------


def test_a_trial_that_is_pruned_is_recorded_so_and_its_folder_is_kept(tmp_path, capsys):
    args = [f"--study={TINY}:pruned", f"--workdir={tmp_path}"]
    assert search.main([*args, "--trials=4"]) == 0
    pruned = studies.read(f"{TINY}:pruned")
    assert "3 finished, 1 pruned" in capsys.readouterr().out
    agree(tmp_path, 4, pruned)
    assert [line["status"] for line in lines(tmp_path)] == ["finished"] * 3 + ["pruned"]
    run = tmp_path / "trial_0003" / "seed_0"
    assert (run / "state").read_text() == "pruned\n"
    events = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    (end,) = [record["step"] for record in events if record.get("event") == "pruned"]
    assert end < 4
    before = lines(tmp_path)
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in before[:3]))
    assert search.main([*args, "--trials=4"]) == 0  # the lost line is made of the folder that was kept
    again = lines(tmp_path)[3]
    assert (again["status"], again["numbers"]) == ("pruned", before[3]["numbers"])


def test_the_example_is_a_search_that_can_begin(tmp_path):
    spec = "experiments/search_example/study.py:smoke"
    plan = Searcher(studies.read(spec), spec, tmp_path)  # every end of every range makes a config
    assert plan.study.search.prune == "median"


@pytest.mark.nightly
def test_the_example_runs(tmp_path):
    args = ["--study=experiments/search_example/study.py:smoke", f"--workdir={tmp_path}"]
    assert search.main([*args, "--trials=3"]) == 0
    assert search.main([*args, "--report"]) == 0
    assert "test/accuracy" in (tmp_path / "table.md").read_text()


@pytest.mark.nightly
def test_searches_killed_at_random_moments_end_with_every_trial_once(tmp_path):
    command = [sys.executable, "-m", "fmjax.search", f"--study={TINY}:pruned", f"--workdir={tmp_path}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}

    def written():
        return sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl"))

    for kill in range(5):
        more = ["--trials=8", "--processes=2"] if kill % 2 else ["--trials=8"]
        before = written()
        process = subprocess.Popen([*command, *more], env=environment, start_new_session=True)
        while process.poll() is None and written() <= before:
            time.sleep(0.05)
        time.sleep(random.Random(kill).uniform(0, 1.5))
        assert process.poll() is None, "it ended before it was killed: give it more trials"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(5):  # a worker that outlived its parent keeps its trial until it is through
        done = subprocess.run([*command, "--trials=8"], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        if "running" not in done.stdout:
            break
        time.sleep(5)
    agree(tmp_path, 8, studies.read(f"{TINY}:pruned"))
