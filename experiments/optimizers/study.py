"""Which optimizer, at tuned rates? Five seeds of a small network on MNIST, for six optimizers at five rates each.

Run:      python -m fmjax.sweep --study=experiments/optimizers/study.py --workdir=runs/optimizers --population
          python -m fmjax.sweep --study=experiments/optimizers/study.py --workdir=runs/optimizers --report
Smoke:    the same with --study=experiments/optimizers/study.py:smoke: a few steps on scikit-learn's digits.
Data:     TFDS "mnist" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.

The rate of each optimizer is the best of its five on 5,000 images held out of training; the table compares the chosen
ones on the test images, which had no part in the choice.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules
from fmjax.study import Study, chain, grid
from fmjax.training.policies import Log

RATES = {  # around what each is usually given, a factor of about three apart
    "adamw": (optimizers.adamw, {}, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "adam": (optimizers.adam, {}, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "sgd": (optimizers.sgd, {}, (0.03, 0.1, 0.3, 1.0, 3.0)),
    "momentum": (optimizers.sgd, {"optimizer.momentum": 0.9}, (0.003, 0.01, 0.03, 0.1, 0.3)),
    "lion": (optimizers.lion, {}, (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    "muon": (optimizers.muon, {}, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
}


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """A network of one hidden layer; `size` "smoke" takes four steps on scikit-learn's digits."""
    config = ConfigDict({"seed": 0, "steps": 4 if size == "smoke" else "4epochs"})
    config.model = call(mlp.MLP, features=(128,), classes=10)
    config.objective = call(supervised.Classify)
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate)
    if size == "smoke":
        parts = {part: call(sources.Digits, split=part) for part in ("train", "validation", "test")}
    else:
        splits = {"train": "train[:55000]", "validation": "train[55000:]", "test": "test"}
        parts = {part: call(sources.Tfds, name="mnist", split=split) for part, split in splits.items()}
    config.data = call(pipeline.stream, source=parts["train"], batch_size=128)
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}

    def over(part: str) -> ConfigDict:
        data = call(pipeline.one_pass, source=parts[part], batch_size=500)
        return call(evaluators.average, data=data, metrics=numbers)

    config.evals = {"validation": over("validation"), "test": over("test")}
    config.log = call(Log, tensorboard=False)
    return config


def get_study(size: Literal["full", "smoke"] = "full") -> Study:
    """Six optimizers at five rates; "smoke" takes two rates of each and two seeds."""
    rates = 2 if size == "smoke" else 5
    changes = chain(*(
        grid({name: {"optimizer": optimizer, **more}}, {"optimizer.rate.peak": peaks[:rates]})
        for name, (optimizer, more, peaks) in RATES.items()
    ))  # fmt: skip
    return Study(
        title="Which optimizer, at tuned rates?",
        config=f"experiments/optimizers/study.py:{size}",
        changes=changes,
        seeds=range(2 if size == "smoke" else 5),
        base="adamw",
        metric="test/loss",
        choose="validation/loss",
    )
