"""T5: two stacks; version 1.0 has ReLU and scales its tied logits, 1.1 has a gate and output weights of its own."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fmjax.interop.family import Absent, Family
from fmjax.interop.layouts import INTO, OUT_OF_HEADS, Row
from fmjax.interop.options import Json, Option, fixed, ignored, inner_size, option
from fmjax.models.transformer import EncoderDecoder

QKV = (("q", "query"), ("k", "key"), ("v", "value"))
KINDS = {
    "relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu", "gated-relu": "reglu", "gelu_new": "gelu",
    "gelu": "gelu_exact", "silu": "silu",
}  # fmt: skip


def attention(theirs: str, name: str, ours: str) -> tuple[Row, ...]:
    """Attention `name` and its norm, which stands beside it in the same layer."""
    return (
        *(Row(f"{theirs}.{name}.{a}.weight", f"{ours}/{b}/kernel", INTO) for a, b in QKV),
        Row(f"{theirs}.{name}.o.weight", f"{ours}/out/kernel", OUT_OF_HEADS),
        Row(f"{theirs}.layer_norm.weight", f"{ours}_norm/scale"),
    )


def stack(side: str, cross: bool) -> tuple[Row, ...]:
    """One side: its blocks, last norm and biases of distances."""
    layer, block = f"{side}.block.{{i}}.layer", f"{side}/block_{{i}}"
    forward, gate = f"{layer}.{2 if cross else 1}", f"{block}/feed_forward/gate/kernel"
    over = attention(f"{layer}.1", "EncDecAttention", f"{block}/cross_attention") if cross else ()
    return (
        Row(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}/relative_bias/embedding"),
        *attention(f"{layer}.0", "SelfAttention", f"{block}/attention"),
        *over,
        Row(f"{forward}.DenseReluDense.wi.weight", f"{block}/feed_forward/up/kernel", INTO, unless=gate),
        Row(f"{forward}.DenseReluDense.wi_0.weight", gate, INTO),
        # wi_1 is the other half of a gated layer: there when the gate is.
        Row(f"{forward}.DenseReluDense.wi_1.weight", f"{block}/feed_forward/up/kernel", INTO, only=gate),
        Row(f"{forward}.DenseReluDense.wo.weight", f"{block}/feed_forward/down/kernel", INTO),
        Row(f"{forward}.layer_norm.weight", f"{block}/feed_forward_norm/scale"),
        Row(f"{side}.final_layer_norm.weight", f"{side}/final_norm/scale"),
    )


def depths() -> Option:
    def read(config: Json, _: Any) -> dict[str, Any]:
        encoder = config.get("num_layers", 6)
        decoder = config.get("num_decoder_layers") or encoder
        return {"depth": decoder, "encoder_depth": None if encoder == decoder else encoder}

    def write(fields: Mapping[str, Any]) -> Json:
        return {"num_layers": fields["encoder_depth"] or fields["depth"], "num_decoder_layers": fields["depth"]}

    return Option(("num_layers", "num_decoder_layers"), read, write)


def output() -> Option:
    """Tied output weights, and logits divided by the root of the width.

    `tie_word_embeddings: false` says in these files that logits are not scaled; whether weights are tied is seen by the
    tensors. Newer files say `scale_decoder_outputs` too.
    """

    def read(config: Json, tensors: Any) -> dict[str, Any]:
        scaled = config.get("scale_decoder_outputs")
        scaled = config.get("tie_word_embeddings") is not False if scaled is None else scaled
        if isinstance(tensors, Absent):
            tied = tensors.fields["tied"]
        else:
            tied = "lm_head.weight" not in tensors or tensors.repeats("lm_head.weight", "shared.weight")
        return {"tied": tied, "logit_scale": config.get("d_model", 512) ** -0.5 if scaled else 1.0}

    def write(fields: Mapping[str, Any]) -> Json:
        scaled = fields["logit_scale"] != 1.0
        return {"tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}

    return Option(("tie_word_embeddings", "scale_decoder_outputs"), read, write)


def head_size() -> Option:
    def read(config: Json, _: Any) -> dict[str, Any]:
        return {"head_size": config.get("d_kv", 64)}

    return Option(("d_kv",), read, lambda f: {"d_kv": f["head_size"] or f["width"] // f["heads"]})


def forward() -> Option:
    """`feed_forward_proj`; plain gelu in a gate means its tanh form."""
    line = option("feed_forward_proj", "feed_forward", "relu", KINDS)
    return line._replace(keys=("feed_forward_proj", "dense_act_fn", "is_gated_act"))


OPTIONS = (
    option("vocab_size", "vocab", 32128),
    option("d_model", "width", 512),
    inner_size("d_ff", 2048),
    option("num_heads", "heads", 8),
    option("layer_norm_epsilon", "eps", 1e-6),
    option("dropout_rate", "dropout", 0.1),
    depths(),
    head_size(),
    forward(),
    output(),
    fixed(relative_attention_num_buckets=32, relative_attention_max_distance=128, is_decoder=False),
    ignored("n_positions", "output_past", "is_encoder_decoder"),
)
ROWS = (
    Row("shared.weight", "embed/embedding"),
    *stack("encoder", cross=False),
    *stack("decoder", cross=True),
    Row("lm_head.weight", "head/kernel", INTO),
)
T5 = Family(
    "t5", partial(EncoderDecoder, position="relative", norm="rms", attention_scale=1.0), ROWS, OPTIONS,
    lambda fields: "T5ForConditionalGeneration", repeats={"lm_head.weight": "shared.weight"},
    aliases={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    defaults={"is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    skips=(r"EncDecAttention\.relative_attention_bias",),  # of the first releases; never used
)  # fmt: skip
