"""Adapters in PEFT's file layout: there and back the same weights, and what stands on another base is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fmjax import pretrained
from fmjax.adapters.low_rank import dora, lora
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.trees import flatten, nested
from fmjax.interop import hugging_face, peft

GOLDENS = Path(__file__).parent / "goldens"
ATTENTION = (r"attention/(query|key|value|out)/kernel$",)


def adapted(base, adapter):
    """(module, small tree, merged weights) of a folder's model with a random adapter."""
    module, params = hugging_face.load(base)
    shapes = jax.eval_shape(adapter.split, {"model": params}, jax.random.key(0))
    rng = np.random.default_rng(0)
    own = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes[0]["model"])
    base = nested({name: flatten(params)[name] for name in flatten(shapes[1]["model"])})
    return module, own, jax.device_get(adapter.merge("model", base, own))


def saved(folder, base, adapter):
    """The merged weights of a random adapter that is written into `folder`."""
    module, own, merged = adapted(base, adapter)
    folder.mkdir()
    family = hugging_face.family_of(module)
    peft.save(folder, family, module, merged, own, adapter.delta.scale, str(base))
    return merged


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        ("gpt2", lora(rank=2, alpha=6.0, targets=(r"(query|value|up)/kernel$",))),
        ("gpt2", dora(rank=2)),
        ("llama_yarn", lora(rank=3, rank_stable=True)),
        ("bert", dora(rank=1, targets=ATTENTION)),
    ],
    ids=["parts of a fused layer", "lengths of a fused layer", "grouped heads", "encoder"],
)
def test_an_adapter_comes_back_as_the_weights_that_it_makes(tmp_path, base, adapter):
    merged = flatten(saved(tmp_path / "adapter", GOLDENS / base, adapter))
    module, again = hugging_face.load(tmp_path / "adapter")
    assert module == hugging_face.load(GOLDENS / base)[0]
    for name, x in flatten(again).items():
        np.testing.assert_allclose(x, merged[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert pretrained.model(str(tmp_path / "adapter")) == pretrained.model(str(GOLDENS / base))


def test_layers_of_several_ranks_are_told_apart(tmp_path):
    saved(tmp_path / "adapter", GOLDENS / "gpt2", lora(rank=2, alpha=6.0, targets=(r"(query|value|up)/kernel$",)))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    fused = "transformer.h.0.attn.c_attn"
    ranks = {layer: config["rank_pattern"].get(layer, config["r"]) for layer in config["target_modules"]}
    assert (ranks[fused], ranks["transformer.h.0.mlp.c_fc"]) == (4, 2)
    alphas = {layer: config["alpha_pattern"].get(layer, config["lora_alpha"]) for layer in ranks}
    assert {alphas[layer] / rank for layer, rank in ranks.items()} == {3.0}


def test_an_adapter_for_another_base_is_refused(tmp_path):
    saved(tmp_path / "adapter", GOLDENS / "llama_yarn", lora(rank=1))
    config = tmp_path / "adapter" / "adapter_config.json"
    lines = json.loads(config.read_text())
    for base, message in (("bert", "this bert model has no base_model"), ("mistral", "maps 16 to .* in this model")):
        config.write_text(json.dumps({**lines, "base_model_name_or_path": str(GOLDENS / base)}))
        with pytest.raises(CheckpointError, match=f"an adapter for another base: .*{message}"):
            hugging_face.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, change, message):
    saved(tmp_path / "adapter", GOLDENS / "gpt2", lora(rank=1))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        hugging_face.load(tmp_path / "adapter")


def test_what_the_layout_has_no_place_for_is_not_written(tmp_path):
    for adapter, message in (
        (lora(rank=1, also=("final_norm/",)), "these weights move whole: final_norm"),
        (dora(rank=1, targets=("query/kernel$",)), "adapt all of them by dora, or none"),
    ):
        with pytest.raises(ConfigError, match=message):
            saved(tmp_path / message.replace("/", "")[:9], GOLDENS / "gpt2", adapter)
