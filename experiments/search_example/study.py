"""Which rate, decay and width? A search on scikit-learn's digits, pruned by the median: a study to copy.

Run:      python -m fmjax.search --study=experiments/search_example/study.py --workdir=runs/search --trials=30
          python -m fmjax.search --study=experiments/search_example/study.py --workdir=runs/search --report
Smoke:    the same with --study=experiments/search_example/study.py:smoke: a few steps.

The search is for the loss on images held out of training; the accuracy on the test images, which had no part in it, is
what the report gives beside it.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules
from fmjax.space import Search, choice, log, uniform
from fmjax.study import Study
from fmjax.training.policies import Log


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """A network of one or two hidden layers; `size` "smoke" takes six steps."""
    config = ConfigDict({"seed": 0, "steps": 6 if size == "smoke" else 400})
    config.model = call(mlp.MLP, features=(32,), classes=10)
    config.objective = call(supervised.Classify)
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate)
    parts = {part: call(sources.Digits, split=part) for part in ("train", "validation", "test")}
    config.data = call(pipeline.stream, source=parts["train"], batch_size=64)
    every = 2 if size == "smoke" else 50

    def over(part: str, every: int) -> ConfigDict:
        data = call(pipeline.one_pass, source=parts[part], batch_size=200)
        numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}
        return call(evaluators.average, data=data, metrics=numbers, every=every)

    config.evals = {"validation": over("validation", every), "test": over("test", 0)}  # test: at the end alone
    config.log = call(Log, tensorboard=False)
    return config


def get_study(size: Literal["full", "smoke"] = "full") -> Study:
    """The peak of the rate, weight decay and the hidden layers."""
    return Study(
        title="Which rate, decay and width, on digits?",
        config=f"experiments/search_example/study.py:{size}",
        metric="test/accuracy",
        choose="validation/loss",
        seeds=(0,),
        space={
            "optimizer.rate.peak": log(1e-4, 1e-1),
            "optimizer.decay": uniform(0.0, 0.3),
            "model.features": choice((16,), (64,), (64, 64)),
        },
        search=Search(prune="median", startup=2 if size == "smoke" else 8),
    )
