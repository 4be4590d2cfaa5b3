"""An EfficientNet on CIFAR-10.

Run:      python -m fmjax.train --config=configs/vision/efficientnet_cifar10.py
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    about six minutes on two CPU cores; hours on a GPU (`:gpu`, not run here).
Reaches:  test accuracy 0.629 (mean of 3 seeds).

`full` is B0 at half its width and depth, five of its stages; `:gpu` is B0 with a stem of stride 1. The published 98.1 %
(arXiv 1905.11946) is of B0 pretrained on ImageNet, at 224 x 224.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import efficientnet
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" (two CPU cores), "gpu" (as published), or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "2epochs", "gpu": "200epochs", "smoke": 2}[size]})
    if size == "gpu":
        config.model = call(efficientnet.efficientnet_b0_cifar)
    else:
        width, stages = (0.5, 5) if size == "full" else (0.25, 2)
        config.model = call(efficientnet.EfficientNet, width=width, depth=0.5, stages=stages, stem_stride=1, classes=10)
        config.model.drop_path = config.model.dropout = 0.0
    config.objective = call(
        supervised.Classify,
        augment=(call(augment.flip), call(augment.padded_crop, pad=4)),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    rate = call(schedules.warmup_cosine, peak=0.005, steps=config.get_oneway_ref("steps"), warmup="5%")
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
    return config
