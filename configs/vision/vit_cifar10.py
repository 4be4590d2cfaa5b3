"""A small ViT on CIFAR-10, from nothing.

Run:      python -m fmjax.train --config=configs/vision/vit_cifar10.py
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    about six minutes on two CPU cores; hours on a GPU (`:gpu`, not run here).
Reaches:  test accuracy 0.657 (mean of 3 seeds).

`full` has 4 blocks of width 96 on patches of 4x4 for three epochs; `:gpu` is ViT-Ti for 200, for which 80 % is
published (kentaroy47/vision-transformers-cifar10, 88 % after 500). Rotary positions and the mean of the patches learn
faster here than a class token.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, maps, metrics
from fmjax.models import vit
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" (two CPU cores), "gpu" (as published), or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "3epochs", "gpu": "200epochs", "smoke": 2}[size]})
    shape = {"full": (96, 4, 3), "gpu": (192, 12, 3), "smoke": (16, 1, 2)}[size]
    width, depth, heads = shape
    config.model = call(
        vit.ViT, width=width, depth=depth, heads=heads, patch=4, image_size=32, classes=10, pool="gap",
        position="rotary2d",
    )  # fmt: skip
    config.objective = call(
        supervised.Classify,
        augment=(call(augment.flip), call(augment.padded_crop, pad=4)),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    rate = call(schedules.warmup_cosine, peak=0.003, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, decay=0.05)

    def images(split: str) -> ConfigDict:
        return call(sources.Tfds, name="cifar10", split=split)

    train, validation, test = "train[:45000]", "train[45000:]", "test"
    if size == "smoke":
        train, validation, test = "train[:100]", "train[-32:]", "test[:32]"
    config.data = call(pipeline.stream, source=images(train), batch_size=128 if size != "smoke" else 8, resident=True)

    def over(split: str, every: int | str) -> ConfigDict:
        data = call(pipeline.one_pass, source=images(split), batch_size=500 if size != "smoke" else 16)
        return call(
            evaluators.average, data=data, metrics={"accuracy": metrics.accuracy, "loss": metrics.loss}, every=every
        )

    config.evals = {"validation": over(validation, "1epochs" if size != "smoke" else 1), "test": over(test, 0)}
    if size != "smoke":
        data = call(pipeline.one_pass, source=images(test), batch_size=500)
        config.evals.looks = call(maps.attention_maps, data=data)
    return config
