"""The 784-128-10 network on MNIST; the better recipe is the same file with overrides.

Run:      python -m fmjax.train --config=configs/vision/mlp_mnist.py --config.seed=0
Better:   the overrides of `mlp_mnist_better` in benchmarks/seeds.py: augmentation, Muon with a schedule, averages.
Reaches:  0.978 plain, 0.988 with the better recipe (test accuracy, means of 5 seeds).
Data:     TFDS "mnist" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    config = ConfigDict({"seed": 0, "steps": 2 if size == "smoke" else "15epochs"})
    config.model = call(mlp.MLP, features=(128,), classes=10)
    still = call(augment.affine, rotate=0.0, shear=0.0, zoom=0.0, translate=0.0)  # moves nothing until overridden
    config.objective = call(supervised.Classify, augment=(still,))
    config.optimizer = call(optimizers.adam, rate=1e-3)
    train, held_out = ("train[:256]", "test[:1000]") if size == "smoke" else ("train", "test")
    source = call(sources.Tfds, name="mnist", split=train)
    config.data = call(pipeline.stream, source=source, batch_size=128)
    test = call(pipeline.one_pass, source=call(sources.Tfds, name="mnist", split=held_out), batch_size=1000)
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}
    config.evals = {"test": call(evaluators.average, data=test, metrics=numbers)}
    return config
