"""The loop: what it does about values that are not finite, about time, and about success."""

import math
import os
import signal

import numpy as np
import pytest
from stand_ins import Rows, Scripted, course, events, records, same, tiny

from fmjax.core.config import build, call
from fmjax.core.errors import ConfigError
from fmjax.data import pipeline
from fmjax.run import Run, fit
from fmjax.training.loop import NotFinite
from fmjax.training.policies import EarlyStop, Patience, SpikeWatch
from fmjax.training.program import batch_digest

BAD = 8 * 6 + 3  # row 51 is in batch 6, the one that step 7 sees, and no second time in 12 steps
QUICK = ["--config.evals.validation.every=0"]


def terminate(at):
    return lambda step, state, metrics: os.kill(os.getpid(), signal.SIGTERM) if step == at else None


# ---- not finite -------------------------------------------------------------------------------------


def test_stop_names_the_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(NotFinite, match=r"not finite at step 7 \(.*loss nan.*the last good checkpoint is step 4; set"):
        fit(tiny(nan=BAD), tmp_path, QUICK)
    assert (tmp_path / "state").read_text() == "failed\n"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["4"]
    assert math.isnan(records(tmp_path, "train")[-1]["loss"])
    assert Run.load(tmp_path).step == 4


def test_stop_without_a_checkpoint_says_so():
    with pytest.raises(NotFinite, match=r"not finite at step 7 .*no checkpoint was written yet"):
        fit(tiny(nan=BAD), overrides=QUICK)


def test_skip_leaves_the_weights_as_they_were_and_goes_on(tmp_path):
    kept = {}

    def hook(step, state, metrics):
        kept[step] = [
            np.asarray(x) for x in (state.params["model"]["up"]["kernel"], state.ema["model"]["up"]["kernel"])
        ]

    run = fit(tiny(nan=BAD), tmp_path, [*QUICK, "--config.nan.action=skip"], hooks=[hook])
    same(kept[6], kept[7])
    assert not np.array_equal(kept[7][0], kept[8][0])
    assert run.word == "finished"
    assert events(tmp_path).count("skipped") == 1
    assert [r["step"] for r in records(tmp_path, "train")] == list(range(1, 13))
    assert np.isfinite(run.numbers["validation/loss"])


def test_skipping_has_a_limit():
    limit = ["--config.nan.action=skip", "--config.nan.limit=2", "--config.data.source.n=8"]  # every batch is bad
    with pytest.raises(NotFinite, match="2 steps in a row up to step 2"):
        fit(tiny(nan=3), overrides=[*QUICK, *limit])


@pytest.mark.parametrize("bad", ["nan", "huge"])
def test_rollback_passes_over_the_offending_batches_and_no_others(tmp_path, bad):
    spike = ["--config.nan.spike=20", "--config.steps=16", "--config.log.every=5"]
    row = {"nan": BAD, "huge": 8 * 11 + 3}[bad]
    action = ["--config.nan.action=rollback", *(spike if bad == "huge" else [])]
    run = fit(tiny(**{bad: row}), tmp_path / "a", [*QUICK, *action])
    assert run.word == "finished"
    back = next(r for r in records(tmp_path / "a", "event") if r["event"] == "rollback")
    step, to = (7, 4) if bad == "nan" else (12, 8)
    assert (back["step"], back["to"], back["data_offset"]) == (step, to, step - to)
    seen = [r["batch"] for r in records(tmp_path / "a", "train")]
    clean = fit(tiny(**{bad: row}), None, [*QUICK, "--config.steps=2"]).parts  # the batches themselves
    wanted = [*range(to), *range(step, step + run.step - to)]
    assert seen == [batch_digest(clean.data.batch(k, seed=3)) for k in wanted]
    assert [r["step"] for r in records(tmp_path / "a", "train")] == list(range(1, run.step + 1))
    again = fit(tiny(**{bad: row}), tmp_path / "b", [*QUICK, *action, "--config.log.every=1"])
    assert course(tmp_path / "b") == course(tmp_path / "a")
    same(again.state, run.state)


def test_a_rollback_is_remembered_by_a_resumed_run(tmp_path):
    action = ["--config.nan.action=rollback", *QUICK]
    straight = fit(tiny(nan=BAD), tmp_path / "a", action)
    half = fit(tiny(nan=BAD), tmp_path / "b", action, hooks=[terminate(9)])
    assert half.word == "interrupted"
    again = fit(tiny(nan=BAD), tmp_path / "b", action)
    assert course(tmp_path / "b") == course(tmp_path / "a")
    same(again.state, straight.state)


def test_evaluations_after_the_checkpoint_are_done_again_after_a_rollback(tmp_path):
    fit(
        tiny(nan=BAD), tmp_path,
        ["--config.nan.action=rollback", "--config.evals.validation.every=2"],
    )  # fmt: skip
    assert [r["step"] for r in records(tmp_path, "eval")] == [2, 4, 6, 8, 10, 12]


def test_rolling_back_has_a_limit_and_a_first_checkpoint(tmp_path):
    limit = ["--config.nan.action=rollback", "--config.nan.limit=2", "--config.data.source.n=8"]
    with pytest.raises(NotFinite, match="2 rollbacks did not help: the loss went wrong again at step 1"):
        fit(tiny(nan=3), tmp_path, [*QUICK, *limit])
    assert [r["to"] for r in records(tmp_path, "event") if r["event"] == "rollback"] == [0, 0]


def test_a_spike_is_measured_against_the_median_and_is_not_remembered():
    watch = SpikeWatch(3.0)
    assert not any(watch.jumped(x) for x in [9.0] + [1.0] * 9)
    assert watch.jumped(3.1)
    assert watch.jumped(3.1)
    assert not watch.jumped(2.9)
    assert not SpikeWatch(0.0).jumped(1e9)


@pytest.mark.parametrize(("override", "said"), [
    ("--config.nan.action=ignore", "nan.action is stop, skip or rollback, not 'ignore'"),
    ("--config.nan.spike=3.0", "nan.spike needs --config.nan.action=rollback"),
])  # fmt: skip
def test_a_policy_that_does_not_exist_is_refused_and_nothing_is_begun(tmp_path, override, said):
    with pytest.raises(ConfigError, match=said):
        fit(tiny(), tmp_path / "run", [override])
    assert not (tmp_path / "run" / "config.json").exists()


# ---- stopping early ---------------------------------------------------------------------------------


def scripted(*values, patience=2, **rule):
    config = tiny(len(values) * 2)
    data = call(pipeline.one_pass, source=call(Rows, n=8), batch_size=8, threads=0)
    config.evals = {"validation": call(Scripted, data=data, values=tuple(map(float, values)), every=2)}
    config.early_stop = call(EarlyStop, patience=patience, **rule)
    return config


def test_the_run_stops_after_patience_and_ends_with_the_best_weights(tmp_path):
    kept = {}

    def hook(step, state, metrics):
        kept[step] = np.asarray(state.params["model"]["up"]["kernel"])

    run = fit(scripted(5, 3, 4, 3, 1, 1), tmp_path, hooks=[hook])
    assert max(kept) == 8  # evaluations at 2, 4 (best), 6, 8
    assert run.step == 4
    assert run.word == "finished"
    np.testing.assert_array_equal(run.state.params["model"]["up"]["kernel"], kept[4])
    assert run.numbers == {"validation/loss": 3.0}
    assert {"stopped early", "restored best", "finished"} <= set(events(tmp_path))
    loaded = Run.load(tmp_path)
    assert loaded.step == 4
    same(loaded.state, run.state)


@pytest.mark.parametrize("at", [3, 4, 5, 8])
def test_an_interrupted_run_decides_the_same(tmp_path, at):
    straight = fit(scripted(5, 3, 4, 3, 1, 1), tmp_path / "a")
    fit(scripted(5, 3, 4, 3, 1, 1), tmp_path / "b", hooks=[terminate(at)])
    again = fit(scripted(5, 3, 4, 3, 1, 1), tmp_path / "b")
    assert again.step == straight.step
    same(again.state, straight.state)
    assert [(r["step"], r["validation/loss"]) for r in records(tmp_path / "b", "eval")] == [
        (r["step"], r["validation/loss"]) for r in records(tmp_path / "a", "eval")
    ]


class Limit:
    """A judge that ends a run whose loss is above 8."""

    def __init__(self):
        self.seen, self.over = [], False

    def see(self, step, numbers):
        self.seen.append((step, numbers["validation/loss"]))
        self.over = numbers["validation/loss"] > 8


@pytest.mark.parametrize("interrupt", [[], [terminate(7)]])
def test_a_judge_ends_a_run_as_pruned_and_a_resumed_one_shows_it_the_same(tmp_path, interrupt):
    config = scripted(5, 3, 4, 9, 1, 1, patience=99, restore=False)
    if interrupt:
        assert fit(config, tmp_path, hooks=interrupt, judge=Limit()).word == "interrupted"
    for _ in range(2):  # the second time there is nothing left to do
        judge = Limit()
        run = fit(config, tmp_path, judge=judge)
        assert (run.word, run.step, run.numbers) == ("pruned", 8, {"validation/loss": 9.0})
        assert judge.seen == [(2, 5.0), (4, 3.0), (6, 4.0), (8, 9.0)]
    assert ((tmp_path / "state").read_text(), events(tmp_path)[-1]) == ("pruned\n", "pruned")
    assert [record["step"] for record in records(tmp_path, "train")] == list(range(1, 9))
    assert Run.load(tmp_path).step == 8


def test_a_run_that_is_at_its_end_is_finished_whatever_the_judge_says():
    judge = Limit()
    assert fit(scripted(5, 9, patience=99), judge=judge).word == "finished"
    assert judge.over


def test_a_maximum_is_sought_where_more_is_better_and_small_gains_are_none(tmp_path):
    run = fit(scripted(1, 2, 1.5, 1.8, 9, mode="max", delta=1.0, patience=2), tmp_path)
    assert (run.step, run.numbers["validation/loss"]) == (2, 1.0)  # 2.0 is no gain of more than 1


def test_without_restore_the_last_weights_stay(tmp_path):
    run = fit(scripted(5, 3, 4, 4, 1, restore=False), tmp_path)
    assert (run.step, Run.load(tmp_path).step) == (8, 8)


def test_stopping_early_needs_no_folder():
    run = fit(scripted(5, 3, 4, 4, 1))
    assert run.step == 8  # nothing to come back to


def test_patience_counts_evaluations_without_a_gain():
    patience = Patience(EarlyStop(patience=2, delta=0.5))
    assert [patience.see({"validation/loss": x}) for x in (3.0, 2.8, 2.4, 2.3)] == [True, False, True, False]
    assert not patience.over
    assert not patience.see({"validation/loss": math.nan})
    assert patience.over


@pytest.mark.parametrize(("overrides", "said"), [
    (["--config.early_stop=fmjax.training.policies:EarlyStop", "--config.early_stop.metric=valid/loss"],
     "there is no evaluator 'valid'; did you mean 'validation'"),
    (["--config.early_stop=fmjax.training.policies:EarlyStop", *QUICK], "runs only at the end; set --config.evals"),
    (["--config.checkpoint.best=other/loss"], "checkpoint.best=other/loss: there is no evaluator 'other'"),
])  # fmt: skip
def test_a_number_that_will_never_come_is_refused_before_step_0(tmp_path, overrides, said):
    with pytest.raises(ConfigError, match=said):
        fit(tiny(), tmp_path / "run", overrides)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_best_checkpoint_stays_beside_the_last(tmp_path):
    config = scripted(1, 5, 4, 3, 2, 2)
    config.early_stop = None
    overrides = ["--config.checkpoint.best=validation/loss", "--config.checkpoint.keep=1"]
    fit(config, tmp_path, overrides)
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [4, 12]


# ---- time and words ---------------------------------------------------------------------------------


def test_hooks_see_every_step_and_evaluations_keep_their_schedule(tmp_path):
    seen = []
    run = fit(
        tiny(10), tmp_path, ["--config.log.every=1"], hooks=[lambda step, state, m: seen.append((step, m.get("loss")))]
    )
    assert [step for step, _ in seen] == list(range(1, 11))
    losses = [r["loss"] for r in records(tmp_path, "train")]
    assert [loss for _, loss in seen][3::4] == losses[3::4]  # at a boundary the metrics are of the step itself
    assert [r["step"] for r in records(tmp_path, "eval")] == [4, 8, 10]
    assert {"validation/loss", "validation/accuracy"} <= run.numbers.keys()


def test_a_record_says_what_is_promised(tmp_path):
    fit(tiny(6), tmp_path)
    start, *_ = records(tmp_path, "start")
    assert {"first_step_seconds", "compile_seconds", "parameters", "flops_per_step"} <= start.keys()
    assert start["parameters"] == 6 * 8 + 8 + 8 * 3 + 3
    last = records(tmp_path, "train")[-1]
    assert {"loss", "grad_norm", "rate", "step_seconds", "examples_per_second", "batch", "time"} <= last.keys()
    assert len(last["batch"]) == 16
    assert events(tmp_path) == ["saved", "saved", "finished"]


@pytest.mark.parametrize(("steps", "wanted"), [("2epochs", 24), ("80examples", 10), ("7steps", 7), ("9", 9)])
def test_a_run_lasts_as_long_as_it_is_told(steps, wanted):
    run = fit(tiny(), overrides=[f"--config.steps={steps}", "--config.evals.validation.every=50%"])
    assert run.step == wanted
    assert run.config.steps == run.config.optimizer.rate.steps == wanted
    assert run.config.evals.validation.every == max(1, round(wanted / 2))


def test_the_rate_in_a_record_is_the_one_that_step_used(tmp_path):
    run = fit(tiny(6), tmp_path, QUICK)
    schedule = build(run.config.optimizer.rate)
    rates = [r["rate"] for r in records(tmp_path, "train")]
    np.testing.assert_allclose(rates, [float(schedule(np.int32(k))) for k in range(6)], rtol=1e-5)
