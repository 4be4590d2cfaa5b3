"""BERT (MiniLM is one of six blocks) and RoBERTa, with the heads that a checkpoint happens to have."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.family import Absent, Family
from fmjax.interop.layouts import OUT_OF_HEADS, Row, linear, norm
from fmjax.interop.options import ACTIVATIONS, Json, Option, fixed, inner_size, option
from fmjax.models.transformer import Encoder

LAYER, BLOCK = "encoder.layer.{i}.", "block_{i}/"
ROWS = (
    Row("embeddings.word_embeddings.weight", "embed/embedding"),
    Row("embeddings.position_embeddings.weight", "position_embed/embedding"),
    Row("embeddings.token_type_embeddings.weight", "type_embed/embedding"),
    *norm("embeddings.LayerNorm", "embedding_norm"),
    *(row for x in ("query", "key", "value") for row in linear(f"{LAYER}attention.self.{x}", f"{BLOCK}attention/{x}")),
    *linear(LAYER + "attention.output.dense", BLOCK + "attention/out", OUT_OF_HEADS),
    *norm(LAYER + "attention.output.LayerNorm", BLOCK + "attention_norm"),
    *linear(LAYER + "intermediate.dense", BLOCK + "feed_forward/up"),
    *linear(LAYER + "output.dense", BLOCK + "feed_forward/down"),
    *norm(LAYER + "output.LayerNorm", BLOCK + "feed_forward_norm"),
    *linear("pooler.dense", "pooler"),
)
BERT_HEADS = (
    *linear("cls.predictions.transform.dense", "head_dense"),
    *norm("cls.predictions.transform.LayerNorm", "head_norm"),
    Row("cls.predictions.bias", "head_bias"),
    # A pooler may come without the head for pairs.
    *(row._replace(optional=True) for row in linear("cls.seq_relationship", "pair_head")),
)
ROBERTA_HEADS = (
    *linear("lm_head.dense", "head_dense"),
    *norm("lm_head.layer_norm", "head_norm"),
    Row("lm_head.bias", "head_bias"),
)


def heads(masked: str) -> Option:
    """The heads are those whose tensors are there."""

    def read(_: Json, tensors: Any) -> dict[str, Any]:
        if isinstance(tensors, Absent):
            output, pairs = tensors.fields["output"], tensors.fields["pairs"]
            return {"output": "none" if output == "none" else "masked", "pairs": pairs}
        has = any(name.startswith(masked) for name in tensors)
        return {"output": "masked" if has else "none", "pairs": "pooler.dense.weight" in tensors}

    return Option((), read, lambda _: {})


def positions(first: bool) -> Option:
    """The rows of the table of positions; RoBERTa's begin after that of padding."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        start = config.get("pad_token_id", 1) + 1 if first else 0
        return {"length": config.get("max_position_embeddings", 512) - start, "first_position": start}

    def write(fields: Mapping[str, Any]) -> Json:
        lines = {"max_position_embeddings": fields["length"] + fields["first_position"]}
        return lines | ({"pad_token_id": fields["first_position"] - 1} if first else {})

    return Option(("max_position_embeddings",), read, write)


def renamed(name: str) -> str:
    """Names of the first releases, which TensorFlow gave."""
    return (
        name.removesuffix(".gamma") + ".weight"
        if name.endswith("LayerNorm.gamma")
        else (name.removesuffix(".beta") + ".bias" if name.endswith("LayerNorm.beta") else name)
    )


def options(vocab: int, masked: str, first: bool) -> tuple[Option, ...]:
    return (
        option("vocab_size", "vocab", vocab),
        option("hidden_size", "width", 768),
        option("num_hidden_layers", "depth", 12),
        option("num_attention_heads", "heads", 12),
        inner_size("intermediate_size", 3072),
        option("hidden_act", "feed_forward", "gelu", ACTIVATIONS),
        option("layer_norm_eps", "eps", 1e-12),
        option("type_vocab_size", "token_types", 2),
        option("hidden_dropout_prob", "dropout", 0.1),
        option("attention_probs_dropout_prob", "attention_dropout", 0.1),
        positions(first),
        heads(masked),
        fixed(
            position_embedding_type="absolute", is_decoder=False, add_cross_attention=False, tie_word_embeddings=True,
            is_encoder_decoder=False,
        ),
    )  # fmt: skip


def bert_architecture(fields: Mapping[str, Any]) -> str:
    pairs = fields["pairs"] and "pair_head/kernel" not in fields["left_out"]
    if fields["output"] == "masked":
        return "BertForPreTraining" if pairs else "BertForMaskedLM"
    return "BertForNextSentencePrediction" if pairs else "BertModel"


def roberta_architecture(fields: Mapping[str, Any]) -> str:
    if fields["pairs"] and "pair_head/kernel" not in fields["left_out"]:
        raise ConfigError("the roberta family has no head for pairs: this model was trained with pairs=True")
    return "RobertaForMaskedLM" if fields["output"] == "masked" else "RobertaModel"


MODEL = partial(Encoder, position="learned", norm="layer", norm_place="post", use_bias=True, embed_norm=True)
WORDS = "embeddings.word_embeddings.weight"
BERT = Family(
    "bert", MODEL, (*ROWS, *BERT_HEADS), options(30522, "cls.predictions.", False), bert_architecture, bare="BertModel",
    prefix="bert.", heads=("cls.",), rename=renamed, skips=(r"embeddings\.position_ids$",),
    aliases={"cls.predictions.decoder.weight": WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"},
)  # fmt: skip
PAIR = tuple(Row(f"(nothing).{x}", f"pair_head/{x}", optional=True) for x in ("kernel", "bias"))
ROBERTA = Family(
    "roberta", MODEL, (*ROWS, *ROBERTA_HEADS, *PAIR), options(50265, "lm_head.", True), roberta_architecture,
    bare="RobertaModel", prefix="roberta.", rename=renamed, skips=(r"embeddings\.position_ids$",),
    aliases={"lm_head.decoder.weight": WORDS, "lm_head.decoder.bias": "lm_head.bias"},
)  # fmt: skip
