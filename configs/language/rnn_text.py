"""A recurrent language model on English novels, byte by byte.

Run:      python -m fmjax.train --config=configs/language/rnn_text.py
Data:     novels_train.jsonl.xz and novels_valid.jsonl.xz, under $FMJAX_DATA/text.
Takes:    280 seconds of CPU time, so about two and a half minutes on two idle cores.
Reaches:  2.07 bits per byte on two held-out books (mean of 3 seeds; gzip -9: 3.05; a bigram model: 3.49).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.decoding import sampling
from fmjax.evals import evaluators, metrics, samples
from fmjax.models import rnn
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 500 if full else 2})
    config.model = call(
        rnn.lstm, vocab=257, width=256 if full else 16, depth=2 if full else 1,
        ngrams=(2, 3, 4, 5) if full else (2,), buckets=16384 if full else 64,
    )  # fmt: skip
    config.objective = call(language.NextToken)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=1e-2, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    byte = call(tokenizers.byte)
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    train = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz") if full else held_out
    crops = call(text.Windows, corpus=train, tokenizer=byte, length=128 if full else 32, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=16 if full else 8)
    numbers = {"loss": metrics.loss, "bits_per_byte": metrics.BitsPerByte}

    def over(start: float, stop: float) -> ConfigDict:
        """Every eighth window of a part of the four books that are held out."""
        part = call(corpora.Part, corpus=held_out, start=start, stop=stop)
        rows = call(text.Windows, corpus=part, tokenizer=byte, length=256, stride=2048)
        one_pass = call(pipeline.one_pass, source=rows, batch_size=64, limit=None if full else 64)
        return call(evaluators.average, data=one_pass, metrics=numbers)

    config.evals = {"validation": over(0.0, 0.5), "test": over(0.5, 1.0)}
    sampler = call(sampling.Sampler, length=400 if full else 8)
    prompts = ("The ", "She ", "When ", "It was ")
    config.evals.samples = call(samples.samples, tokenizer=byte, prompts=prompts, predict=sampler)
    return config
