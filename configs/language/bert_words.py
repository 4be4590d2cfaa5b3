"""A small BERT of lower-cased words, on novels and phrases of film reviews: something for other tasks to start from.

Run:      python -m fmjax.train --config=configs/language/bert_words.py --workdir=runs/bert_words
          python -m fmjax.train --config=configs/language/sst2.py:start=runs/bert_words
Data:     novels_train.jsonl.xz (its first fifth) and novels_valid.jsonl.xz under $FMJAX_DATA/text, and the sentences,
          without their labels, of sst2_train.jsonl.gz under $FMJAX_DATA/nlp.
Takes:    about ten minutes on two CPU cores.
Reaches:  see the README's rows of SST-2, with and without it.
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
    config = ConfigDict({"seed": 0, "steps": 3000 if full else 2})
    vocab, length = (8000, 64) if full else (400, 32)
    config.model = call(
        transformer.Encoder, vocab=vocab, width=128 if full else 16, depth=2 if full else 1, heads=4,
        position="rotary", output="masked", dropout=0.1 if full else 0.0,
    )  # fmt: skip
    config.objective = call(masked.MaskedTokens, most=20 if full else 10)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    small = call(schedules.warmup_cosine, peak=3e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=small)
    config.clip = 1.0
    held_out = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_valid.jsonl.xz")
    if full:
        novels = call(corpora.TextFiles, paths="$FMJAX_DATA/text/novels_train.jsonl.xz")
        novels = call(corpora.Part, corpus=novels, stop=0.2)
        reviews = call(corpora.TextFiles, paths="$FMJAX_DATA/nlp/sst2_train.jsonl.gz", field="sentence")
        train = call(corpora.Several, corpora=(novels, reviews))
    else:
        train = call(corpora.Part, corpus=held_out, stop=0.02)
    subwords = call(tokenizers.trained_wordpiece, corpus=train, vocab=vocab)
    hidden = call(tokenizers.special_id, tokenizer=subwords, name="mask")

    def masking(rate: float) -> ConfigDict:
        return call(corruption.MaskTokens, tokenizer=subwords, mask=hidden, rate=rate)

    rows = call(text.Windows, corpus=train, tokenizer=subwords, length=length - 1)
    config.data = call(pipeline.stream, source=rows, batch_size=32 if full else 8, transforms=(masking(0.2),))
    part = call(corpora.Part, corpus=held_out, stop=0.5 if full else 0.02)
    other = call(text.Windows, corpus=part, tokenizer=subwords, length=length - 1)
    one_pass = call(
        pipeline.one_pass, source=other, batch_size=64, transforms=(masking(0.15),), limit=2048 if full else 64
    )
    config.evals = {
        "validation": call(
            evaluators.average, data=one_pass, metrics={"loss": metrics.loss, "accuracy": metrics.accuracy}
        )
    }
    return config
