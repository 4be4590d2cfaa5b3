"""Lines of a config.json and the fields of a model that they are, both ways; what nobody reads is refused."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError

Json = dict[str, Any]

# Lines that say nothing about the function from tokens to logits: bookkeeping, training, and how to sample.
_NEUTRAL = """
    architectures model_type transformers_version torch_dtype dtype _name_or_path name_or_path auto_map use_cache
    initializer_range initializer_factor bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id id2label label2id num_labels problem_type
    finetuning_task task_specific_params tokenizer_class prefix gradient_checkpointing model_max_length
    output_attentions output_hidden_states return_dict return_dict_in_generate output_scores torchscript
    classifier_dropout chunk_size_feed_forward directionality pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout pretraining_tp cache_implementation attn_implementation
    _attn_implementation _attn_implementation_autoset use_bfloat16 tf_legacy_loss max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens remove_invalid_values
"""
NEUTRAL = frozenset(_NEUTRAL.split())
# What of a source's config.json is worth keeping in a new one, since fmjax has no field for it.
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "sep_token_id", "initializer_range",
        "id2label", "label2id", "task_specific_params")  # fmt: skip


class Option(NamedTuple):
    """Some lines of a config.json, and the fields that they become.

    Attributes:
      keys: the lines that it reads.
      read: (all lines, the checkpoint's tensors) -> fields.
      write: all fields -> lines.
    """

    keys: tuple[str, ...]
    read: Callable[[Json, Any], dict[str, Any]]
    write: Callable[[Mapping[str, Any]], Json]


def option(key: str, field: str, default: Any = None, values: Mapping[Any, Any] | None = None) -> Option:
    """One line that is one field.

    Args:
      default: the value of a line that is not there.
      values: their words and ours; several of theirs may be one of ours, and the first is written.
    """

    def read(config: Json, _: Any) -> dict[str, Any]:
        value = config.get(key, default)
        if values is None:
            return {field: value}
        if value not in values:
            raise ConfigError(f"{key}={value!r} is none that fmjax has; {did_you_mean(value, values)}")
        return {field: values[value]}

    def write(fields: Mapping[str, Any]) -> Json:
        if values is None:
            return {key: fields[field]}
        return next(({key: theirs} for theirs, ours in values.items() if ours == fields[field]), {})

    return Option((key,), read, write)


def fixed(**values: Any) -> Option:
    """Lines that must hold these values, or not be there."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        for key, value in values.items():
            if config.get(key) not in (None, value):
                raise ConfigError(f"{key}={config[key]!r} is not supported: only {value!r} is")
        return {}

    return Option(tuple(values), read, lambda _: {})


def ignored(*keys: str) -> Option:
    """Lines of this family that say nothing about the function."""
    return Option(keys, lambda *_: {}, lambda _: {})


def read_options(options: tuple[Option, ...], config: Json, tensors: Any) -> dict[str, Any]:
    """All fields.

    Raises:
      ConfigError: a value that fmjax has not, or a line that nobody reads and that is not switched off.
    """
    known, fields = {key for one in options for key in one.keys}, {}
    for key, value in config.items():
        if key not in known | NEUTRAL and value not in (None, False, "", [], {}):
            raise ConfigError(
                f"the option {key}={value!r} is not known here and may change what the model computes; if it does not, "
                "take it out of the file"
            )
    for one in options:
        fields |= one.read(config, tensors)
    return fields


def write_options(options: tuple[Option, ...], fields: Mapping[str, Any]) -> Json:
    """All lines."""
    config: Json = {}
    for one in options:
        config |= one.write(fields)
    return config


ACTIVATIONS = {
    "gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu",
    "silu": "silu", "swish": "silu", "tanh": "tanh", "relu2": "relu2",
}  # fmt: skip
TIMM_ACTIVATIONS = {
    "gelu": "gelu_exact", "gelu_tanh": "gelu", "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip
GATES = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu", "relu": "reglu"}


def grouped(heads: str = "num_attention_heads", default: int | None = None) -> Option:
    """`num_key_value_heads`; as many as there are query heads is None."""
    key = "num_key_value_heads"

    def read(config: Json, _: Any) -> dict[str, Any]:
        groups = config.get(key, default)
        return {"groups": None if groups == config.get(heads, groups) else groups}

    return Option((key,), read, lambda fields: {key: fields["groups"] or fields["heads"]})


def inner_size(key: str, default: int) -> Option:
    """Numbers of the feed-forward's middle; four times the width is None, and transformers wants it said."""
    return Option(
        (key,), lambda config, _: {"inner": config.get(key, default)},
        lambda fields: {key: fields["inner"] or 4 * fields["width"]},
    )  # fmt: skip


def head_size(default: int | None = None) -> Option:
    """`head_dim`; the width divided by the heads is None."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        size = config.get("head_dim", default)
        usual = size is not None and size * config.get("num_attention_heads", 0) == config.get("hidden_size")
        return {"head_size": None if usual else size}

    return Option(("head_dim",), read, lambda f: {"head_dim": f["head_size"] or f["width"] // f["heads"]})


def stages(key: str, field: str, count: int = 4) -> Option:
    """A line of a number for each stage, which are always as many: another model's is not written."""

    def write(fields: Mapping[str, Any]) -> Json:
        return {key: list(fields[field])} if len(fields[field]) == count else {}

    return Option((key,), lambda config, _: {field: tuple(config[key])}, write)
