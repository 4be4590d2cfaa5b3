"""A VGG with batch norm on CIFAR-10.

Run:      python -m fmjax.train --config=configs/vision/vgg_cifar10.py
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    about three minutes on two CPU cores; an hour on a GPU (`:gpu`, not run here).
Reaches:  test accuracy 0.756 (mean of 3 seeds).

`full` is VGG-11's shape at a fourth of its width for five epochs; `:gpu` is VGG-16 for 200, for which 92.64 % is
published (kuangliu/pytorch-cifar, about 350 epochs).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, maps, metrics
from fmjax.models import vgg
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" (two CPU cores), "gpu" (as published), or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "5epochs", "gpu": "200epochs", "smoke": 2}[size]})
    if size == "gpu":
        config.model = call(vgg.vgg16_bn_cifar)
    else:
        depths, widths = ((1, 1, 2, 2, 2), (16, 32, 64, 128, 128)) if size == "full" else ((1,), (4,))
        config.model = call(vgg.VGG, depths=depths, widths=widths, norm="batch", pool=1, dense=(), classes=10)
        config.model.dropout = 0.0
    config.objective = call(
        supervised.Classify,
        augment=(call(augment.flip), call(augment.padded_crop, pad=4)),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    rate = call(schedules.warmup_cosine, peak=0.05, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.sgd, rate=rate, momentum=0.9, nesterov=True, l2=5e-4)

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
        config.evals.maps = call(maps.feature_maps, data=data, address="block_0")
    return config
