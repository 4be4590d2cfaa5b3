"""Chat fine-tuning in small: reviews are asked about, and only the answers are learned.

Run:      python -m fmjax.train --config=configs/language/chat_sft.py
Data:     sst2_train.jsonl.gz and sst2_validation.jsonl.gz, under $FMJAX_DATA/nlp.
Takes:    a few minutes on two CPU cores.
Reaches:  the right answer to 0.773 of the validation reviews (seed 0; 0.50 before training, by two answers' chance).
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import asked, chat, choices, corpora, pipeline, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import choice, language
from fmjax.optim import optimizers, schedules

FOLDER = "$FMJAX_DATA/nlp/sst2_"


def get_config(variant: Literal["full", "smoke"] = "full") -> ConfigDict:
    """`variant` is "full", or "smoke" for the two steps that the tests take."""
    full = variant == "full"
    config = ConfigDict({"seed": 0, "steps": 400 if full else 2})
    vocab, train = (2000, "train") if full else (300, "validation")
    corpus = call(corpora.TextFiles, paths=f"{FOLDER}{train}.jsonl.gz", field="sentence")
    subwords = call(tokenizers.trained_bpe, corpus=corpus, vocab=vocab)
    config.model = call(
        transformer.Decoder, vocab=vocab, width=96 if full else 16, depth=2 if full else 1, heads=4, dropout=0.1,
        ngrams=(2,), buckets=8192 if full else 64,
    )  # fmt: skip
    config.objective = call(language.NextToken)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    length = 64 if full else 48
    question = call(asked.Asked, question="{sentence} Good?", answers=("no", "yes"))
    chats = call(
        chat.Chats, paths=f"{FOLDER}{train}.jsonl.gz", tokenizer=subwords, template="plain", length=length,
        long="drop", pack=True, asked=question,
    )  # fmt: skip
    config.data = call(pipeline.stream, source=chats, batch_size=32 if full else 8)
    questions = call(
        choices.Choices, paths=f"{FOLDER}validation.jsonl.gz", tokenizer=subwords, template="plain", length=length,
        asked=question,
    )  # fmt: skip
    one_pass = call(pipeline.one_pass, source=questions, batch_size=64, limit=None if full else 64)
    # Half of the reviews are good: a model that knows nothing answers half of them right.
    config.evals = {
        "validation": call(
            evaluators.average, data=one_pass, metrics={"accuracy": metrics.accuracy, "loss": metrics.loss},
            predict=call(choice.Chooser), every=200 if full else 0,
        )
    }  # fmt: skip
    return config
