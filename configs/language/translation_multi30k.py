"""A small transformer translates captions of pictures from German to English.

Run:      python -m fmjax.train --config=configs/language/translation_multi30k.py
Data:     multi30k_train.jsonl.gz, _val and _test_2016_flickr, under $FMJAX_DATA/nlp.
Takes:    about five minutes on two CPU cores; `:gpu` has 9M parameters and 30 epochs, and was not run here.
Reaches:  22.4 BLEU (sacreBLEU, 4 beams) on test_2016_flickr after 500 steps; 0.497 of its subwords given those before
          (a bigram model of the targets: 0.277; means of 3 seeds).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import corpora, pairs, pipeline, tokenizers
from fmjax.decoding import beam
from fmjax.evals import evaluators, generation, metrics, text_scores
from fmjax.models import transformer
from fmjax.objectives import sequence
from fmjax.optim import optimizers, schedules


def get_config(size: Literal["full", "gpu", "smoke"] = "full") -> ConfigDict:
    """`size` is "full" for a CPU, "gpu" for 9M parameters and 30 epochs, or "smoke" for the tests' two steps."""
    full, gpu = size != "smoke", size == "gpu"
    config = ConfigDict({"seed": 0, "steps": 7000 if gpu else 500 if full else 2})
    vocab = 8000 if gpu else 4000 if full else 300
    config.model = call(
        transformer.EncoderDecoder, vocab=vocab, width=256 if gpu else 128 if full else 16,
        depth=4 if gpu else 2 if full else 1, heads=8 if gpu else 4, dropout=0.3 if gpu else 0.1,
    )  # fmt: skip
    config.objective = call(sequence.SequenceToSequence, smoothing=0.1)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    small = call(schedules.warmup_cosine, peak=3e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=small)
    config.clip = 1.0
    folder = "$FMJAX_DATA/nlp/multi30k_"
    both = tuple(
        call(corpora.TextFiles, paths=f"{folder}{'train' if full else 'val'}.jsonl.gz", field=f) for f in ("de", "en")
    )
    subwords = call(tokenizers.trained_bpe, corpus=call(corpora.Several, corpora=both), vocab=vocab)

    def captions(part: str, length: int) -> ConfigDict:
        return call(
            pairs.Pairs, paths=f"{folder}{part}.jsonl.gz", source="de", target="en", tokenizer=subwords,
            source_length=length, target_length=length, long="truncate",
        )  # fmt: skip

    config.data = call(
        pipeline.stream, source=captions("train" if full else "val", 40 if full else 32),
        batch_size=128 if gpu else 64 if full else 8,
    )  # fmt: skip

    def read(part: str) -> ConfigDict:
        return call(
            pipeline.one_pass, source=captions(part, 80 if full else 32), batch_size=64, limit=None if full else 64
        )

    def over(part: str) -> ConfigDict:
        numbers = {"loss": metrics.loss, "accuracy": metrics.accuracy}
        return call(evaluators.average, data=read(part), metrics=numbers)

    config.evals = {"validation": over("val"), "test": over("test_2016_flickr")}
    eos = call(tokenizers.special_id, tokenizer=subwords, name="eos")
    search = call(beam.Beam, beams=4 if full else 2, length=64 if full else 4, eos=eos)
    scores = {"bleu": text_scores.Bleu, "chrf": text_scores.Chrf}
    config.evals.written = call(generation.generation, data=read("test_2016_flickr"), predict=search, metrics=scores)
    return config
