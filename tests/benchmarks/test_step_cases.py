"""The steps that are measured: their sizes are what their words say, and the objectives can read their batches."""

import dataclasses
import re

import apart
import jax
import numpy as np
import pytest
import step_cases
import step_ours
import steps
import turns

from fmjax.assembly import flops_per_step
from fmjax.core.errors import ConfigError
from fmjax.core.trees import count

CASES = step_cases.CASES


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.nightly] * case.gpu) for k, case in CASES.items()])
def test_a_network_is_as_large_as_its_words_say_and_tells_its_flops(name):
    case = step_cases.changed(name, attention="auto")  # what is chosen for a GPU does not run here
    (batch, *_) = step_cases.batches(case, count=1)
    program = step_ours.program(case, batch)
    weights = count(program.abstract.params)
    if said := re.search(r"([\d.]+)M weights", case.words):
        assert weights / 1e6 == pytest.approx(float(said[1]), rel=0.04)
    assert (weights > 1e7) == case.large
    found = step_ours.flops(case, program)
    assert found == flops_per_step(program) if case.batch != "masked" else 0 < found < flops_per_step(program)
    program.check(batch)


# One of each network, and one that computes its blocks again; what differs in the others are numbers.
TRIED = {"llama_05b_2048": "full", "vit_b16": "none"}


@pytest.mark.parametrize(("name", "remat"), TRIED.items())
def test_what_is_of_a_size_for_a_gpu_takes_its_steps_here_at_a_small_one(name, remat):
    case = step_cases.changed(name, smoke=True, remat=remat)
    given = step_cases.batches(case)
    program = step_ours.program(case, given[0])
    assert program.modules["model"].remat == remat
    losses = step_ours.step(case, program, given)()
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["llama_05b_2048", "gpt_124m_2048", "bert_base_64"])
def test_what_is_asked_of_fused_attention_on_a_gpu_it_can_do(name, monkeypatch):
    assert CASES[name].attention == "cudnn"
    case, seen = step_cases.changed(name, smoke=True, attention="xla"), []
    real = jax.nn.dot_product_attention

    def watched(q, k, v, bias=None, mask=None, **more):
        seen.append(({str(x.dtype) for x in (q, k, v)}, bias, mask, more["local_window_size"]))
        return real(q, k, v, bias, mask, **more)

    monkeypatch.setattr(jax.nn, "dot_product_attention", watched)
    program = step_ours.program(case, step_cases.batches(case, 1)[0], dtype="bfloat16")
    assert "loss" in program.metric_names
    assert seen
    assert all(call == ({"bfloat16"}, None, None, None) for call in seen)


def test_every_case_has_a_small_form_of_the_same_network_and_objective():
    for name, case in CASES.items():
        small = step_cases.changed(name, smoke=True)
        (batch,) = step_cases.batches(small, 1)
        program = step_ours.program(small, batch)
        assert count(program.abstract.params) < 1.5e6
        assert type(program.objective) is type(step_ours.objective(case))
        assert (small.network, small.gpu, small.resident) == (case.network, case.gpu, case.resident)


def test_only_what_is_given_is_changed():
    name = "llama_05b_2048"
    assert step_cases.changed(name) == CASES[name]
    assert step_cases.changed(name, rows=None, remat="dots").remat == "dots"
    assert step_cases.changed(name, rows=2) != CASES[name]
    assert step_cases.changed(name, smoke=True, rows=3).rows == 3
    assert CASES[name].attention == "cudnn"
    assert step_cases.changed(name, smoke=True).attention == "auto"


def test_batches_are_the_same_each_time_and_differ_from_one_another():
    for name in CASES:
        case = step_cases.changed(name, rows=2)
        first, second = step_cases.batches(case, 2), step_cases.batches(case, 2)
        jax.tree.map(np.testing.assert_array_equal, first, second)
        word = "image" if case.batch == "images" else "tokens"
        assert (first[0][word] != first[1][word]).any()


def test_what_skips_the_head_and_what_attention_does_not_see_is_not_counted():
    bert, gpt = CASES["bert_base"], CASES["gpt_char"]
    masked, next_token = (step_ours.program(case, step_cases.batches(case, 1)[0]) for case in (bert, gpt))
    skipped = 4 * (128 - 19) * (30522 + 768) * 768
    assert flops_per_step(masked) - step_ours.flops(bert, masked) == pytest.approx(6 * skipped)
    unseen = flops_per_step(next_token) - step_ours.flops(gpt, next_token, causal=True)
    scores = 4 * 12 * 64 * 64 * 128  # products of queries and keys in 4 blocks; as many of weights and values
    assert unseen == pytest.approx(6 * 2 * scores / 2, rel=0.05)


def test_every_row_hides_as_many_tokens_as_go_through_the_head():
    case = CASES["bert_base"]
    (batch,) = step_cases.batches(case, 1)
    assert (batch["weights"].sum(1) == step_cases.masked(case)).all()
    hidden = batch["weights"] > 0
    assert (batch["tokens"][hidden] == 103).all()
    assert (batch["tokens"] == batch["targets"])[~hidden].all()
    assert step_ours.objective(case).most == step_cases.masked(case) == 19


def test_rows_of_another_device_or_precision_have_other_names_and_say_so_in_their_command():
    half = steps.Place("gpu", "bfloat16")
    assert steps.CPU.row("step_mlp") == "step_mlp"
    assert steps.CPU.command("mlp") == "python benchmarks/steps.py mlp"
    assert half.row("step_mlp") == "step_mlp_bfloat16_gpu"
    assert half.command("mlp") == "python benchmarks/steps.py mlp --device=gpu --precision=bfloat16"
    assert len({place.row("a") for place in (steps.CPU, half, steps.Place("gpu"), steps.Place("cpu", "bfloat16"))}) == 4


def test_changes_of_a_case_are_in_the_names_of_its_rows_and_in_its_command():
    place = steps.Place("gpu", "bfloat16", {"rows": 4, "checkpointing": True})
    assert place.row("step_a") == "step_a_rows_4_checkpointing_true_bfloat16_gpu"
    assert place.command("a").endswith("steps.py a --device=gpu --precision=bfloat16 --rows=4 --checkpointing")


def test_utilisation_is_of_the_published_peak_in_both_conventions_and_processes_of_a_side_are_one_list_of_turns():
    facts = {"flops": 4e12, "causal": 3e12, "peak_flops": 10e12}
    one = apart.Told(9.0, [1.0, 3.0], [[5.0], [4.0], [3.0]], 2**30, 8e12, facts)
    other = apart.Told(2.0, [4.0], [[5.0], [4.0]], 2**31, 5e12, {})
    found = apart.together({turns.OURS: [one, one], "torch.compile": [other] * 4})
    assert found.first == {turns.OURS: 9.0, "torch.compile": 2.0}
    assert found.seconds == {turns.OURS: [1.0, 3.0] * 2, "torch.compile": [4.0] * 4}
    case = step_cases.changed("llama_05b_2048")
    used, words = steps.usage(case, found, {turns.OURS: one, "torch.compile": other})
    assert used[turns.OURS] == pytest.approx([0.3, 0.1] * 2)
    assert "fmjax 20 %, torch.compile 10 % (full attention counted), fmjax 15 %, torch.compile 7.5 % (causal)" in words
    assert f"fmjax {16 * 2048 / 2:,.4g} tokens/s" in words
    assert "25.0% of the best square matrix product" in words
    assert "peak memory fmjax 1 GiB, torch.compile 2 GiB" in words
    unknown = dataclasses.replace(one, facts={**facts, "peak_flops": None}, peak=None)
    used, words = steps.usage(case, found, {turns.OURS: unknown, "torch.compile": other})
    assert used == {turns.OURS: [], "torch.compile": []}
    assert "utilisation" not in words
    assert "memory" not in words


def test_a_process_of_one_side_that_fails_is_told_of(tmp_path):
    with pytest.raises(ConfigError, match="mlp: the process of fmjax exited with 2: error: --device=gpu, but jax"):
        apart.start(apart.Job("mlp", turns.OURS, str(tmp_path), 1), tmp_path)
