"""Folders that are not what they should be: one clear line each."""

import json

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import made, rewrite

from fmjax.core.errors import UserError
from fmjax.interop import hub, hugging_face, tensors


@pytest.fixture
def folder(tmp_path):
    module, params = made("llama")
    hugging_face.save(tmp_path / "model", module, params)
    return tmp_path / "model"


def said(call, *args, **more):
    """The one line that is raised."""
    with pytest.raises(UserError) as caught:
        call(*args, **more)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_missing_unexpected_and_misshapen_tensors_are_listed(folder):
    held = load_file(folder / tensors.ONE)
    for i in range(2):
        for x in ("q", "k", "v", "o"):
            del held[f"model.layers.{i}.self_attn.{x}_proj.weight"]
            del held[f"model.layers.{i}.self_attn.{x}_proj.bias"]
    held["score.weight"] = np.zeros(3, np.float32)
    held["model.norm.weight"] = np.zeros(5, np.float32)
    save_file(held, folder / tensors.ONE)
    line = said(hugging_face.load, folder)
    assert "missing: layers.0.self_attn.q_proj.weight" in line
    assert "and 6 more" in line
    assert "of another shape: norm.weight (5,), not (16,)" in line
    assert "unexpected: score.weight" in line


def test_weights_of_another_family_are_listed(folder):
    module, params = made("gpt2")
    other = folder.parent / "gpt2"
    hugging_face.save(other, module, params)
    (folder / tensors.ONE).write_bytes((other / tensors.ONE).read_bytes())
    line = said(hugging_face.load, folder)
    assert "not those of a llama model" in line
    assert "unexpected: transformer.h.0" in line


@pytest.mark.parametrize(
    "lines",
    [
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 3}},
        {"partial_rotary_factor": 0.5},
        {"hidden_act": "quick_gelu"},
        {"attention_bias": False},
        {"quantization_config": {"bits": 4}},
        {"residual_multiplier": 0.2},
        {"model_type": "lama"},
        {"num_hidden_layers": "two"},
        {"hidden_size": 12},
    ],
    ids=lambda lines: "-".join(f"{k}" for k in lines),
)
def test_options_that_fmjax_has_not_are_refused(folder, lines):
    rewrite(folder, **lines)
    line = said(hugging_face.load, folder)
    key = next(iter(lines))
    assert str(folder) in line
    # Some words are ours, and a wrong width is seen by the shapes.
    shown = {"num_hidden_layers": "depth", "hidden_size": "another shape", "model_type": "did you mean 'llama'?"}
    assert shown.get(key, key) in line


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("qwen2", {"max_window_layers": 1}),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}),
        ("qwen3", {"attention_bias": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"is_decoder": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("t5", {"relative_attention_num_buckets": 16}),
        ("t5", {"feed_forward_proj": "gated-tanh"}),
    ],
)
def test_so_are_those_of_other_families(name, lines, tmp_path):
    hugging_face.save(tmp_path, *made(name))
    rewrite(tmp_path, **lines)
    assert next(iter(lines)) in said(hugging_face.describe, tmp_path)


def test_an_option_that_is_switched_off_is_no_trouble(folder):
    before = hugging_face.describe(folder)
    rewrite(folder, some_new_feature=False, bos_token_id=5, use_cache=False)
    assert hugging_face.describe(folder) == before


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_a_pickle_is_refused_and_says_how_to_convert(folder, pickle):
    (folder / tensors.ONE).rename(folder / pickle)
    line = said(hugging_face.load, folder)
    assert pickle in line
    assert f"LlamaForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(" in line


def test_damaged_and_missing_files_are_named(folder, tmp_path):
    path = folder / tensors.ONE
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not safetensors at all, but long enough"):
        path.write_bytes(damaged)
        assert "damaged" in said(hugging_face.load, folder)
    path.unlink()
    assert "holds no weights" in said(hugging_face.load, folder)
    (folder / tensors.INDEX).write_text("[]")
    assert "weight_map" in said(hugging_face.load, folder)
    (folder / tensors.INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "not there: model-1.safetensors" in said(hugging_face.load, folder)
    (folder / "config.json").write_text("{")
    assert "cannot be read" in said(hugging_face.load, folder)
    (folder / "config.json").write_text("{}")
    assert "model_type" in said(hugging_face.load, folder)
    assert not hugging_face.is_folder(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in said(hugging_face.load, folder)
    assert not hugging_face.is_folder(folder)


def test_whole_numbers_are_no_weights(folder):
    held = load_file(folder / tensors.ONE)
    held["model.norm.weight"] = np.ones(16, np.int64)
    save_file(held, folder / tensors.ONE)
    assert "model.norm.weight" in said(hugging_face.load, folder)


def test_what_cannot_be_saved_is_said_before_anything_is_written(folder, tmp_path):
    module, params = made("llama")
    assert "holds something already" in said(hugging_face.save, folder, module, params)
    assert "float32" in said(hugging_face.save, tmp_path / "a", module, params, dtype="float23")
    for size in ("2XB", "0", "-1", "many"):
        assert "no size" in said(hugging_face.save, tmp_path / "a", module, params, shard_size=size)
    del params["final_norm"]
    assert "final_norm/scale" in said(hugging_face.save, tmp_path / "a", module, params)
    assert not hugging_face.is_folder(tmp_path / "a")


def test_neither_a_folder_nor_a_model_of_the_hub(tmp_path):
    assert "there is no folder" in said(hugging_face.load, tmp_path / "nothing")
    assert "is a file" in said(hugging_face.load, __file__)
    line = said(hugging_face.load, "somebody/nothing")
    assert "there is no folder somebody/nothing" in line
    assert "offline" in line


def test_a_cached_model_of_the_hub_loads_offline(folder, tmp_path, monkeypatch):
    """The layout of the hub's cache, as a download leaves it."""
    home = tmp_path / "cache" / "models--somebody--small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / "abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download",
        lambda name, **more: huggingface_hub._snapshot_download.snapshot_download(
            name, cache_dir=tmp_path / "cache", **more
        ),
    )  # fmt: skip
    module, _ = hugging_face.load("somebody/small")
    assert hugging_face.family_of(module).name == "llama"


def test_without_the_library_the_extra_is_named(monkeypatch):
    def missing(module, name):
        raise UserError(f"{module} is needed here and is not installed: pip install 'fmjax[{name}]'")

    monkeypatch.setattr(hub, "extra", missing)
    assert "fmjax[hub]" in said(hugging_face.describe, "somebody/small")
