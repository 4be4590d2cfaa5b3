"""Every config takes two steps at smoke size, evaluators and report included."""

import os
from pathlib import Path

import pytest

from fmjax.run import fit

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py"))
NEEDS_DATA = {
    "configs/vision/mlp_mnist.py",
    "configs/vision/distill_mnist.py",
    *(f"configs/vision/{name}_cifar10.py" for name in ("alexnet", "convnet", "densenet", "efficientnet")),
    *(f"configs/vision/{name}_cifar10.py" for name in ("resnet", "vgg", "vit")),
    "configs/language/gpt_shakespeare_char.py",
    "configs/language/rnn_text.py",
    "configs/language/bert_words.py",
    "configs/language/squad.py",
    "configs/language/sst2.py",
    "configs/language/wnut17.py",
    "configs/language/chat_sft.py",
    "configs/language/dpo.py",
    "configs/language/embeddings_multi30k.py",
}


STUDIES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").glob("*/study.py"))


@pytest.mark.parametrize("config", [*CONFIGS, *(pytest.param(s, marks=pytest.mark.nightly) for s in STUDIES)])
def test_every_config_takes_two_steps(config, monkeypatch):
    if (config in NEEDS_DATA or config in STUDIES) and not os.environ.get("FMJAX_DATA"):
        pytest.skip("FMJAX_DATA names no folder with this config's data set")
    monkeypatch.chdir(ROOT)
    run = fit(f"{config}:smoke", progress=False)
    assert run.word == "finished"
    assert run.step == 2 or config in STUDIES
    assert run.numbers
    assert all(value == value for value in run.numbers.values()), run.numbers


def test_every_config_says_how_to_run_it():
    for config in CONFIGS:
        assert f"python -m fmjax.train --config={config}" in (ROOT / config).read_text(), config
