"""The classic 32-64-128 convolutional network on CIFAR-10 with flip, shear, zoom and early stopping.

Run:      python -m fmjax.train --config=configs/vision/convnet_cifar10.py --config.seed=0
Reaches:  0.751 (test accuracy, mean of 3 seeds; published for this network 0.72).
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import convnet
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules
from fmjax.training import policies


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": {"full": "10epochs", "smoke": 2}[size]})
    config.model = call(convnet.ConvNet, widths=(32, 64, 128), dense=512, dropout=0.5, classes=10)
    config.objective = call(
        supervised.Classify,
        augment=(call(augment.flip), call(augment.affine, rotate=0.0, shear=10.0, zoom=0.1, translate=0.0)),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    rate = call(
        schedules.warmup_cosine,
        peak=1e-3,
        steps=config.get_oneway_ref("steps"),
        warmup="1epochs" if size == "full" else 0,
    )
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.01)
    parts = "train[:45000]", "train[45000:]", "test"
    train, validation, test = ("train[:128]", "train[-50:]", "test[:50]") if size == "smoke" else parts
    train = call(sources.Tfds, name="cifar10", split=train)
    config.data = call(pipeline.stream, source=train, batch_size=128 if size == "full" else 8)
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}

    def over(split: str, every: int | str, **more: object) -> ConfigDict:
        source = call(sources.Tfds, name="cifar10", split=split)
        data = call(pipeline.one_pass, source=source, batch_size=500 if size == "full" else 50)
        return call(evaluators.average, data=data, metrics={**numbers, **more}, every=every)

    every = "1epochs" if size == "full" else 1
    config.evals = {
        "validation": over(validation, every),
        "test": over(test, 0, confusion=metrics.ConfusionMatrix),
    }
    config.early_stop = call(policies.EarlyStop, metric="validation/accuracy", mode="max", patience=5)
    return config
