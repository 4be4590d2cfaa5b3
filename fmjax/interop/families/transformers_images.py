"""ViT and ResNet under the names of transformers, to be read: what is written is a folder of timm."""

import re
from functools import partial
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.families import resnet as timms_resnet
from fmjax.interop.families.vit import pair, plain
from fmjax.interop.image_family import ImageFamily
from fmjax.interop.layouts import CONV, LEADING, OUT_OF_HEADS, Row, linear, norm
from fmjax.interop.options import ACTIVATIONS, Json, Option, fixed, ignored, inner_size, option, stages
from fmjax.models import resnet, vit

# torchvision's names -> theirs, in this order
RENAMED = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^fc\.", "classifier.1."),
    (r"downsample\.0\.", "shortcut.convolution."),
    (r"downsample\.1\.", "shortcut.normalization."),
    (r"^layer(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
)


def vit_rows(module: vit.ViT) -> tuple[Row, ...]:
    """Without the prefix of the model under the head."""
    out = [
        *linear("embeddings.patch_embeddings.projection", "embed", CONV),
        Row("embeddings.cls_token", "class_token", LEADING),
        Row("embeddings.position_embeddings", "position_table", LEADING),
    ]
    for i in range(module.depth):
        theirs, ours = f"encoder.layer.{i}", f"encoder/block_{i}"
        for x in ("query", "key", "value"):
            out += linear(f"{theirs}.attention.attention.{x}", f"{ours}/attention/{x}")
        out += [
            *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", OUT_OF_HEADS),
            *norm(f"{theirs}.layernorm_before", f"{ours}/attention_norm"),
            *norm(f"{theirs}.layernorm_after", f"{ours}/feed_forward_norm"),
            *linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/up"),
            *linear(f"{theirs}.output.dense", f"{ours}/feed_forward/down"),
        ]
    return (*out, *norm("layernorm", "encoder/final_norm"), *linear("classifier", "head"))


def resnet_rows(module: resnet.ResNet) -> tuple[Row, ...]:
    """Without the prefix of the model under the head."""

    def renamed(name: str) -> str:
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        return name

    return tuple(row._replace(name=renamed(row.name)) for row in timms_resnet.rows(module))


def labels() -> Option:
    """`id2label` names every class."""
    return Option(
        ("id2label",), lambda config, _: {"classes": len(config["id2label"])},
        lambda fields: {"id2label": {str(i): f"LABEL_{i}" for i in range(fields["classes"])}},
    )  # fmt: skip


def hidden_sizes() -> Option:
    """`hidden_sizes` are the channels out of the stages, each twice those before it."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        kind, each = config["layer_type"], config["hidden_sizes"]
        if kind not in ("basic", "bottleneck") or any(x != each[0] * 2**i for i, x in enumerate(each)):
            raise ConfigError(f"hidden_sizes={each} of layer_type={kind!r} are not supported: each must double")
        bottleneck = kind == "bottleneck"
        width, stem = each[0] // (resnet.EXPANSION if bottleneck else 1), config["embedding_size"]
        return {"bottleneck": bottleneck, "width": width, "stem_width": None if stem == width else stem}

    def write(fields: dict[str, Any]) -> Json:
        out = fields["width"] * (resnet.EXPANSION if fields["bottleneck"] else 1)
        return {
            "layer_type": "bottleneck" if fields["bottleneck"] else "basic",
            "hidden_sizes": [out * 2**i for i in range(len(fields["depths"]))],
            "embedding_size": fields["stem_width"] or fields["width"],
        }

    return Option(("layer_type", "hidden_sizes", "embedding_size"), read, write)


VIT = ImageFamily(
    "vit", {"vit": partial(vit.ViT, feed_forward="gelu_exact", eps=1e-12, classes=2)},
    (
        labels(), pair("image_size", "image_size"), pair("patch_size", "patch"), option("hidden_size", "width"),
        option("num_hidden_layers", "depth"), option("num_attention_heads", "heads"),
        inner_size("intermediate_size", 3072), option("hidden_act", "feed_forward", None, ACTIVATIONS),
        option("layer_norm_eps", "eps"), fixed(qkv_bias=True),
        ignored(
            "num_channels", "encoder_stride", "pooler_output_size", "pooler_act", "hidden_dropout_prob",
            "attention_probs_dropout_prob",
        ),
    ),
    vit_rows, {}, plain,
)  # fmt: skip
RESNET = ImageFamily(
    "resnet", {"resnet": partial(resnet.resnet50, classes=2)},
    (
        labels(), stages("depths", "depths"), hidden_sizes(), option("hidden_act", "act"),
        fixed(downsample_in_first_stage=False, downsample_in_bottleneck=False),
        ignored("num_channels", "stage_names", "out_features", "out_indices"),
    ),
    resnet_rows, {}, timms_resnet.plain,
)  # fmt: skip
