"""A small GPT on English novels, byte by byte, with n-gram tables.

Run:      python -m fmjax.train --config=configs/language/gpt_text.py
Data:     novels_train.jsonl.xz and novels_valid.jsonl.xz, under $FMJAX_DATA/text.
Takes:    about three minutes on two CPU cores.
Reaches:  2.15 bits per byte on two held-out books (mean of 3 seeds; a bigram model: 3.49).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pipeline, text, tokenizers
from fmjax.decoding import sampling
from fmjax.evals import domains, evaluators, metrics, samples
from fmjax.models import transformer
from fmjax.objectives import language
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 400 if full else 2})
    config.model = call(
        transformer.Decoder, vocab=257, width=128 if full else 16, depth=4 if full else 1, heads=4,
        ngrams=(2, 3, 4, 5) if full else (2,), buckets=16384 if full else 64,
    )  # fmt: skip
    config.objective = call(language.NextToken)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=1e-2, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    train = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz") if full else held_out
    byte = call(tokenizers.byte)
    crops = call(text.Windows, corpus=train, tokenizer=byte, length=256 if full else 32, stride=1)
    config.data = call(pipeline.stream, source=crops, batch_size=8)
    numbers = {"loss": metrics.loss, "bits_per_byte": metrics.BitsPerByte}

    def read(corpus: ConfigDict) -> ConfigDict:
        """Every eighth window."""
        rows = call(text.Windows, corpus=corpus, tokenizer=byte, length=256, stride=2048)
        return call(pipeline.one_pass, source=rows, batch_size=64, limit=None if full else 64)

    halves = {"validation": (0.0, 0.5), "test": (0.5, 1.0)}  # of the four books that are held out
    config.evals = {
        name: call(
            evaluators.average, metrics=numbers,
            data=read(call(corpora.Part, corpus=held_out, start=start, stop=stop)),
        )
        for name, (start, stop) in halves.items()
    }  # fmt: skip
    others = {"novels": held_out}  # what else is text, and how much stranger it is
    if full:
        others["wikipedia"] = call(corpora.TextFiles, paths="$FMJAX_DATA/text/wikitext2_valid.txt.gz")
        others["reviews"] = call(corpora.TextFiles, paths="$FMJAX_DATA/nlp/sst2_validation.jsonl.gz", field="sentence")
        others["plays"] = call(corpora.TextFiles, paths="$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    config.evals.domains = call(
        domains.domains, data={name: read(corpus) for name, corpus in others.items()},
        metrics={**numbers, "perplexity": metrics.Perplexity},
    )  # fmt: skip
    sampler = call(sampling.Sampler, length=400 if full else 8)
    prompts = ("The ", "She ", "When ", "It was ")
    config.evals.samples = call(samples.samples, tokenizer=byte, prompts=prompts, predict=sampler)
    return config
