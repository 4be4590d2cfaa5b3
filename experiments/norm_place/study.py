"""Where should the norms of a transformer stand, as it gets deeper? Before each branch, or after each sum.

Run:      python -m fmjax.sweep --study=experiments/norm_place/study.py --workdir=runs/norm_place --population
          python -m fmjax.sweep --study=experiments/norm_place/study.py --workdir=runs/norm_place --report
Smoke:    the same with --study=experiments/norm_place/study.py:smoke: a few steps at one depth.
Data:     tinyshakespeare.txt.gz, under $FMJAX_DATA/text.

A character model of 2, 6 and 12 blocks. The rate of each is the best of three on the first half of the validation
text; the table compares the two places of the norm at each depth, at those rates, on the second half.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules
from fmjax.study import Study, chain, grid
from fmjax.training.policies import Log

Size = Literal["full", "smoke"]


def get_config(size: Size = "full") -> ConfigDict:
    """A decoder of 2 blocks on the characters of tiny Shakespeare."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 300 if full else 2})
    config.model = call(transformer.Decoder, vocab=65, width=48 if full else 8, depth=2 if full else 1, heads=4)
    config.objective = call(language.NextToken)
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=config.get_oneway_ref("steps"), warmup="5%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.1, b2=0.99)
    config.clip = 1.0
    whole = call(corpora.TextFiles, paths="$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    characters = call(tokenizers.characters, corpus=whole)

    def windows(start: float, stop: float, stride: int | None = None) -> ConfigDict:
        part = call(corpora.Part, corpus=whole, start=start, stop=stop)
        return call(text.Windows, corpus=part, tokenizer=characters, length=64 if full else 8, stride=stride)

    config.data = call(pipeline.stream, source=windows(0.0, 0.9, stride=1), batch_size=16 if full else 4)

    def over(start: float, stop: float) -> ConfigDict:
        data = call(pipeline.one_pass, source=windows(start, stop), batch_size=64, limit=None if full else 64)
        return call(evaluators.average, data=data, metrics={"loss": metrics.loss})

    config.evals = {"validation": over(0.9, 0.95), "test": over(0.95, 1.0)}
    config.log = call(Log, every=50, tensorboard=False)
    return config


def get_study(size: Size = "full") -> Study:
    """Both places at each depth, at three rates; "smoke" takes one depth and two rates."""
    depths, peaks = ((2, 6, 12), (1e-3, 3e-3, 1e-2)) if size == "full" else ((1,), (1e-3, 3e-3))
    changes = chain(*(
        grid(
            {f"{place}-norm {depth} blocks": {"model.norm_place": place, "model.depth": depth}},
            {"optimizer.rate.peak": peaks},
        )
        for depth in depths
        for place in ("pre", "post")
    ))  # fmt: skip
    return Study(
        title="Norms before each branch or after each sum, by depth",
        config=f"experiments/norm_place/study.py:{size}",
        changes=changes,
        seeds=range(3 if size == "full" else 2),
        base=f"pre-norm {depths[0]} blocks",
        against={f"post-norm {depth} blocks": f"pre-norm {depth} blocks" for depth in depths},
        metric="test/loss",
        choose="validation/loss",
    )
