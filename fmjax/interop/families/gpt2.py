"""GPT-2: kernels lie as (in, out), and queries, keys and values lie side by side in one."""

from functools import partial

from fmjax.interop.family import Family
from fmjax.interop.layouts import FLAT, INTO, Row, straight
from fmjax.interop.options import ACTIVATIONS, fixed, ignored, option
from fmjax.models.transformer import Decoder

QKV = ("query", "key", "value")
ROWS = (
    Row("wte.weight", "embed/embedding"),
    Row("wpe.weight", "position_embed/embedding"),
    Row("h.{i}.ln_1.weight", "block_{i}/attention_norm/scale"),
    Row("h.{i}.ln_1.bias", "block_{i}/attention_norm/bias"),
    Row("h.{i}.attn.c_attn.weight", tuple(f"block_{{i}}/attention/{x}/kernel" for x in QKV), straight(1)),
    Row("h.{i}.attn.c_attn.bias", tuple(f"block_{{i}}/attention/{x}/bias" for x in QKV), FLAT),
    Row("h.{i}.attn.c_proj.weight", "block_{i}/attention/out/kernel", straight(2)),
    Row("h.{i}.attn.c_proj.bias", "block_{i}/attention/out/bias"),
    Row("h.{i}.ln_2.weight", "block_{i}/feed_forward_norm/scale"),
    Row("h.{i}.ln_2.bias", "block_{i}/feed_forward_norm/bias"),
    Row("h.{i}.mlp.c_fc.weight", "block_{i}/feed_forward/up/kernel", straight(1)),
    Row("h.{i}.mlp.c_fc.bias", "block_{i}/feed_forward/up/bias"),
    Row("h.{i}.mlp.c_proj.weight", "block_{i}/feed_forward/down/kernel", straight(1)),
    Row("h.{i}.mlp.c_proj.bias", "block_{i}/feed_forward/down/bias"),
    Row("ln_f.weight", "final_norm/scale"),
    Row("ln_f.bias", "final_norm/bias"),
    Row("lm_head.weight", "head/kernel", INTO),
)
OPTIONS = (
    option("vocab_size", "vocab", 50257),
    option("n_embd", "width", 768),
    option("n_layer", "depth", 12),
    option("n_head", "heads", 12),
    option("n_positions", "length", 1024),
    option("n_inner", "inner"),
    option("activation_function", "feed_forward", "gelu_new", {"gelu_new": "gelu", **ACTIVATIONS}),
    option("layer_norm_epsilon", "eps", 1e-5),
    option("resid_pdrop", "dropout", 0.1),
    option("attn_pdrop", "attention_dropout", 0.1),
    option("tie_word_embeddings", "tied", True),
    ignored("n_ctx", "embd_pdrop"),
    fixed(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
    ignored("reorder_and_upcast_attn"),  # the order of roundings only
)
GPT2 = Family(
    "gpt2", partial(Decoder, position="learned", norm="layer", use_bias=True), ROWS, OPTIONS,
    lambda fields: "GPT2LMHeadModel", prefix="transformer.", repeats={"lm_head.weight": "wte.weight"},
    skips=(r"\.attn\.(masked_)?bias$",),
)  # fmt: skip
