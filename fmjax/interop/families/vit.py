"""ViT and DeiT, under timm's names; queries, keys and values are one tensor, one after the other."""

from functools import partial
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.image_family import ImageFamily
from fmjax.interop.layouts import CONV, FLAT, INTO, LEADING, OUT_OF_HEADS, Row, linear, norm
from fmjax.interop.options import TIMM_ACTIVATIONS, Json, Option, fixed, ignored, option
from fmjax.models import vit

QKV = ("query", "key", "value")


def rows(module: vit.ViT) -> tuple[Row, ...]:
    """A class token and layer scale only where there is one."""
    out = [*linear("patch_embed.proj", "embed", CONV)]
    if module.pool == "token":
        out.append(Row("cls_token", "class_token", LEADING))
    out.append(Row("pos_embed", "position_table", LEADING))
    for i in range(module.depth):
        theirs, ours = f"blocks.{i}", f"encoder/block_{i}"
        out += [
            *norm(f"{theirs}.norm1", f"{ours}/attention_norm"),
            Row(f"{theirs}.attn.qkv.weight", tuple(f"{ours}/attention/{x}/kernel" for x in QKV), INTO, axis=0),
            Row(f"{theirs}.attn.qkv.bias", tuple(f"{ours}/attention/{x}/bias" for x in QKV), FLAT),
            *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", OUT_OF_HEADS),
            *norm(f"{theirs}.norm2", f"{ours}/feed_forward_norm"),
            *linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up"),
            *linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down"),
        ]
        if module.layer_scale is not None:
            out += [
                Row(f"{theirs}.ls{j}.gamma", f"{ours}/{x}_scale") for j, x in ((1, "attention"), (2, "feed_forward"))
            ]
    return (*out, *norm("norm", "encoder/final_norm"), *linear("head", "head"))


def pair(key: str, field: str) -> Option:
    """A line of one number, or of rows and columns."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        value = config[key]
        if isinstance(value, int):
            return {field: value}
        rows, columns = value
        return {field: rows if rows == columns else (rows, columns)}

    def write(fields: dict[str, Any]) -> Json:
        value = fields[field]
        return {key: list(value) if isinstance(value, tuple) else value}

    return Option((key,), read, write)


def inner() -> Option:
    """`mlp_ratio`; 4 is None."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        ratio = config["mlp_ratio"]
        return {"inner": None if ratio == 4 else int(config["embed_dim"] * ratio)}

    return Option(
        ("mlp_ratio",), read, lambda fields: {"mlp_ratio": (fields["inner"] or 4 * fields["width"]) / fields["width"]}
    )


def pool() -> Option:
    """A class token that is read, or none and the mean of the normalised patches; timm has more ways than these two."""
    ways = {"token": ("token", True, None), "gap": ("avg", False, False)}

    def read(config: Json, _: Any) -> dict[str, Any]:
        which, token, fc_norm = config["global_pool"], config["class_token"], config["fc_norm"]
        if which == "token" and not fc_norm:
            fc_norm = None  # only other ways have such a norm unless told not to
        for ours, theirs in ways.items():
            if (which, token, fc_norm) == theirs:
                return {"pool": ours}
        raise ConfigError(
            f"global_pool={which!r} with class_token={token} and fc_norm={fc_norm} is not supported: only 'token' "
            "with a class token is, and 'avg' without one and with fc_norm=False"
        )

    def write(fields: dict[str, Any]) -> Json:
        return dict(zip(("global_pool", "class_token", "fc_norm"), ways.get(fields["pool"], ways["token"])))

    return Option(("global_pool", "class_token", "fc_norm"), read, write)


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that count: those of language models, of experts and of rotary positions come with Blocks."""
    size = fields["head_size"] or fields["width"] / fields["heads"]
    more = {
        "groups": fields["groups"] or fields["heads"], "head_size": size,
        "inner": fields["inner"] or 4 * fields["width"], "attention_scale": fields["attention_scale"] or size**-0.5,
    }  # fmt: skip
    out = {**fields, **more}
    return {k: v for k, v in out.items() if k not in UNUSED}


UNUSED = {"length", "first_position", "rope_base", "rope_scaling", "rope_factor", "rope_length", "rope_base_local",
          "qkv_bias", "full_every", "balance", "router_z", "experts_top", "experts_shared", "experts_every",
          "experts_capacity"}  # fmt: skip
exact = partial(vit.ViT, feed_forward="gelu_exact")
SIZES = {
    "tiny": partial(exact, width=192, heads=3), "small": partial(exact, width=384, heads=6), "base": exact,
    "large": partial(exact, width=1024, depth=24, heads=16), "huge": partial(exact, width=1280, depth=32, heads=16),
}  # fmt: skip
NAMES = """
    vit_tiny_patch16_224 vit_tiny_patch16_384 vit_small_patch32_224 vit_small_patch32_384 vit_small_patch16_224
    vit_small_patch16_384 vit_small_patch8_224 vit_base_patch32_224 vit_base_patch32_384 vit_base_patch16_224
    vit_base_patch16_384 vit_base_patch8_224 vit_large_patch32_224 vit_large_patch32_384 vit_large_patch16_224
    vit_large_patch16_384 vit_large_patch14_224 vit_huge_patch14_224
    deit_tiny_patch16_224 deit_small_patch16_224 deit_base_patch16_224 deit_base_patch16_384
"""


def named(name: str) -> partial:
    """The call that a name such as vit_small_patch16_224 stands for."""
    _, size, patch, image = name.split("_")
    return partial(SIZES[size], patch=int(patch.removeprefix("patch")), image_size=int(image))


VIT = ImageFamily(
    "ViT", {name: named(name) for name in NAMES.split()},
    (
        option("num_classes", "classes"), pair("img_size", "image_size"), pair("patch_size", "patch"),
        option("embed_dim", "width"), option("depth", "depth"), option("num_heads", "heads"), inner(), pool(),
        option("init_values", "layer_scale"), option("act_layer", "feed_forward", None, TIMM_ACTIVATIONS),
        fixed(
            qkv_bias=True, qk_norm=False, proj_bias=True, pos_embed="learn", no_embed_class=False, reg_tokens=0,
            pre_norm=False, final_norm=True,
        ),
        ignored(
            "in_chans", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate",
            "attn_drop_rate", "weight_init", "fix_init", "dynamic_img_size", "strict_img_size",
        ),
    ),
    rows, {"first_conv": "patch_embed.proj", "classifier": "head"}, plain,
)  # fmt: skip
