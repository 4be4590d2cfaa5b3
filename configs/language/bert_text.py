"""A small BERT on English novels: which of 1,024 subwords is hidden here?

Run:      python -m fmjax.train --config=configs/language/bert_text.py
Data:     novels_train.jsonl.xz (its first tenth) and novels_valid.jsonl.xz, under $FMJAX_DATA/text.
Takes:    about four minutes on two CPU cores.
Reaches:  0.268 of the hidden subwords of two held-out books (mean of 3 seeds; after the left neighbour: 0.111).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, corruption, pipeline, text, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import masked
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 500 if full else 2})
    vocab = 1024 if full else 300
    config.model = call(
        transformer.Encoder, vocab=vocab + 1, width=128 if full else 16, depth=4 if full else 1, heads=4,
        position="rotary", ngrams=(2, 3) if full else (2,), buckets=16384 if full else 64,
    )  # fmt: skip
    config.objective = call(masked.MaskedTokens, most=40 if full else 8)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=1e-2, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    novels = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz") if full else held_out
    train = call(corpora.Part, corpus=novels, stop=0.1 if full else 0.02)
    subwords = call(tokenizers.trained_bpe, corpus=train, vocab=vocab)
    subwords = call(tokenizers.with_specials, tokenizer=subwords, names=("mask",))
    hidden = call(tokenizers.special_id, tokenizer=subwords, name="mask")

    def masking(rate: float) -> ConfigDict:
        return call(corruption.MaskTokens, tokenizer=subwords, mask=hidden, rate=rate)

    crops = call(text.Windows, corpus=train, tokenizer=subwords, length=127 if full else 31, stride=1)
    # More is hidden in training than in evaluation: more targets a step (arXiv 2202.08005).
    config.data = call(
        pipeline.stream, source=crops, batch_size=16 if full else 8, transforms=(masking(0.3 if full else 0.2),)
    )

    def over(start: float, stop: float) -> ConfigDict:
        """Every fourth row of a part of the four books that are held out."""
        part = call(corpora.Part, corpus=held_out, start=start, stop=stop)
        rows = call(text.Windows, corpus=part, tokenizer=subwords, length=127 if full else 31, stride=512)
        one_pass = call(
            pipeline.one_pass, source=rows, batch_size=64, transforms=(masking(0.15),), limit=None if full else 64
        )
        return call(evaluators.average, data=one_pass, metrics={"loss": metrics.loss, "accuracy": metrics.accuracy})

    config.evals = {"validation": over(0.0, 0.5), "test": over(0.5, 1.0)}
    return config
