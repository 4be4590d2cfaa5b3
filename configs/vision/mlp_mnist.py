"""The 784-128-10 network on MNIST, plain or with a better recipe by overrides alone.

Run:      python -m fmjax.train --config=configs/vision/mlp_mnist.py --config.seed=0
          python -m fmjax.train --config=configs/vision/mlp_mnist.py:better --config.seed=0
Data:     TFDS "mnist" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "better", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", the plain recipe; "better" adds augmentation, a schedule and averages; "smoke" is two steps."""
    config = ConfigDict({"seed": 0, "steps": 2 if size == "smoke" else "15epochs"})
    config.model = call(mlp.MLP, features=(128,), classes=10)
    config.objective = call(supervised.Classify)
    config.optimizer = call(optimizers.adam, rate=1e-3)
    source = call(sources.Tfds, name="mnist", split="train")
    config.data = call(pipeline.stream, source=source, batch_size=128)
    test = call(pipeline.one_pass, source=call(sources.Tfds, name="mnist", split="test"), batch_size=1000)
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}
    config.evals = {"test": call(evaluators.average, data=test, metrics=numbers)}
    if size == "better":
        better(config)
    return config


def better(config: ConfigDict) -> None:
    """What the plain recipe lacks; chosen on 5,000 held-out training images."""
    rate = call(schedules.warmup_cosine, peak=3e-3, steps=config.get_oneway_ref("steps"), warmup=200)
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.05)
    config.ema = 0.999
    config.objective.augment = (call(augment.affine, rotate=8.0, shear=0.0, zoom=0.08, translate=0.07),)
