"""Gemma 1, 2 and 3 (text): Llama's table of weights, with other norms from the second on."""

from collections.abc import Mapping
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.families.llama import ATTENTION, ENDS, FORWARD, NORMS, family, sizes
from fmjax.interop.layouts import Row
from fmjax.interop.options import Json, Option, fixed, grouped, head_size, ignored, option
from fmjax.interop.rotary import rotary_of_two

SANDWICH = (
    Row("layers.{i}.input_layernorm.weight", "block_{i}/attention_norm/scale"),
    Row("layers.{i}.post_attention_layernorm.weight", "block_{i}/attention_post_norm/scale"),
    Row("layers.{i}.pre_feedforward_layernorm.weight", "block_{i}/feed_forward_norm/scale"),
    Row("layers.{i}.post_feedforward_layernorm.weight", "block_{i}/feed_forward_post_norm/scale"),
)
TANH = {"gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
KINDS = {"sliding_attention", "full_attention"}


def embed_scale() -> Option:
    """No line: it is the root of the width."""
    return Option((), lambda config, _: {"embed_scale": config.get("hidden_size", 3072) ** 0.5}, lambda _: {})


def attention_scale() -> Option:
    """`query_pre_attn_scalar`, a whole number."""
    key = "query_pre_attn_scalar"

    def write(fields: Mapping[str, Any]) -> Json:
        scale = fields["attention_scale"] or (fields["head_size"] or fields["width"] // fields["heads"]) ** -0.5
        return {key: round(scale**-2)}

    return Option((key,), lambda config, _: {"attention_scale": config.get(key, 256) ** -0.5}, write)


def windows(every: int, window: int = 4096) -> Option:
    """A window in all blocks but every n-th: `layer_types`, or `sliding_window_pattern` of older files.

    Args:
      every: the n of a file that says neither.
    """

    def read(config: Json, _: Any) -> dict[str, Any]:
        n, depth = config.get("sliding_window_pattern") or every, config.get("num_hidden_layers", 26)
        usual = ["full_attention" if (i + 1) % n == 0 else "sliding_attention" for i in range(depth)]
        kinds = config.get("layer_types") or usual
        first = kinds.index("full_attention") + 1 if "full_attention" in kinds else 0
        regular = [bool(first) and (i + 1) % first == 0 for i in range(depth)]
        if not set(kinds) <= KINDS or [kind == "full_attention" for kind in kinds] != regular:
            raise ConfigError("layer_types is not supported: only a full_attention every so many blocks is")
        near = None if set(kinds) == {"full_attention"} else config.get("sliding_window", window)
        return {"window": near, "full_every": 0 if near is None else first}

    def write(fields: Mapping[str, Any]) -> Json:
        near, n = fields["window"], fields["full_every"]
        full = [near is None or (n > 0 and (i + 1) % n == 0) for i in range(fields["depth"])]
        kinds = ["full_attention" if whole else "sliding_attention" for whole in full]
        return {"sliding_window": window if near is None else near, "layer_types": kinds}

    return Option(("sliding_window", "sliding_window_pattern", "_sliding_window_pattern", "layer_types"), read, write)


COMMON = (
    option("tie_word_embeddings", "tied", True), embed_scale(), fixed(attention_bias=False),
    fixed(use_bidirectional_attention=False),
)  # fmt: skip
GEMMA = family(
    "gemma", "GemmaForCausalLM", *sizes(256000, 3072, 24576, 28, 16, 8192), grouped(default=16), head_size(256),
    *COMMON,
    # The first files say gelu and mean its tanh form.
    option("hidden_act", "feed_forward", "gelu_pytorch_tanh", {**TANH, "gelu": "geglu"}),
    fixed(hidden_activation="gelu_pytorch_tanh"), rows=(*ENDS, *NORMS, *ATTENTION, *FORWARD), norm="rms_one",
)  # fmt: skip
GEMMA2 = family(
    "gemma2", "Gemma2ForCausalLM", *sizes(256000, 2304, 9216, 26, 8, 8192), grouped(default=4), head_size(256),
    *COMMON,
    option("hidden_activation", "feed_forward", "gelu_pytorch_tanh", TANH), ignored("hidden_act"),
    option("attn_logit_softcapping", "softcap", 50.0), option("final_logit_softcapping", "logit_softcap", 30.0),
    attention_scale(), windows(2), rows=(*ENDS, *SANDWICH, *ATTENTION, *FORWARD), norm="rms_one",
    norm_place="sandwich",
)  # fmt: skip
GEMMA3 = family(
    "gemma3_text", "Gemma3ForCausalLM", *sizes(262208, 2304, 9216, 26, 8, 131072), grouped(default=4), head_size(256),
    *COMMON, option("hidden_activation", "feed_forward", "gelu_pytorch_tanh", TANH), ignored("hidden_act"),
    option("attn_logit_softcapping", "softcap"), option("final_logit_softcapping", "logit_softcap"),
    attention_scale(), windows(6), rows=(*ENDS, *SANDWICH, *ATTENTION, *FORWARD), positions=rotary_of_two(),
    norm="rms_one", norm_place="sandwich", qk_norm=True,
)  # fmt: skip
