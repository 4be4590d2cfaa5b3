"""The steps that are measured: their sizes are what their words say, and the objectives can read their batches."""

import re

import jax
import numpy as np
import pytest
import step_cases
import step_ours
import steps

from fmjax.assembly import flops_per_step
from fmjax.core.trees import count

CASES = step_cases.CASES


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.nightly] * case.gpu) for k, case in CASES.items()])
def test_a_network_is_as_large_as_its_words_say_and_tells_its_flops(name):
    case = CASES[name]
    (batch, *_) = step_cases.batches(case, count=1)
    program = step_ours.program(case, batch)
    weights = count(program.abstract.params)
    if said := re.search(r"([\d.]+)M weights", case.words):
        assert weights / 1e6 == pytest.approx(float(said[1]), rel=0.04)
    assert (weights > 1e7) == case.large
    found = step_ours.flops(case, program)
    assert found == flops_per_step(program) if case.batch != "masked" else 0 < found < flops_per_step(program)
    program.check(batch)


def test_batches_are_the_same_each_time_and_differ_from_one_another():
    for case in CASES.values():
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
