"""A ladder of byte-level GPTs on English novels: one dial, the depth, sets width, heads, batch, rate and horizon.

Run:      python -m fmjax.train --config=configs/language/ladder.py:depth=2
          python -m fmjax.train --config=configs/language/ladder.py:depth=4,ratio=5
Data:     novels_train.jsonl.xz and novels_valid.jsonl.xz under $FMJAX_DATA/text; "smoke" reads Python's own library.
Takes:    three minutes at depth 1 on two busy CPU cores; the work grows with the sixth power of the depth.
Reaches:  3.40 bits per byte on the held-out novels at depth 1 (66 thousand weights, 1.3 MB of text).

`depth=N` is N blocks of width 64 N with heads of 64; `ratio=R` trains on R bytes for each weight, 20 by default
(arXiv 2203.15556). The rate is the best of benchmarks/rate_transfer.py at width 128, for the larger batch here; the
maximal-update parametrisation (fmjax/optim/mup.py) carries it to other widths, so that a rung needs no tuning of its
own. Of the depth itself it says nothing.
"""

import math

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.core.errors import ConfigError
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import mup, optimizers, schedules

HEAD, VOCAB, LENGTH = 64, 257, 256
BASE = 128  # the width, at depth 2, that these are for:
ROWS, RATE, DECAY = 32, 8e-3, 0.1
DIALS = {"depth": 2, "ratio": 20.0}


def get_config(variant: str = "depth=2") -> ConfigDict:
    """`variant` is depth=N or depth=N,ratio=R; or "smoke" for the two steps that the tests take."""
    smoke = variant == "smoke"
    depth, ratio = (1, 20.0) if smoke else read(variant)
    width = HEAD * depth
    horizon = ratio * (12 * depth * width**2 + VOCAB * width)
    first = DIALS["ratio"] * (12 * 2 * BASE**2 + VOCAB * BASE)
    # The batch grows with the horizon (arXiv 2505.13738), the rate with the root of the batch (arXiv 2006.09092).
    rows = 8 if smoke else 2 ** round(math.log2(ROWS * (horizon / first) ** 0.4))
    steps = max(1, round(horizon / (rows * LENGTH)))
    config = ConfigDict({"seed": 0, "steps": 2 if smoke else steps})
    config.model = call(
        transformer.Decoder, vocab=VOCAB, width=width, depth=depth, heads=depth, **mup.multipliers(width, BASE)
    )
    config.objective = call(language.NextToken)
    rate = call(
        schedules.warmup_cosine, peak=RATE * (rows / ROWS) ** 0.5, steps=config.get_oneway_ref("steps"), warmup="5%"
    )
    # Decay times rate is the same for the matrices of every rung.
    config.optimizer = call(
        optimizers.adamw, rate=rate, b2=0.95, decay=DECAY * width / BASE, decay_on=mup.HIDDEN,
        rates=mup.rates(width, BASE),
    )  # fmt: skip
    config.clip = 1.0
    if smoke:
        train = held_out = call(corpora.PythonStdlib, split="validation")
    else:
        train = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz")
        held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    byte = call(tokenizers.byte)
    length = 32 if smoke else LENGTH
    windows = call(text.Windows, corpus=train, tokenizer=byte, length=length, stride=1)
    config.data = call(pipeline.stream, source=windows, batch_size=rows)
    whole = call(text.Windows, corpus=held_out, tokenizer=byte, length=length)
    one_pass = call(pipeline.one_pass, source=whole, batch_size=64, limit=64 if smoke else None)
    numbers = {"loss": metrics.loss, "bits_per_byte": metrics.BitsPerByte}
    config.evals = {"validation": call(evaluators.average, data=one_pass, metrics=numbers)}
    return config


def read(variant: str) -> tuple[int, float]:
    """(depth, ratio) of "depth=4,ratio=5".

    Raises:
      ConfigError: another word, or a number that is out of range.
    """
    found = dict(DIALS)
    for part in variant.split(","):
        name, _, value = part.partition("=")
        if name not in DIALS:
            raise ConfigError(f"ladder.py has no variant {variant!r}; write depth=4, depth=4,ratio=5 or smoke")
        try:
            found[name] = type(DIALS[name])(value)
        except ValueError:
            raise ConfigError(f"ladder.py:{variant}: {name} is a number such as {DIALS[name]}, not {value!r}") from None
    if not 1 <= found["depth"] <= 64 or not 0 < found["ratio"] < 1e6:
        raise ConfigError(f"ladder.py:{variant}: give a depth from 1 to 64 and a ratio above 0")
    return found["depth"], found["ratio"]
