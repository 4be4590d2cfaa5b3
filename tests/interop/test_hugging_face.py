"""Any model that a family can hold comes back as it was; one that none can hold is refused, and why is said."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import MODELS, SIZE, equal, made, rewrite, weights

from fmjax.core.config import build, call
from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.core.trees import flatten
from fmjax.interop import hugging_face, layouts, tensors
from fmjax.interop.family import shapes
from fmjax.models import bert, convnet, gpt2, llama, rnn, t5, transformer


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_fields_come_back_bit_for_bit(name, tmp_path):
    module, params = made(name)
    assert hugging_face.family_of(module).name == name.split()[0]
    hugging_face.save(tmp_path, module, params)
    assert hugging_face.is_folder(tmp_path)
    back, read = hugging_face.load(tmp_path)
    assert hugging_face.family_of(back).differs(module) == {}
    assert shapes(back) == shapes(module)
    assert equal(read, params)


@pytest.mark.parametrize("name", MODELS)
def test_shards_hold_the_same_and_bfloat16_is_rounded_once(name, tmp_path):
    module, params = made(name)
    total = hugging_face.save(tmp_path / "shards", module, params, shard_size="2KB")
    index = json.loads((tmp_path / "shards" / tensors.INDEX).read_text())
    assert index["metadata"]["total_size"] == total
    files = {path.name for path in (tmp_path / "shards").glob("*.safetensors")}
    assert files == set(index["weight_map"].values())
    assert len(files) > 3
    assert equal(hugging_face.load(tmp_path / "shards")[1], params)

    assert hugging_face.save(tmp_path / "half", module, params, dtype="bfloat16") == total // 2
    read = hugging_face.load(tmp_path / "half")[1]
    rounded = {a: w.astype(ml_dtypes.bfloat16).astype(np.float32) for a, w in flatten(params).items()}
    assert all(np.array_equal(w, rounded[a]) for a, w in flatten(read).items())


def test_float16_is_read(tmp_path):
    module, params = made("qwen3")
    hugging_face.save(tmp_path, module, params)
    from safetensors.numpy import load_file, save_file

    half = {k: v.astype(np.float16) for k, v in load_file(tmp_path / tensors.ONE).items()}
    save_file(half, tmp_path / tensors.ONE)
    read = flatten(hugging_face.load(tmp_path)[1])
    assert all(np.array_equal(read[a], w.astype(np.float16).astype(np.float32)) for a, w in flatten(params).items())


@given(
    st.sampled_from([layouts.SAME, layouts.FLAT, layouts.matrix(1), layouts.matrix(2), layouts.straight(1),
                     layouts.straight(2)]),
    st.lists(st.integers(1, 4), min_size=3, max_size=3).map(tuple),
)  # fmt: skip
def test_layouts_are_reversible(layout, shape):
    ours = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    theirs = layout.write(ours)
    assert theirs.shape == layout.shape(shape)
    np.testing.assert_array_equal(layout.read(theirs, shape), ours)


def test_a_kernel_of_heads_is_torchs_linear(tmp_path):
    """The product must be the same, not only the numbers."""
    kernel, x = np.random.default_rng(0).standard_normal((5, 3, 2)), np.arange(5.0)
    torchs = layouts.INTO.write(kernel)
    np.testing.assert_allclose(torchs @ x, np.einsum("d,dhk->hk", x, kernel).reshape(-1))
    out, y = np.random.default_rng(1).standard_normal((3, 2, 5)), np.random.default_rng(2).standard_normal((3, 2))
    np.testing.assert_allclose(layouts.OUT_OF_HEADS.write(out) @ y.reshape(-1), np.einsum("hk,hkd->d", y, out))


REFUSED = {
    "ngrams": call(gpt2.gpt2, **SIZE, ngrams=(2,)),
    "experts": call(llama.llama, **SIZE, experts=4),
    "position": call(transformer.Decoder, **SIZE, position="alibi"),
    "rope_scaling": call(llama.llama, **SIZE, rope_scaling="ntk", rope_factor=2.0),
    "norm": call(llama.llama, **SIZE, norm="layer"),
    "logit_softcap": call(llama.llama, **SIZE, logit_softcap=30.0),
    "output": call(bert.bert_base, **SIZE, output="tied"),
    "logit_scale": call(t5.t5_small, **SIZE, logit_scale=0.3),
    "window": call(gpt2.gpt2, **SIZE, window=8),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_model_that_no_family_holds_is_refused_by_its_option(field, tmp_path):
    module = build(REFUSED[field])
    with pytest.raises(ConfigError, match=rf"no family.*\b{field}="):
        hugging_face.save(tmp_path / "out", module, {})
    assert not (tmp_path / "out").exists()


def test_models_of_another_kind_are_refused():
    for node in (call(convnet.ConvNet, classes=3), call(rnn.LanguageModel, vocab=9)):
        with pytest.raises(ConfigError, match="another kind"):
            hugging_face.family_of(build(node))


def test_what_only_training_sees_may_differ():
    module = build(call(llama.llama, **SIZE, dropout=0.1, drop_path=0.2, remat="dots", dtype="bfloat16", scan=False))
    assert hugging_face.family_of(module).name == "llama"


def test_a_size_that_our_model_leaves_open_is_written_out(tmp_path):
    size = {k: v for k, v in SIZE.items() if k != "inner"}
    lines = {"llama": "intermediate_size", "bert": "intermediate_size", "t5": "d_ff"}
    for name, node in (
        ("llama", call(llama.llama, **size)), ("bert", call(bert.bert_base, **size, length=16)),
        ("t5", call(t5.t5_small, **size, head_size=8, logit_scale=16**-0.5)),
    ):  # fmt: skip
        with node.ignore_type():
            node.inner = None
        hugging_face.save(tmp_path / name, build(node), weights(build(node)))
        assert json.loads((tmp_path / name / "config.json").read_text())[lines[name]] == 64
        assert hugging_face.describe(tmp_path / name).inner == 64


def test_heads_are_those_that_the_weights_have(tmp_path):
    full, params = made("bert")
    hugging_face.save(tmp_path / "full", full, params)
    assert (full.output, full.pairs) == ("masked", True)
    bare = build(call(bert.minilm_l6, **SIZE, length=16))
    params = weights(bare) | {"pair_head": {"kernel": np.zeros((16, 2)), "bias": np.zeros(2)}}
    hugging_face.save(tmp_path / "bare", bare, params)
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    assert config["architectures"] == ["BertModel"]
    names = list(tensors.Tensors(tmp_path / "bare"))
    assert not [n for n in names if n.startswith(("bert.", "cls."))]
    back, read = hugging_face.load(tmp_path / "bare")
    assert (back.output, back.pairs) == ("none", True)
    assert not read["pair_head"]["kernel"].any()
    masked = build(call(bert.bert_base, **SIZE, length=16, pairs=False))
    hugging_face.save(tmp_path / "masked", masked, weights(masked))
    assert json.loads((tmp_path / "masked" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert hugging_face.describe(tmp_path / "masked").pairs is False


def test_roberta_has_no_place_for_a_head_of_pairs(tmp_path):
    module = build(call(bert.roberta_base, **SIZE, length=16, pairs=True))
    with pytest.raises(ConfigError, match="no head for pairs"):
        hugging_face.save(tmp_path, module, weights(module))


def test_older_names_prefixes_and_repeated_tensors_are_read(tmp_path):
    from safetensors.numpy import load_file, save_file

    module, params = made("bert")
    hugging_face.save(tmp_path, module, params)
    held = load_file(tmp_path / tensors.ONE)
    old = {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in held.items()}
    old["cls.predictions.decoder.weight"] = held["bert.embeddings.word_embeddings.weight"]
    old["bert.embeddings.position_ids"] = np.arange(16)[None]
    save_file(old, tmp_path / tensors.ONE)
    assert equal(hugging_face.load(tmp_path)[1], params)

    module, params = made("gpt2")
    hugging_face.save(tmp_path / "gpt2", module, params)
    held = load_file(tmp_path / "gpt2" / tensors.ONE)
    bare = {k.removeprefix("transformer."): v for k, v in held.items()}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 16, 16), np.float32), "lm_head.weight": bare["wte.weight"]}
    save_file(bare, tmp_path / "gpt2" / tensors.ONE)
    assert equal(hugging_face.load(tmp_path / "gpt2")[1], params)
    bare["lm_head.weight"] = bare["wte.weight"] + 1
    save_file(bare, tmp_path / "gpt2" / tensors.ONE)
    with pytest.raises(CheckpointError, match=r"lm_head.weight .* differs from wte.weight"):
        hugging_face.load(tmp_path / "gpt2")


def test_both_forms_of_rotary_lines_are_read(tmp_path):
    module, params = made("qwen2")
    hugging_face.save(tmp_path, module, params)
    before = hugging_face.describe(tmp_path)
    assert before.rope_scaling == "yarn"
    config = json.loads((tmp_path / "config.json").read_text())
    new = {**config["rope_scaling"], "rope_theta": config["rope_theta"]}
    rewrite(tmp_path, rope_scaling=None, rope_theta=None, rope_parameters=new)
    assert hugging_face.describe(tmp_path) == before


def test_lines_without_a_field_are_kept(tmp_path):
    module, params = made("t5")
    hugging_face.save(tmp_path, module, params, kept={"eos_token_id": 7, "decoder_start_token_id": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["eos_token_id"], config["decoder_start_token_id"], config["pad_token_id"]) == (7, 3, 0)
    assert hugging_face.kept(tmp_path)["eos_token_id"] == 7
    with pytest.raises(ConfigError, match="d_model"):
        hugging_face.save(tmp_path / "b", module, params, kept={"d_model": 7})
