"""ConvNeXt, under timm's names; its small members, whose feed-forwards are convolutions, have others."""

from functools import partial
from typing import Any

from fmjax.interop.image_family import ImageFamily
from fmjax.interop.layouts import CONV, FLAT, Row, linear, norm
from fmjax.interop.options import TIMM_ACTIVATIONS, Json, Option, fixed, ignored, option, stages
from fmjax.models import convnext


def rows(module: convnext.ConvNeXt) -> tuple[Row, ...]:
    """Blocks are counted anew in each stage."""
    out, block = [*linear("stem.0", "stem", CONV), *norm("stem.1", "stem_norm")], 0
    for stage, depth in enumerate(module.depths):
        if stage:
            shrink = f"stages.{stage}.downsample"
            out += [*norm(f"{shrink}.0", f"shrink_{stage}_norm"), *linear(f"{shrink}.1", f"shrink_{stage}", CONV)]
        for i in range(depth):
            theirs, ours = f"stages.{stage}.blocks.{i}", f"block_{block}"
            out += [
                *linear(f"{theirs}.conv_dw", f"{ours}/conv", CONV),
                *norm(f"{theirs}.norm", f"{ours}/norm"),
                *linear(f"{theirs}.mlp.fc1", f"{ours}/feed_forward/up"),
                *linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward/down"),
            ]
            if module.layer_scale is not None:
                out.append(Row(f"{theirs}.gamma", f"{ours}/scale", FLAT))
            block += 1
    return (*out, *norm("head.norm", "final_norm"), *linear("head.fc", "head"))


def eps() -> Option:
    """`norm_eps`; None is 1e-6."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        given = config.get("norm_eps")
        return {"eps": 1e-6 if given is None else given}

    return Option(("norm_eps",), read, lambda fields: {"norm_eps": fields["eps"]})


exact = partial(convnext.ConvNeXt, feed_forward="gelu_exact")
CONVNEXT = ImageFamily(
    "ConvNeXt",
    {
        "convnext_tiny": exact, "convnext_small": partial(convnext.convnext_small, feed_forward="gelu_exact"),
        "convnext_base": partial(convnext.convnext_base, feed_forward="gelu_exact"),
        "convnext_large": partial(convnext.convnext_large, feed_forward="gelu_exact"),
        "convnext_xlarge": partial(exact, depths=(3, 3, 27, 3), widths=(256, 512, 1024, 2048)),
    },
    (
        option("num_classes", "classes"), stages("depths", "depths"), stages("dims", "widths"),
        option("kernel_sizes", "kernel_size"), option("ls_init_value", "layer_scale"),
        option("act_layer", "feed_forward", None, TIMM_ACTIVATIONS), eps(),
        fixed(
            global_pool="avg", output_stride=32, stem_type="patch", patch_size=4, head_norm_first=False, conv_mlp=False,
            conv_bias=True, use_grn=False,
        ),
        ignored("in_chans", "drop_rate", "drop_path_rate", "head_init_scale"),
    ),
    rows, {"first_conv": "stem.0", "classifier": "head.fc"},
)  # fmt: skip
