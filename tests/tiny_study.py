"""A study of a few steps, for tests; "sick" has a change whose runs fail, "deadly" one whose process dies.

"search" has a space in place of changes, and "pruned" prunes: a rate near zero learns too slowly, one near 4 bursts.
"""

import os
import signal
from typing import Literal

from ml_collections import ConfigDict
from stand_ins import MLP, Plain, Rows

from fmjax.core.config import call
from fmjax.data import pipeline
from fmjax.evals import evaluators, metrics
from fmjax.optim import optimizers
from fmjax.space import Search, choice, log
from fmjax.study import Study, chain, one_at_a_time
from fmjax.training.policies import Log


class Deadly(Rows):
    """Rows that kill the process that reads them."""

    def __init__(self, n: int = 96):
        os.kill(os.getpid(), signal.SIGKILL)


def get_config() -> ConfigDict:
    """Four steps of gradient descent on a linear problem."""
    config = ConfigDict({"seed": 0, "steps": 4})
    config.model = call(MLP)
    config.objective = call(Plain)
    config.optimizer = call(optimizers.sgd, rate=0.1)
    config.data = call(pipeline.stream, source=call(Rows), batch_size=8, threads=0)
    held_out = call(pipeline.one_pass, source=call(Rows, n=20, seed=5), batch_size=8, threads=0)
    config.evals = {"validation": call(evaluators.average, data=held_out, metrics={"loss": metrics.loss})}
    config.log = call(Log, tensorboard=False, progress=False)
    return config


def get_study(kind: Literal["well", "sick", "deadly", "search", "pruned"] = "well") -> Study:
    """Two rates and the base; "sick" adds a row that makes losses NaN."""
    if kind in ("search", "pruned"):
        return Study(
            config="tests/tiny_study.py",
            metric="validation/loss",
            overrides={"evals.validation.every": 1} if kind == "pruned" else {},
            seeds=(0,),
            space={"optimizer.rate": log(1e-4, 4.0), "optimizer.momentum": choice(0.0, 0.5)},
            search=Search(startup=3, prune="median" if kind == "pruned" else None),
            title="Tiny?",
        )
    changes = one_at_a_time({"optimizer.rate": (0.2, 0.4)})
    if kind == "sick":
        changes = chain(one_at_a_time({"optimizer.rate": (0.2,)}), {"sick": {"optimizer.rate": 1e38}})
    if kind == "deadly":
        changes = {"deadly": {"data.source": Deadly}}
    seeds = (0,) if kind == "deadly" else (0, 1)
    return Study(config="tests/tiny_study.py", metric="validation/loss", changes=changes, seeds=seeds, title="Tiny?")
