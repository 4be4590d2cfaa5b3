"""A small T5 on English novels: which subwords stood where the sentinels are?

Run:      python -m fmjax.train --config=configs/language/t5_text.py
Data:     novels_train.jsonl.xz (its first tenth) and novels_valid.jsonl.xz, under $FMJAX_DATA/text.
Takes:    about three minutes on two CPU cores.
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
    config = ConfigDict({"seed": 0, "steps": 600 if full else 2})
    vocab, sentinels, length = 1024 if full else 300, 20, 128 if full else 32
    config.model = call(
        transformer.EncoderDecoder, vocab=vocab + sentinels, width=128 if full else 16, depth=3 if full else 1, heads=4,
        position="relative",
    )  # fmt: skip
    config.objective = call(sequence.SequenceToSequence)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    small = call(schedules.warmup_cosine, peak=3e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=small)
    config.clip = 1.0
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    novels = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz") if full else held_out
    train = call(corpora.Part, corpus=novels, stop=0.1 if full else 0.02)
    subwords = call(tokenizers.trained_bpe, corpus=train, vocab=vocab)
    subwords = call(tokenizers.with_specials, tokenizer=subwords, names=(), sentinels=sentinels)
    marks = call(tokenizers.sentinels, tokenizer=subwords)
    corrupted = (call(denoising.SpanCorruption, length=length, sentinels=marks),)
    crops = call(text.Windows, corpus=train, tokenizer=subwords, length=length - 1, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=16 if full else 8, transforms=corrupted)

    def over(start: float, stop: float) -> ConfigDict:
        """Every fourth row of a part of the four books that are held out."""
        part = call(corpora.Part, corpus=held_out, start=start, stop=stop)
        rows = call(text.Windows, corpus=part, tokenizer=subwords, length=length - 1, stride=512)
        one_pass = call(pipeline.one_pass, source=rows, batch_size=64, transforms=corrupted, limit=None if full else 64)
        return call(evaluators.average, data=one_pass, metrics={"loss": metrics.loss, "accuracy": metrics.accuracy})

    config.evals = {"validation": over(0.0, 0.5), "test": over(0.5, 1.0)}
    return config
