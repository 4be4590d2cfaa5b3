"""Vectors of captions: German and English ones of one picture lie close, whatever the language.

Run:      python -m fmjax.train --config=configs/language/embeddings_multi30k.py
Data:     multi30k_train.jsonl.gz, _val and _test_2016_flickr, under $FMJAX_DATA/nlp.
Takes:    400 seconds of CPU time, so about three and a half minutes on two idle cores.
Reaches:  the English caption nearest to a German one of test_2016_flickr is its own for 0.903 of 1,000
          (mean of 3 seeds; 0.003 with untrained weights).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pairs, pipeline, tokenizers
from fmjax.evals import evaluators, similarity
from fmjax.models import embedder, transformer
from fmjax.objectives import contrastive
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`size` is "full", or "smoke" for the two steps that the tests take."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": 400 if full else 2})
    vocab = 6000 if full else 300
    backbone = call(
        transformer.Encoder, vocab=vocab, width=128 if full else 16, depth=2 if full else 1, heads=4,
        position="rotary", output="none", dropout=0.1,
    )  # fmt: skip
    config.model = call(embedder.Embedder, backbone=backbone)
    config.objective = call(contrastive.InBatch, temperature=0.05)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=3e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    folder = "$FMJAX_DATA/nlp/multi30k_"
    both = tuple(
        call(corpora.TextFiles, paths=f"{folder}{'train' if full else 'val'}.jsonl.gz", field=f) for f in ("de", "en")
    )
    subwords = call(tokenizers.trained_bpe, corpus=call(corpora.Several, corpora=both), vocab=vocab)

    def captions(part: str) -> ConfigDict:
        return call(
            pairs.Pairs, paths=f"{folder}{part}.jsonl.gz", source="de", target="en", tokenizer=subwords,
            source_length=32, target_length=32, long="truncate",
        )  # fmt: skip

    config.data = call(pipeline.stream, source=captions("train" if full else "val"), batch_size=128 if full else 8)

    def over(part: str) -> ConfigDict:
        one_pass = call(pipeline.one_pass, source=captions(part), batch_size=64, limit=None if full else 64)
        return call(evaluators.average, data=one_pass, metrics={"retrieval": call(similarity.Retrieval)})

    config.evals = {"validation": over("val"), "test": over("test_2016_flickr")}
    return config
