"""A small GPT learns Python from the standard library of this machine's interpreter, byte by byte.

Run:      python -m fmjax.train --config=configs/quickstart.py
Takes:    about two and a half minutes on two CPU cores.
Reaches:  1.83 bits per byte on held-out files (gzip -9: 2.01; a bigram model: 3.45), Python 3.11.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.decoding import sampling
from fmjax.evals import evaluators, metrics, samples
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "small", "smoke"] = "full") -> ConfigDict:
    """`size` is "full"; "small" for the kill test; or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": {"full": 380, "small": 60, "smoke": 2}[size]})
    config.model = call(
        transformer.Decoder, vocab=257, width=128 if full else 32, depth=4 if full else 2, heads=4,
        ngrams=(2, 3, 4, 5) if full else (2,), buckets=16384 if full else 256,
    )  # fmt: skip
    config.objective = call(language.NextToken)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=1e-2, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    train = call(corpora.PythonStdlib, split="train")
    held_out = call(corpora.PythonStdlib, split="validation")
    byte = call(tokenizers.byte)
    windows = call(text.Windows, corpus=train, tokenizer=byte, length=128 if full else 32, stride=1)
    config.data = call(pipeline.stream, source=windows, batch_size=16 if full else 8)
    whole = call(text.Windows, corpus=held_out, tokenizer=byte, length=128 if full else 32)
    one_pass = call(pipeline.one_pass, source=whole, batch_size=64, limit=None if full else 64)
    numbers = {"loss": metrics.loss, "bits_per_byte": metrics.BitsPerByte}
    config.evals = {"validation": call(evaluators.average, data=one_pass, metrics=numbers)}
    sampler = call(sampling.Sampler, length=400 if full else 16)
    prompts = ("def ", "class ", "import ", "for ")
    config.evals.samples = call(samples.samples, tokenizer=byte, prompts=prompts, predict=sampler)
    return config
