"""AlexNet, cut to the size of CIFAR-10's images.

Run:      python -m fmjax.train --config=configs/vision/alexnet_cifar10.py
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    about five minutes on two CPU cores.
Reaches:  test accuracy 0.746 (mean of 3 seeds).

`full` has half the channels and a fourth of the dense layers of `:gpu`. For AlexNet on CIFAR-10, 89 % with local
response norm and crops is published (A. Krizhevsky's cuda-convnet, of four layers).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import alexnet
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" (two CPU cores), "gpu" (as published), or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "3epochs", "gpu": "100epochs", "smoke": 2}[size]})
    if size == "gpu":
        config.model = call(alexnet.alexnet_cifar)
    else:
        widths, dense = ((32, 64, 128, 128, 128), (256, 256)) if size == "full" else ((4, 4, 8, 8, 8), (16, 16))
        config.model = call(alexnet.alexnet_cifar, widths=widths, dense=dense, dropout=0.1)
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
