"""A linear classifier of 8x8 images in a file that `--config.data.source.path` and its likes name; for tests.

Run:      python -m fmjax.train --config=tests/tiny_config.py --config.data.source.path=FILE ...
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import arrays, folders, pipeline
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.training.checkpoint import Policy
from fmjax.training.policies import Log


def get_config(kind: Literal["arrays", "folder"] = "arrays") -> ConfigDict:
    """`kind` is what the images lie in."""
    config = ConfigDict({"seed": 0, "steps": 6})
    config.model = call(mlp.MLP, features=(4,), classes=10)
    config.objective = call(supervised.Classify)
    config.optimizer = call(optimizers.sgd, rate=0.1, momentum=0.9)
    source = arrays.Arrays if kind == "arrays" else folders.ImageFolder
    config.data = call(pipeline.stream, source=call(source, path=""), batch_size=8, threads=0, shuffle=False)
    held_out = call(pipeline.one_pass, source=call(source, path=""), batch_size=8, threads=0)
    config.evals = {"validation": call(evaluators.average, data=held_out, metrics={"loss": metrics.loss})}
    config.checkpoint = call(Policy, every=2)
    config.log = call(Log, every=1, tensorboard=False, progress=False)
    return config
