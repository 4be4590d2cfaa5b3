"""A small T5 on English novels, over bytes (as ByT5, arXiv 2105.13626): what stood where the sentinels are?

Run:      python -m fmjax.train --config=configs/language/t5_text.py
Data:     novels_train.jsonl.xz and novels_valid.jsonl.xz, under $FMJAX_DATA/text.
Takes:    about four minutes on two CPU cores.
Reaches:  0.458 of the hidden bytes of two held-out books (mean of 3 seeds; a bigram model: 0.281).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, denoising, pipeline, text, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import sequence
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 350 if full else 2})
    length, sentinels = 256 if full else 32, 20
    config.model = call(
        transformer.EncoderDecoder, vocab=257 + sentinels, width=128 if full else 16, depth=3 if full else 1, heads=4,
        position="relative", ngrams=(2, 3, 4) if full else (2,), buckets=16384 if full else 64,
    )  # fmt: skip
    config.objective = call(sequence.SequenceToSequence)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=1e-2, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    train = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz") if full else held_out
    marked = call(tokenizers.with_specials, tokenizer=call(tokenizers.byte), names=(), sentinels=sentinels)
    marks = call(tokenizers.sentinels, tokenizer=marked)
    corrupted = call(denoising.SpanCorruption, length=length, sentinels=marks, density=0.25, mean_span=12.0)
    crops = call(text.Windows, corpus=train, tokenizer=marked, length=length - 1, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=16 if full else 8, transforms=(corrupted,))

    def over(start: float, stop: float) -> ConfigDict:
        """Every eighth row of a part of the four books that are held out; sentinels do not count."""
        part = call(corpora.Part, corpus=held_out, start=start, stop=stop)
        rows = call(text.Windows, corpus=part, tokenizer=marked, length=length - 1, stride=2048)
        transforms = (corrupted, call(denoising.Uncounted, ids=marks))
        one_pass = call(
            pipeline.one_pass, source=rows, batch_size=64, transforms=transforms, limit=None if full else 64
        )
        return call(evaluators.average, data=one_pass, metrics={"loss": metrics.loss, "accuracy": metrics.accuracy})

    config.evals = {"validation": over(0.0, 0.5), "test": over(0.5, 1.0)}
    return config
