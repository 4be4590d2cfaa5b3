"""Beside PyTorch, at small sizes: every network takes the same steps on both sides, as their losses say.

Needs the extra `oracle`.
"""

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import evaluation  # noqa: E402
import steps  # noqa: E402
import turns  # noqa: E402
from step_cases import CASES, changed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of what is theirs
SMALL = {
    "gpt_char": dict(n_embd=16, n_layer=2, n_positions=8, n_head=2),
    "bert_base": dict(
        vocab_size=120, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
    "t5_small": dict(vocab_size=120, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
    "lstm": dict(vocab_size=30, width=8, depth=2),
    "mlp": {},
    "convnet": {},
}  # fmt: skip


def small(name):
    case = CASES[name]
    length = {"images": 16}.get(case.batch, 8)
    options = {**case.options, **SMALL[name]}
    return dataclasses.replace(case, options=options, rows=2, length=length, steps=3, rate=1e-2)


# Of a size for a GPU, tried at a small one: attention, layouts and recomputing are those that are measured there.
TRIED = {"llama_05b_2048": {"checkpointing": True}, "gpt_124m_2048": {"remat": "dots"}, "vit_b16": {}}


@pytest.mark.parametrize("name", [*SMALL, *TRIED, pytest.param("resnet50", marks=pytest.mark.nightly)])
def test_both_sides_train_alike(name):
    case = small(name) if name in SMALL else changed(name, smoke=True, steps=3, **TRIED.get(name, {}))
    ways, program = steps.sides(case, compiled=False)
    found = turns.take(ways, 1)
    losses = {way: turns.flat(said) for way, said in found.said.items()}
    tolerance = 1e-2 if name == "resnet50" else 1e-3  # AdamW divides by batch norm's smallest gradients
    assert "losses of 6 steps" in turns.compare_losses(name, losses, tolerance)
    program.check(steps.batches(case)[0])


@pytest.mark.parametrize("name", ["gpt_char", "convnet"])
def test_both_sides_find_the_same_loss_of_a_set(name):
    found = turns.take(evaluation.sides(small(name), 3, compiled=False), 1)
    assert turns.compare(name, found.said, 1e-5) <= 1e-5
    assert found.said["fmjax"][0] == found.said["fmjax"][1]
