"""EfficientNet, under timm's names; those that it calls tf_ pad as TensorFlow does and are other networks."""

import math
from functools import partial

from fmjax.interop.image_family import ImageFamily
from fmjax.interop.layouts import CONV, POINT, Row, batch_norm, linear
from fmjax.interop.options import fixed, ignored, option
from fmjax.models import efficientnet

# ours -> (their convolution, their norm), in a block that widens and in one that does not
WIDE = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
PLAIN = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}


def rows(module: efficientnet.EfficientNet) -> tuple[Row, ...]:
    """Blocks are counted anew in each stage."""
    out, block = [Row("conv_stem.weight", "stem/conv/kernel", CONV), *batch_norm("bn1", "stem/norm")], 0
    for stage, (expansion, *_, depth) in enumerate(efficientnet.STAGES[: module.stages]):
        for i in range(math.ceil(depth * module.depth)):
            theirs, ours = f"blocks.{stage}.{i}", f"block_{block}"
            for name, (conv, norm) in (WIDE if expansion > 1 else PLAIN).items():
                out.append(Row(f"{theirs}.{conv}.weight", f"{ours}/{name}/conv/kernel", CONV))
                out += batch_norm(f"{theirs}.{norm}", f"{ours}/{name}/norm")
            out += linear(f"{theirs}.se.conv_reduce", f"{ours}/squeeze/down", POINT)
            out += linear(f"{theirs}.se.conv_expand", f"{ours}/squeeze/up", POINT)
            block += 1
    out += [Row("conv_head.weight", "last/conv/kernel", CONV), *batch_norm("bn2", "last/norm")]
    return (*out, *linear("classifier", "head"))


EFFICIENTNET = ImageFamily(
    "EfficientNet",
    {f"efficientnet_b{i}": partial(getattr(efficientnet, f"efficientnet_b{i}")) for i in range(8)},
    (
        option("num_classes", "classes"),
        option("act_layer", "act", None, {"silu": "silu", "swish": "silu", "relu": "relu"}),
        option("bn_eps", "eps"),
        fixed(global_pool="avg", output_stride=32, pad_type="", stem_size=32),
        ignored("in_chans", "drop_rate", "drop_path_rate", "bn_momentum"),
    ),
    rows, {"first_conv": "conv_stem", "classifier": "classifier"},
)  # fmt: skip
