"""Direct preference optimisation in small: of two answers about a review, the right one is preferred.

Run:      python -m fmjax.train --config=configs/language/dpo.py
          python -m fmjax.train --config=configs/language/dpo.py:start=RUN_OF_CHAT_SFT --config.optimizer.rate.peak=5e-4
Data:     sst2_train.jsonl.gz and sst2_validation.jsonl.gz, under $FMJAX_DATA/nlp.
Takes:    a few minutes on two CPU cores.
Reaches:  not measured yet; 0.50 is chance.

By itself it begins with random weights, so that the whole is small; the question, the answers and the tokenizer are
those of chat_sft.py, whose runs are what preferences refine.
"""

from ml_collections import ConfigDict

from fmjax import pretrained
from fmjax.core.config import call
from fmjax.data import asked, corpora, pipeline, preferences, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import transformer
from fmjax.objectives import preference
from fmjax.optim import optimizers, schedules

FOLDER = "$FMJAX_DATA/nlp/sst2_"


def get_config(variant: str = "full") -> ConfigDict:
    """`variant` is "full", "start=PATH" of a run of chat_sft.py, or "smoke" for the two steps that the tests take."""
    full, start = pretrained.variant(variant)
    config = ConfigDict({"seed": 0, "steps": 400 if full else 2})
    vocab, train = (2000, "train") if full else (300, "validation")
    corpus = call(corpora.TextFiles, paths=f"{FOLDER}{train}.jsonl.gz", field="sentence")
    subwords = call(tokenizers.trained_bpe, corpus=corpus, vocab=vocab)
    decoder = call(
        transformer.Decoder, vocab=vocab, width=96 if full else 16, depth=2 if full else 1, heads=4,
        ngrams=(2,), buckets=8192 if full else 64,
    )  # fmt: skip
    if start:  # both nets begin where the chats ended
        decoder, subwords = pretrained.model(start), pretrained.tokenizer(start)
        config.init = call(pretrained.weights, path=start)
    config.models = {"model": decoder, "reference": decoder.copy_and_resolve_references()}
    config.objective = call(preference.DPO, beta=0.1)
    steps = config.get_oneway_ref("steps")
    rate = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    tables = call(schedules.warmup_cosine, peak=5e-3, steps=steps, warmup="5%")
    config.optimizer = call(optimizers.muon, rate=rate, adamw_rate=tables)
    config.clip = 1.0
    question = call(asked.Asked, question="{sentence} Good?", answers=("no", "yes"))

    def pairs(part: str, length: int) -> ConfigDict:
        return call(
            preferences.Preferences, paths=f"{FOLDER}{part}.jsonl.gz", tokenizer=subwords, template="plain",
            length=length, long="drop", asked=question,
        )  # fmt: skip

    config.data = call(pipeline.stream, source=pairs(train, 48 if full else 64), batch_size=32 if full else 8)
    one_pass = call(
        pipeline.one_pass, source=pairs("validation", 96 if full else 64), batch_size=64, limit=None if full else 64
    )
    numbers = {"accuracy": metrics.accuracy, "loss": metrics.loss}
    config.evals = {
        "validation": call(evaluators.average, data=one_pass, metrics=numbers, every=200 if full else 0),
        # What the model itself finds likelier, whatever the reference says.
        "choice": call(evaluators.average, data=one_pass, metrics=numbers, predict="choice"),
    }
    return config
