"""A DenseNet-BC on CIFAR-10.

Run:      python -m fmjax.train --config=configs/vision/densenet_cifar10.py
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
Takes:    about six minutes on two CPU cores; hours on a GPU (`:gpu`, not run here).
Reaches:  test accuracy 0.583 (mean of 3 seeds).

`full` has 4 layers a block, 28 in all with growth 12, for one epoch; `:gpu` is DenseNet-BC-100 (growth 12) for 300
epochs, for which 95.49 % is published (arXiv 1608.06993, C10+).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import densenet
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" (two CPU cores), "gpu" (as published), or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "1epochs", "gpu": "300epochs", "smoke": 2}[size]})
    if size == "gpu":
        config.model = call(densenet.densenet_bc100_12)
    else:
        depths = (4, 4, 4) if size == "full" else (1,)
        config.model = call(densenet.DenseNet, depths=depths, growth=12, stem="cifar", classes=10)
    config.objective = call(
        supervised.Classify,
        augment=(call(augment.flip), call(augment.padded_crop, pad=4)),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    rate = call(schedules.warmup_cosine, peak=0.1, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.sgd, rate=rate, momentum=0.9, nesterov=True, l2=5e-4)

    def images(split: str) -> ConfigDict:
        return call(sources.Tfds, name="cifar10", split=split)

    train, validation, test = "train[:45000]", "train[45000:]", "test"
    if size == "smoke":
        train, validation, test = "train[:100]", "train[-32:]", "test[:32]"
    config.data = call(pipeline.stream, source=images(train), batch_size=64 if size != "smoke" else 8, resident=True)

    def over(split: str, every: int | str) -> ConfigDict:
        data = call(pipeline.one_pass, source=images(split), batch_size=500 if size != "smoke" else 16)
        return call(
            evaluators.average, data=data, metrics={"accuracy": metrics.accuracy, "loss": metrics.loss}, every=every
        )

    config.evals = {"validation": over(validation, "1epochs" if size != "smoke" else 1), "test": over(test, 0)}
    return config
