"""Llama, Mistral, Qwen2 and Qwen3: one table of weights, of which each has a part."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.family import Family
from fmjax.interop.layouts import FLAT, INTO, OUT_OF_HEADS, Row
from fmjax.interop.options import GATES, Json, Option, fixed, grouped, head_size, ignored, inner_size, option
from fmjax.interop.rotary import rotary
from fmjax.models.transformer import Decoder

QKV = (("q", "query"), ("k", "key"), ("v", "value"))
ATTENTION = (
    *(Row(f"layers.{{i}}.self_attn.{a}_proj.weight", f"block_{{i}}/attention/{b}/kernel", INTO) for a, b in QKV),
    *(Row(f"layers.{{i}}.self_attn.{a}_proj.bias", f"block_{{i}}/attention/{b}/bias", FLAT) for a, b in QKV),
    Row("layers.{i}.self_attn.o_proj.weight", "block_{i}/attention/out/kernel", OUT_OF_HEADS),
    Row("layers.{i}.self_attn.o_proj.bias", "block_{i}/attention/out/bias"),
    Row("layers.{i}.self_attn.q_norm.weight", "block_{i}/attention/query_norm/scale"),
    Row("layers.{i}.self_attn.k_norm.weight", "block_{i}/attention/key_norm/scale"),
)
PARTS = ("gate", "up", "down")
FORWARD = (
    *(Row(f"layers.{{i}}.mlp.{x}_proj.weight", f"block_{{i}}/feed_forward/{x}/kernel", INTO) for x in PARTS),
    *(Row(f"layers.{{i}}.mlp.{x}_proj.bias", f"block_{{i}}/feed_forward/{x}/bias") for x in PARTS),
)
ENDS = (
    Row("embed_tokens.weight", "embed/embedding"),
    Row("norm.weight", "final_norm/scale"),
    Row("lm_head.weight", "head/kernel", INTO),
)
NORMS = (
    Row("layers.{i}.input_layernorm.weight", "block_{i}/attention_norm/scale"),
    Row("layers.{i}.post_attention_layernorm.weight", "block_{i}/feed_forward_norm/scale"),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *FORWARD)
REPEATS = {"lm_head.weight": "embed_tokens.weight"}
ROTARY = rotary()
SKIPS = (r"rotary_emb\.inv_freq$",)


def sizes(vocab: int, width: int, inner: int, depth: int, heads: int, length: int) -> tuple[Option, ...]:
    """The lines that all have, with the values that a file may leave out."""
    return (
        option("vocab_size", "vocab", vocab),
        option("hidden_size", "width", width),
        inner_size("intermediate_size", inner),
        option("num_hidden_layers", "depth", depth),
        option("num_attention_heads", "heads", heads),
        option("max_position_embeddings", "length", length),
        option("rms_norm_eps", "eps", 1e-6),
        option("attention_dropout", "attention_dropout", 0.0),
    )


def biases() -> Option:
    """Llama's `attention_bias` and `mlp_bias`, which go together here."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        attention, forward = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
        if attention != forward:
            raise ConfigError(
                f"attention_bias={attention} with mlp_bias={forward} is not supported: only both or neither"
            )
        return {"use_bias": attention}

    def write(fields: Mapping[str, Any]) -> Json:
        return dict.fromkeys(("attention_bias", "mlp_bias"), fields["use_bias"])

    return Option(("attention_bias", "mlp_bias"), read, write)


def late_window() -> Option:
    """Qwen's windows: in all blocks from `max_window_layers` on, if they are switched on at all."""
    keys = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")

    def read(config: Json, _: Any) -> dict[str, Any]:
        depth, kinds = config.get("num_hidden_layers", 32), config.get("layer_types")
        window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
        first = config.get("max_window_layers", 28)
        if kinds is None:
            kinds = ["full_attention" if window is None or i < first else "sliding_attention" for i in range(depth)]
        if len(set(kinds)) > 1 or not set(kinds) <= {"full_attention", "sliding_attention"}:
            raise ConfigError(
                f"blocks with and without a window (max_window_layers={first}, layer_types) are not supported in this "
                "family: only all or none"
            )
        if "sliding_attention" in kinds and window is None:
            raise ConfigError("layer_types has sliding_attention, and use_sliding_window is not on")
        return {"window": window if "sliding_attention" in kinds else None}

    def write(fields: Mapping[str, Any]) -> Json:
        on = fields["window"] is not None
        return {"use_sliding_window": on, "sliding_window": fields["window"]} | ({"max_window_layers": 0} if on else {})

    return Option(keys, read, write)


def family(
    name: str, architecture: str, *options: Option, rows: tuple[Row, ...] = ROWS, positions: Option = ROTARY,
    **more: Any,
) -> Family:  # fmt: skip
    """One of those with Llama's names; `more` are fields that all its models have."""
    model = partial(Decoder, **{"position": "rotary", "norm": "rms", **more})
    return Family(
        name, model, rows, (*options, positions), lambda fields: architecture, prefix="model.", repeats=REPEATS,
        skips=SKIPS,
    )  # fmt: skip


COMMON = (option("tie_word_embeddings", "tied", False), option("hidden_act", "feed_forward", "silu", GATES))
LLAMA = family(
    "llama", "LlamaForCausalLM", *sizes(32000, 4096, 11008, 32, 32, 2048), grouped(), head_size(), biases(), *COMMON,
)  # fmt: skip
MISTRAL = family(
    "mistral", "MistralForCausalLM", *sizes(32000, 4096, 14336, 32, 32, 131072), grouped(default=8), head_size(),
    *COMMON, option("sliding_window", "window", 4096),
)  # fmt: skip
QWEN2 = family(
    "qwen2", "Qwen2ForCausalLM", *sizes(151936, 4096, 22016, 32, 32, 32768), grouped(default=32), head_size(),
    *COMMON, late_window(), ignored("use_mrope"), qkv_bias=True,
)  # fmt: skip
QWEN3 = family(
    "qwen3", "Qwen3ForCausalLM", *sizes(151936, 4096, 22016, 32, 32, 32768), grouped(default=32), head_size(128),
    *COMMON, late_window(), fixed(attention_bias=False), qk_norm=True,
)  # fmt: skip
