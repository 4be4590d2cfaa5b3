"""How should a transformer know positions, and which of the ways holds on texts longer than those it learned from?

Run:      python -m fmjax.sweep --study=experiments/positions/study.py --workdir=runs/positions --population
          python -m fmjax.sweep --study=experiments/positions/study.py --workdir=runs/positions --report
Smoke:    the same with --study=experiments/positions/study.py:smoke: a few steps.
Data:     tinyshakespeare.txt.gz, under $FMJAX_DATA/text.

A character model learns from windows of 64 characters and is evaluated on windows of 64, 128 and 256: its loss is over
all characters of a window, so more context should lower it. The rows of the learned table past 64 never move. Every
way takes one rate, and nothing was tuned.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules
from fmjax.study import Study
from fmjax.training.policies import Log

Size = Literal["full", "smoke"]
POSITIONS = ("learned", "sine", "alibi", "relative", "none")


def get_config(size: Size = "full") -> ConfigDict:
    """A decoder of 3 blocks on the characters of tiny Shakespeare, with rotary positions."""
    full = size == "full"
    short = 64 if full else 8
    config = ConfigDict({"seed": 0, "steps": 1000 if full else 2})
    config.model = call(
        transformer.Decoder, vocab=65, width=64 if full else 8, depth=3 if full else 1, heads=4, length=4 * short
    )
    config.objective = call(language.NextToken)
    rate = call(schedules.warmup_cosine, peak=3e-3, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.1, b2=0.99)
    config.clip = 1.0
    whole = call(corpora.TextFiles, paths="$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    characters = call(tokenizers.characters, corpus=whole)
    train, held_out = (call(corpora.Part, corpus=whole, start=a, stop=b) for a, b in ((0.0, 0.9), (0.9, 1.0)))
    crops = call(text.Windows, corpus=train, tokenizer=characters, length=short, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=16 if full else 4)
    config.evals = {}
    for times in (1, 2, 4):
        source = call(text.Windows, corpus=held_out, tokenizer=characters, length=times * short)
        data = call(pipeline.one_pass, source=source, batch_size=64 // times, limit=None if full else 64 // times)
        config.evals[f"at_{times * short}"] = call(evaluators.average, data=data, metrics={"loss": metrics.loss})
    config.log = call(Log, every=100, tensorboard=False)
    return config


def get_study(size: Size = "full") -> Study:
    """Each way of positions beside rotary ones, at four times the length of training."""
    short = 64 if size == "full" else 8
    return Study(
        title="Positions, and texts four times as long as those of training",
        config=f"experiments/positions/study.py:{size}",
        changes={position: {"model.position": position} for position in POSITIONS},
        seeds=range(3 if size == "full" else 2),
        base="rotary",
        metric=f"at_{4 * short}/loss",
        also=(f"at_{short}/loss", f"at_{2 * short}/loss"),
    )
