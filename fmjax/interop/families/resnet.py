"""ResNet, ResNeXt and Wide ResNet, under torchvision's names."""

import itertools
from functools import partial
from typing import Any

from fmjax.core.errors import ConfigError
from fmjax.interop.image_family import ImageFamily
from fmjax.interop.layouts import CONV, Row, batch_norm, linear
from fmjax.interop.options import Json, Option, fixed, ignored, option, stages
from fmjax.models import resnet

STEM = 64  # channels, whatever the width


def rows(module: resnet.ResNet) -> tuple[Row, ...]:
    """Blocks are counted anew in each stage."""
    bottleneck = ("reduce", "spatial", "expand")
    inside = bottleneck if module.bottleneck else ("spatial_0", "spatial_1")
    first = module.width * (resnet.EXPANSION if module.bottleneck else 1)  # channels out of the first stage
    out, block = [Row("conv1.weight", "stem/conv/kernel", CONV), *batch_norm("bn1", "stem/norm")], 0
    for stage, depth in enumerate(module.depths):
        for i in range(depth):
            theirs, ours = f"layer{stage + 1}.{i}", f"block_{block}"
            for j, name in enumerate(inside, 1):
                out.append(Row(f"{theirs}.conv{j}.weight", f"{ours}/{name}/conv/kernel", CONV))
                out += batch_norm(f"{theirs}.bn{j}", f"{ours}/{name}/norm")
            if i == 0 and (stage or (module.stem_width or module.width) != first):
                out.append(Row(f"{theirs}.downsample.0.weight", f"{ours}/shortcut/conv/kernel", CONV))
                out += batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut/norm")
            block += 1
    return (*out, *linear("fc", "head"))


def channels() -> Option:
    """`channels` of the stages, each twice those of the one before; the stem's do not follow them."""

    def read(config: Json, _: Any) -> dict[str, Any]:
        each = tuple(config["channels"])[: len(config["layers"])]
        if any(b != 2 * a for a, b in itertools.pairwise(each)):
            raise ConfigError(f"channels={list(each)} is not supported: each stage must have twice those before it")
        return {"width": each[0], "stem_width": None if each[0] == STEM else STEM}

    def write(fields: dict[str, Any]) -> Json:
        return {"channels": [fields["width"] * 2**i for i in range(len(fields["depths"]))]}

    return Option(("channels",), read, write)


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "stem_width": fields["stem_width"] or fields["width"]}


WIDE = {"wide_resnet101_2": partial(resnet.resnet101, group_width=128)}
NEXT = {
    f"resnext{depth}_{groups}x{width}d": partial(start, groups=groups, group_width=width)
    for depth, start, kinds in (
        (50, resnet.resnet50, ((32, 4),)),
        (101, resnet.resnet101, ((32, 4), (32, 8), (64, 4))),
    )
    for groups, width in kinds
}
RESNET = ImageFamily(
    "ResNet",
    {
        "resnet18": resnet.resnet18, "resnet34": resnet.resnet34, "resnet50": resnet.resnet50,
        "resnet101": resnet.resnet101, "resnet152": resnet.resnet152, "wide_resnet50_2": resnet.wide_resnet50_2,
        **WIDE, **NEXT,
    },
    (
        option("num_classes", "classes"), stages("layers", "depths"), channels(),
        option("cardinality", "groups"), option("base_width", "group_width"),
        fixed(
            global_pool="avg", output_stride=32, stem_type="", block_reduce_first=1, down_kernel_size=1, stem_width=64
        ),
        ignored("in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"),
    ),
    rows, {"first_conv": "conv1", "classifier": "fc"}, plain,
)  # fmt: skip
