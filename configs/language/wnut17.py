"""Which words of a post are names, and of what? WNUT-17, read by a small encoder that starts from nothing.

Run:      python -m fmjax.train --config=configs/language/wnut17.py
Data:     wnut17_train.jsonl.gz, wnut17_dev.jsonl.gz and wnut17_test.jsonl.gz, under $FMJAX_DATA/nlp.
Takes:    about two minutes on two CPU cores.
Reaches:  entity F1 0.084 on the test part after 6 epochs (--config.steps=6epochs); 0.356 from the real MiniLM after one
          (means of 3 seeds).
"""

from ml_collections import ConfigDict

from fmjax import pretrained
from fmjax.core.config import call
from fmjax.data import pipeline, tagged, tokenizers
from fmjax.evals import entities, evaluators, metrics
from fmjax.models import heads, transformer
from fmjax.objectives import tagging
from fmjax.optim import optimizers, schedules

FOLDER = "$FMJAX_DATA/nlp/wnut17_"
TAGS = tagged.bio("corporation", "creative-work", "group", "location", "person", "product")


def get_config(variant: str = "full") -> ConfigDict:
    """`variant` is "full", "start=PATH", or "smoke" for the two steps that the tests take."""
    full, start = pretrained.variant(variant)
    config = ConfigDict({"seed": 0, "steps": 212 if full else 2})
    backbone, subwords = language_model(full, start)
    config.model = call(heads.TokenClassifier, backbone=backbone, classes=len(TAGS), dropout=0.3)
    config.objective = call(tagging.TagTokens)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=steps, warmup="10%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.1)
    config.clip = 1.0
    if start:
        config.init = call(pretrained.weights, path=start)

    def posts(part: str) -> ConfigDict:
        return call(
            tagged.TaggedWords, paths=f"{FOLDER}{part}.jsonl.gz", tokenizer=subwords, names=TAGS,
            length=64 if full else 32,
        )  # fmt: skip

    config.data = call(pipeline.stream, source=posts("train" if full else "dev"), batch_size=16 if full else 8)

    def over(part: str) -> ConfigDict:
        source = posts(part)
        one_pass = call(pipeline.one_pass, source=source, batch_size=64, limit=None if full else 64)
        numbers = {"loss": metrics.loss, "f1": call(entities.EntityF1, source=source)}
        return call(evaluators.average, data=one_pass, metrics=numbers)

    config.evals = {"validation": over("dev"), "test": over("test")}
    return config


def language_model(full: bool, start: str) -> tuple[ConfigDict, ConfigDict]:
    """The backbone, and the tokenizer that it reads with; names are told by their case."""
    if start:
        return pretrained.model(start), pretrained.tokenizer(start)
    vocab = 4000 if full else 500
    posts = call(tagged.Sentences, paths=f"{FOLDER}{'train' if full else 'dev'}.jsonl.gz")
    subwords = call(tokenizers.trained_wordpiece, corpus=posts, vocab=vocab, lowercase=False, strip_accents=False)
    backbone = call(
        transformer.Encoder, vocab=vocab, width=128 if full else 16, depth=2 if full else 1, heads=4, output="none",
        position="rotary", dropout=0.2,
    )  # fmt: skip
    return backbone, subwords
