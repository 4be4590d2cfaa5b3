"""Sweeps: every run ends in a line, what failed stays in sight, nothing is run twice, and nothing is mixed."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax import study_report, sweep, sweep_results
from fmjax.core.errors import CheckpointError, ConfigError, DataError
from fmjax.evals.intervals import holm, paired_t
from fmjax.study import Study
from fmjax.training.checkpoint_lock import Lock

ROOT = Path(__file__).resolve().parents[1]
SICK = "--study=tests/tiny_study.py:sick"
CODE = {"git": "abc", "source": "one", "packages": {"jax": "0"}}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep with a change whose runs fail: its folder and exit code."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder, sweep.main([SICK, f"--workdir={folder}"])


def lines(folder):
    return [json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines()]


# ---- running ------------------------------------------------------------------------------------------


def test_every_run_ends_in_a_line_and_one_that_failed_says_why(swept):
    folder, code = swept
    assert code == 1
    assert [(r["change"], r["seed"], r["status"]) for r in lines(folder)] == [
        ("base", 0, "finished"), ("rate=0.2", 0, "finished"), ("sick", 0, "failed"),
        ("base", 1, "finished"), ("rate=0.2", 1, "finished"), ("sick", 1, "failed"),
    ]  # fmt: skip
    well, _, sick = lines(folder)[:3]
    assert "not finite at step" in sick["error"]
    assert math.isfinite(well["numbers"]["validation/loss"])
    assert well["overrides"] == {"seed": "0"}
    assert well["code"]["source"]


def test_one_seed_gives_every_change_the_same_batches(swept):
    by_seed = {(r["change"], r["seed"]): r["batches"] for r in lines(swept[0])}
    assert by_seed["base", 0] == by_seed["rate=0.2", 0] != by_seed["base", 1]


def test_the_same_command_again_runs_nothing_and_still_tells_of_failures(swept, capsys):
    folder, _ = swept
    before = lines(folder)
    assert sweep.main([SICK, f"--workdir={folder}"]) == 1
    assert "6 runs, 6 ended before" in (said := capsys.readouterr().out)
    assert "sick, seed 0 failed: the loss or gradient is not finite" in said
    assert sweep.main([SICK, f"--workdir={folder}", "--index=1"]) == 0
    assert lines(folder) == before


def test_a_line_that_was_lost_is_written_again_and_the_numbers_are_the_same(swept, tmp_path, capsys):
    folder, _ = swept
    kept = lines(folder)
    results = tmp_path / "some.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in kept[1:]) + '{"change": "torn')
    assert sweep.main([SICK, f"--workdir={folder}", f"--results={results}", "--index=0"]) == 0
    again = sweep_results.read(results)["base", 0]
    assert (again["numbers"], again["batches"]) == (kept[0]["numbers"], kept[0]["batches"])


def test_printed_commands_are_one_a_run(capsys):
    sweep.main([SICK, "--print", "--workdir=some where", "--config.steps=2"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6
    assert said[4] == (
        f"python -m fmjax.sweep {SICK} '--workdir=some where' --index=4 --config.steps=2  # rate=0.2, seed 1"
    )


def test_two_sweeps_of_one_folder_are_refused_and_tasks_of_an_array_are_not(swept):
    folder, _ = swept
    array = Lock(folder / "lock", shared=True)
    with pytest.raises(CheckpointError, match="is being written by process"):
        sweep.main([SICK, f"--workdir={folder}"])
    assert sweep.main([SICK, f"--workdir={folder}", "--index=0"]) == 0
    array.release()
    whole = Lock(folder / "lock")
    with pytest.raises(CheckpointError, match="is being written by process"):
        sweep.main([SICK, f"--workdir={folder}", "--index=0"])
    whole.release()


@pytest.mark.parametrize(("flags", "said"), [
    (["--config.optimizer.rat=0.1"], "change 'base': .*did you mean 'rate'"),
    (["--config.seed=1"], "seeds are the study's own"),
    (["--index=6"], "has runs 0 to 5"),
    (["--processes=0"], "give 1 or more"),
    (["--config.steps=3"], "'base' was run with another config"),
])  # fmt: skip
def test_what_cannot_be_run_is_one_line_before_any_run(swept, flags, said):
    before = lines(swept[0])
    with pytest.raises(ConfigError, match=said):
        sweep.main([SICK, f"--workdir={swept[0]}", *flags])
    assert lines(swept[0]) == before


def test_a_workdir_is_needed_to_run():
    with pytest.raises(ConfigError, match="give --workdir"):
        sweep.main([SICK])


def test_results_of_other_code_are_mixed_only_when_asked(swept, tmp_path):
    folder, _ = swept
    other = [{**line, "code": CODE} if line["seed"] else line for line in lines(folder)]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in other))
    args = [SICK, f"--workdir={folder}", f"--results={results}"]
    for more in ([], ["--report"]):
        with pytest.raises(ConfigError, match=r"3 results are of source one .*say --mix"):
            sweep.main([*args, *more])
    assert sweep.main([*args, "--report", "--mix"]) == 0
    assert "SEVERAL VERSIONS OF THE CODE" in (tmp_path / "table.md").read_text()


@pytest.mark.nightly
def test_a_worker_that_dies_costs_its_run_alone(tmp_path):
    args = ["--study=tests/tiny_study.py:deadly", f"--workdir={tmp_path}", "--processes=2"]
    assert sweep.main(args) == 1
    found = {line["change"]: line for line in lines(tmp_path)}
    assert found["base"]["status"] == "finished"
    assert found["deadly"]["error"] == "its process died of signal 9 (SIGKILL); out of memory?"


# ---- statistics ---------------------------------------------------------------------------------------


def test_a_paired_t_test_is_scipys():
    rng = np.random.default_rng(0)
    for n in (2, 3, 8):
        a, b = rng.normal(size=(2, n))
        assert paired_t(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert math.isnan(paired_t([1.0], [2.0]))
    assert (paired_t([1.0, 2.0], [1.0, 2.0]), paired_t([2.0, 3.0], [1.0, 2.0])) == (1.0, 0.0)
    with pytest.raises(DataError, match="here are 1 and 2"):
        paired_t([1.0], [1.0, 2.0])


def test_holm_of_a_worked_example():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.03, np.nan, 0.02]), [0.04, np.nan, 0.04])


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_the_step_down_procedure_rejects(p):
    level, corrected, order = 0.05, holm(p), np.argsort(p, kind="stable")
    rejected = set()
    for i, at in enumerate(order):  # Holm's own words
        if p[at] > level / (len(p) - i):
            break
        rejected.add(int(at))
    assert all(corrected >= np.asarray(p))
    certain = np.abs(corrected - level) > 1e-9
    assert {int(i) for i in np.flatnonzero((corrected <= level) & certain)} == {i for i in rejected if certain[i]}


def line(change, seed, value, status="finished", **more):
    numbers = {"test/loss": value, "validation/loss": more.pop("chosen_by", value)}
    rest = {"error": None, "config": "c", "code": CODE, "batches": str(seed), "seconds": 1.0}
    return {"change": change, "seed": seed, "status": status, "numbers": numbers, **rest, **more}


def found_in(study, *made):
    return study_report.rows(study, {(r["change"], r["seed"]): r for r in made})


def test_a_difference_is_that_of_the_seeds_both_have():
    study = Study("c", "test/loss", {"x": {"clip": 1.0}}, seeds=(0, 1, 2))
    base = [line("base", s, v) for s, v in enumerate((1.0, 2.0, 3.0))]
    x = [line("x", 0, 1.5), line("x", 1, 2.9), line("x", 2, 9.0, "failed", error="burst")]
    first, row = found_in(study, *base, *x)
    assert (first.mean.value, first.spread, first.difference) == (2.0, 1.0, None)
    assert row.difference.value == pytest.approx(0.7)
    assert row.difference.low == pytest.approx(0.5)
    assert row.difference.high == pytest.approx(0.9)
    pooled = math.sqrt((1.0 + np.var([1.5, 2.9], ddof=1)) / 2)
    assert row.noise == pytest.approx(0.7 / pooled)
    assert row.p == pytest.approx(scipy.stats.ttest_rel([1.5, 2.9], [1.0, 2.0]).pvalue)
    assert (row.batches, row.failed, row.missing) == ("same", {2: "burst"}, [])
    x[0]["batches"] = "other"
    assert found_in(study, *base, *x)[1].batches == "other"


def test_the_best_of_a_group_is_chosen_by_the_other_number_and_all_failures_are_told():
    changes = {f"{o}, rate={r}": {"clip": float(r)} for o in ("adam", "sgd") for r in (1, 2, 3)}
    study = Study("c", "test/loss", changes, seeds=(0,), base="adam", choose="validation/loss")
    values = {"adam, rate=1": 0.5, "adam, rate=2": 0.4, "adam, rate=3": 0.6, "sgd, rate=1": 0.9, "sgd, rate=2": 0.8}
    made = [line(name, 0, 1 - value, chosen_by=value) for name, value in values.items()]
    made.append(line("sgd, rate=3", 0, 0.0, "failed", error="burst", chosen_by=0.0))
    by_key = {(r["change"], r["seed"]): r for r in made}
    assert [row.change for row in study_report.rows(study, by_key)] == ["adam, rate=2", "sgd, rate=2"]
    assert study_report.failures(study, by_key) == ["sgd, rate=3, seed 0 failed: burst"]


def test_a_change_may_be_compared_with_another_than_the_base_and_other_numbers_stand_beside():
    changes = {name: {"clip": float(i + 1)} for i, name in enumerate(("a1", "b1", "a2", "b2"))}
    more = {"against": {"b2": "a2"}, "also": ("validation/loss",)}
    study = Study("c", "test/loss", changes, seeds=(0, 1), base="a1", **more)
    values = {"a1": 1.0, "b1": 2.0, "a2": 5.0, "b2": 5.5}
    made = [line(name, seed, v + seed, chosen_by=v - seed) for name, v in values.items() for seed in (0, 1)]
    rows = found_in(study, *made)
    assert [(row.change, row.base) for row in rows] == [("a1", ""), ("b1", "a1"), ("a2", ""), ("b2", "a2")]
    assert [row.difference and row.difference.value for row in rows] == [None, 1.0, None, 0.5]
    assert rows[3].also == {"validation/loss": (5.0, pytest.approx(math.sqrt(0.5)))}
    text = study_report.markdown(study, rows)
    assert "+0.5 [+0.5, +0.5] from `a2`" in text
    assert "corrected for 2 comparisons" in text
    assert "| `validation/loss` |" in text
    table = list(csv.DictReader(study_report.table_csv(rows).splitlines()))
    assert [r["compared with"] for r in table] == ["", "a1", "", "a2"]
    assert float(table[3]["validation/loss mean"]) == 5.0


def test_a_base_without_a_run_or_a_number_that_is_not_there_is_one_line():
    study = Study("c", "test/loss", {"x": {"clip": 1.0}}, seeds=(0,))
    with pytest.raises(DataError, match="the base 'base' has no run that finished"):
        found_in(study, line("x", 0, 1.0))
    made = line("base", 0, 1.0)
    made["numbers"] = {"test/lost": 1.0}
    with pytest.raises(DataError, match="has no number 'test/loss'; did you mean 'test/lost'"):
        found_in(study, made)


def test_the_report_writes_a_table_its_numbers_and_a_figure(swept, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    results.write_bytes((swept[0] / "results.jsonl").read_bytes())
    assert sweep.main([SICK, f"--results={results}", "--report"]) == 0
    text = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| sick | 0, 2 failed | - |" in text
    assert "- sick, seed 1 failed: the loss or gradient is not finite" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    own = [r["numbers"]["validation/loss"] for r in lines(swept[0]) if r["change"] == "rate=0.2"]
    assert float(rows[1]["mean"]) == pytest.approx(np.mean(own), rel=1e-12)
    assert float(rows[1]["spread"]) == pytest.approx(np.std(own, ddof=1), rel=1e-9)
    assert (rows[2]["mean"], rows[2]["failed"]) == ("", "2")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_one_source_at_two_commits_is_one_version(tmp_path):
    made = [line("base", 0, 1.0), line("x", 0, 2.0, code={**CODE, "git": "def"})]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(one) + "\n" for one in made))
    study = Study("c", "test/loss", {"x": {"clip": 1.0}}, seeds=(0,))
    assert "Code: source one (commit abc, jax 0)." in study_report.write(study, results, tmp_path)


def test_results_that_are_none_are_named_by_line(tmp_path):
    results = tmp_path / "results.jsonl"
    with pytest.raises(DataError, match="has no run of this study"):
        sweep.main([SICK, f"--results={results}", "--report"])
    results.write_text('{"change": "base"}\n')
    with pytest.raises(DataError, match=r"line 1: a result has .*'seed' is missing"):
        sweep.main([SICK, f"--results={results}", "--report"])
