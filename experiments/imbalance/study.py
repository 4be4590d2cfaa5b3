"""What helps when classes are of unequal size? MNIST with 50 times as many zeros as nines, and the usual remedies.

Run:      python -m fmjax.sweep --study=experiments/imbalance/study.py --workdir=runs/imbalance
          python -m fmjax.sweep --study=experiments/imbalance/study.py --workdir=runs/imbalance --report
Smoke:    the same with --study=experiments/imbalance/study.py:smoke: a few steps on scikit-learn's digits.
Data:     TFDS "mnist" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.

Every remedy takes as many steps of as many rows. Nothing is tuned: each has the setting that its paper names first.
"""

from typing import Any, Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import imbalance, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import mlp
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules
from fmjax.study import Study
from fmjax.training.policies import Log

REMEDIES = ("none", "class weights", "effective number", "focal", "logit adjustment")


def remedied(source: Any, remedy: str = "none") -> supervised.Classify:
    """The objective with a remedy whose numbers come from the training set."""
    kinds = {
        "none": lambda: {},
        "class weights": lambda: {"class_weights": imbalance.class_weights(source)},
        "effective number": lambda: {"class_weights": imbalance.class_weights(source, beta=0.999)},
        "focal": lambda: {"focal": 2.0},
        "logit adjustment": lambda: {"priors": imbalance.priors(source)},
    }
    return supervised.Classify(**kinds[remedy]())


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """A network of one hidden layer on a long-tailed set; the test set is as it is, nearly even."""
    config = ConfigDict({"seed": 0, "steps": 1000 if size == "full" else 4})
    if size == "full":
        whole, test = (call(sources.Tfds, name="mnist", split=split) for split in ("train", "test"))
    else:
        whole, test = (call(sources.Digits, split=split) for split in ("train", "test"))
    tail = call(imbalance.LongTailed, source=whole, ratio=50.0)
    config.model = call(mlp.MLP, features=(128,), classes=10)
    config.objective = call(remedied, source=tail)
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate)
    balanced = call(imbalance.Balanced, source=tail, power=0.0)
    config.data = call(pipeline.stream, source=balanced, batch_size=128, resident=True)
    data = call(pipeline.one_pass, source=test, batch_size=500)
    numbers = {"f1": metrics.F1, "accuracy": metrics.accuracy}
    config.evals = {"test": call(evaluators.average, data=data, metrics=numbers)}
    config.log = call(Log, every=200, tensorboard=False)
    return config


def get_study(size: Literal["full", "smoke"] = "full") -> Study:
    """Each remedy by itself, and the two ways to draw small classes more often."""
    changes = {remedy: {"objective.remedy": remedy} for remedy in REMEDIES[1:]}
    changes |= {"balanced draws": {"data.source.power": 1.0}, "square root draws": {"data.source.power": 0.5}}
    return Study(
        title="What helps when the largest class has 50 times the examples of the smallest?",
        config=f"experiments/imbalance/study.py:{size}",
        changes=changes,
        seeds=range(5 if size == "full" else 2),
        base="none",
        metric="test/f1",
    )
