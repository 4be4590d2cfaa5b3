"""Digits in two tasks, 0 to 4 and then 5 to 9 with the same five labels, and runs that learn one after the other."""

import numpy as np
from ml_collections import ConfigDict

from fmjax import pretrained, starts
from fmjax.core.config import call
from fmjax.data import pipeline
from fmjax.data.embedded import Digits
from fmjax.data.mixture import Mixture
from fmjax.data.source import InMemory
from fmjax.data.splits import Subset
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import elastic, supervised
from fmjax.optim import optimizers
from fmjax.training.policies import Log


class Half(InMemory):
    """The digits of one half, labelled 0 to 4."""

    def __init__(self, second: bool, split: str = "train"):
        arrays = Digits(split).arrays
        mine = (arrays["label"] >= 5) == second
        label = arrays["label"][mine] % 5
        super().__init__(f"Half({second})", {"image": arrays["image"][mine], "label": label.astype(np.int32)})


def task(second: bool, steps: int, features: tuple[int, ...] = ()) -> ConfigDict:
    """A run on one half, measured on both."""
    config = ConfigDict({"seed": 0, "steps": steps})
    config.model = call(mlp.MLP, features=features, classes=5)
    config.objective = call(supervised.Classify)
    config.optimizer = call(optimizers.adam, rate=1e-2)
    config.data = call(pipeline.stream, source=call(Half, second=second), batch_size=32)
    config.evals = {}
    for name, which in (("first", False), ("second", True)):
        test = call(pipeline.one_pass, source=call(Half, second=which, split="test"), batch_size=80)
        config.evals[name] = call(evaluators.average, data=test, metrics={"accuracy": metrics.accuracy})
    config.log = call(Log, tensorboard=False, progress=False)
    return config


def after(start: str, kind: str, steps: int, features: tuple[int, ...] = (), strength: float = 100.0) -> ConfigDict:
    """The second task after the run of the first: plain, held by its Fisher information, or with a few of its rows."""
    config = task(True, steps, features)
    weights = call(pretrained.weights, path=start)
    if kind == "held":
        model = config.model
        config.models = {name: model.copy_and_resolve_references() for name in ("model", "before", "importance")}
        del config.model
        config.objective = call(elastic.Elastic, of=config.objective, strength=strength)
        weights.nets = ("model", "before")
        config.init = call(starts.several, starts=(weights, call(starts.importance, path=start)))
        return config
    if kind == "replay":
        old = call(Subset, source=call(Half, second=False), stop=100)
        new = call(Half, second=True)
        config.data.source = call(Mixture, sources=(new, old), weights=(0.8, 0.2))
    config.init = weights
    return config
