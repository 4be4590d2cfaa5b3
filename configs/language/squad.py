"""Where in a paragraph is the answer? A part of SQuAD, read by a small encoder that starts from nothing.

Run:      python -m fmjax.train --config=configs/language/squad.py
Data:     squad2_devpart.json.gz and xquad_en.json.gz, under $FMJAX_DATA/nlp.
Takes:    about three minutes on two CPU cores.
Reaches:  F1 0.024 on 838 questions; 0.074 from the real MiniLM after 800 windows (means of 3 seeds).

It learns from the 2,910 questions with an answer in half of SQuAD 2.0's dev set, less two articles to choose by; the
test is the English XQuAD, a part of SQuAD 1.1's dev set, less the articles that both have. Without a pretrained
encoder so few questions teach little more than what an answer looks like.
"""

from typing import Any

from ml_collections import ConfigDict

from fmjax import pretrained
from fmjax.core.config import call
from fmjax.data import pipeline, questions, tokenizers
from fmjax.evals import answers, evaluators, metrics
from fmjax.models import heads, transformer
from fmjax.objectives import spans
from fmjax.optim import optimizers, schedules

TRAIN = "$FMJAX_DATA/nlp/squad2_devpart.json.gz"
TEST = "$FMJAX_DATA/nlp/xquad_en.json.gz"


def get_config(variant: str = "full") -> ConfigDict:
    """`variant` is "full", "start=PATH", or "smoke" for the two steps that the tests take."""
    full, start = pretrained.variant(variant)
    config = ConfigDict({"seed": 0, "steps": 100 if full else 2})
    backbone, subwords = language_model(full, start)
    config.model = call(heads.TokenClassifier, backbone=backbone, classes=2, dropout=0.1)
    config.objective = call(spans.Spans)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=1e-3, steps=steps, warmup="10%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.1)
    config.clip = 1.0
    if start:
        config.init = call(pretrained.weights, path=start)
    short = {"length": 192, "stride": 96} if full else {"length": 192, "stride": 96, "longest": 48}
    long = {"length": 256, "stride": 128} if full else short  # most paragraphs in one window

    def asked(paths: str, **more: Any) -> ConfigDict:
        return call(questions.Questions, paths=paths, tokenizer=subwords, answerable=True, **more)

    config.data = call(pipeline.stream, source=asked(TRAIN, part="train", **short), batch_size=8 if full else 4)

    def over(source: ConfigDict) -> ConfigDict:
        one_pass = call(pipeline.one_pass, source=source, batch_size=32, limit=None if full else 32)
        numbers = {"loss": metrics.loss, "f1": call(answers.AnswerScores, source=source)}
        return call(evaluators.average, data=one_pass, metrics=numbers)

    validation, test = asked(TRAIN, part="validation", **long), asked(TEST, without=TRAIN, **long)
    config.evals = {"validation": over(validation), "test": over(test)}
    return config


def language_model(full: bool, start: str) -> tuple[ConfigDict, ConfigDict]:
    """The backbone, and the tokenizer that it reads with."""
    if start:
        return pretrained.model(start), pretrained.tokenizer(start)
    vocab = 6000 if full else 400
    passages = call(questions.Passages, paths=TRAIN, part="train" if full else "validation")
    subwords = call(tokenizers.trained_wordpiece, corpus=passages, vocab=vocab)
    backbone = call(
        transformer.Encoder, vocab=vocab, width=128 if full else 16, depth=2 if full else 1, heads=4, output="none",
        position="rotary", token_types=2, dropout=0.1,
    )  # fmt: skip
    return backbone, subwords
