"""Published architectures have their published number of parameters."""

import jax
import jax.numpy as jnp
import pytest

from fmjax.core.config import build, call
from fmjax.core.trees import count
from fmjax.models import bert, gpt2, llama, t5

TOKENS = jnp.zeros((1, 2), jnp.int32)
PUBLISHED = {
    "gpt2.gpt2": 124_439_808,
    "gpt2.gpt2_medium": 354_823_168,
    "gpt2.gpt2_large": 774_030_080,
    "gpt2.gpt2_xl": 1_557_611_200,
    "llama.llama2_7b": 6_738_415_616,
    "llama.llama2_13b": 13_015_864_320,
    "llama.llama3_8b": 8_030_261_248,
    "llama.llama32_1b": 1_235_814_400,
    "llama.tinyllama_1b": 1_100_048_384,
    "llama.mistral_7b": 7_241_732_096,
    "llama.qwen2_05b": 494_032_768,
    "llama.qwen2_7b": 7_615_616_512,
    "llama.qwen3_06b": 596_049_920,
    "bert.bert_base": 110_106_428,
    "bert.bert_large": 336_226_108,
    "bert.roberta_base": 124_697_433,
    "bert.roberta_large": 355_412_057,
    "t5.t5_small": 60_506_624,
    "t5.t5_base": 222_903_552,
    "t5.t5_large": 737_668_096,
    "t5.t5_v11_small": 76_961_152,
    "t5.t5_v11_base": 247_577_856,
    "t5.t5_v11_large": 783_150_080,
}
FILES = {"gpt2": gpt2, "llama": llama, "bert": bert, "t5": t5}


def preset(name):
    file, _, variant = name.partition(".")
    return getattr(FILES[file], variant)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
    """Counted with one block and with two: the others are like the second."""
    inputs = (TOKENS, TOKENS) if name.startswith("t5") else (TOKENS,)
    one, two = (
        count(jax.eval_shape(preset(name)(depth=depth).init, jax.random.key(0), *inputs)["params"]) for depth in (1, 2)
    )
    depth = preset(name)().depth
    assert one + (depth - 1) * (two - one) == PUBLISHED[name]


def test_a_config_can_name_a_preset_and_override_all_of_it():
    node = call(llama.qwen3_06b)
    assert node.call == "fmjax.models.transformer:Decoder"
    assert (node.width, node.qk_norm, node.window) == (1024, True, None)
    node.depth = 2
    assert build(node).depth == 2
