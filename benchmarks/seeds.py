"""Learning results over seeds: `python benchmarks/seeds.py NAME [NAME ...]` trains, and writes a row for each.

Every seed is an ordinary run in a folder of its own, so that the command can be stopped and given again; the row keeps
each seed's number, their mean and spread.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counted

from fmjax import results
from fmjax.core.errors import exits


@dataclasses.dataclass(frozen=True)
class Study:
    """One row: a config, overrides, and the number that counts."""

    task: str
    metric: str
    config: str
    seeds: int = 3
    overrides: tuple[str, ...] = ()
    baseline: Callable[[Any], tuple[str, float, str]] | None = None
    published: tuple[float, str] | None = None
    target: str | None = None
    note: str = ""


STUDIES = {
    "mlp_mnist": Study(
        "784-128-10 on MNIST, plain recipe", "test/accuracy", "configs/vision/mlp_mnist.py", seeds=5,
        published=(0.984, "one published run of this network"), target="a bare prototype's mean 0.978",
    ),
    "mlp_mnist_better": Study(
        "784-128-10 on MNIST, better recipe", "test/accuracy", "configs/vision/mlp_mnist.py", seeds=5,
        overrides=(
            "--config.optimizer=fmjax.optim.optimizers:muon",
            "--config.optimizer.rate=fmjax.optim.schedules:warmup_cosine",
            "--config.optimizer.rate.peak=3e-3", "--config.optimizer.rate.steps=15epochs",
            "--config.optimizer.rate.warmup=200", "--config.optimizer.decay=0.05", "--config.ema=0.999",
            "--config.objective.augment[0].rotate=8.0", "--config.objective.augment[0].zoom=0.08",
            "--config.objective.augment[0].translate=0.07",
        ),
        published=(0.984, "one published run of this network"), target=">= 0.984",
        note="augmentation, schedule and averages, chosen on 5,000 training images",
    ),
    "convnet_digits": Study(
        "convolutional network on scikit-learn's digits", "test/accuracy", "configs/vision/convnet_digits.py", seeds=5,
        target=">= 0.97",
    ),
    "convnet_cifar10": Study(
        "classic 32-64-128 network on CIFAR-10", "test/accuracy", "configs/vision/convnet_cifar10.py",
        published=(0.72, "published for this network"), target=">= 0.72",
        note="this copy of the images went through JPEG, which costs a little accuracy",
    ),
    "gpt_shakespeare_char": Study(
        "character GPT on tiny Shakespeare, validation loss (nats)", "validation/loss",
        "configs/language/gpt_shakespeare_char.py", published=(1.88, "nanoGPT README, CPU recipe"), target="<= 1.88",
    ),
    "gpt_text": Study(
        "small GPT on English novels, byte by byte, two held-out books", "test/bits_per_byte",
        "configs/language/gpt_text.py", baseline=counted.bits_per_byte, target="below the bigram",
    ),
    "rnn_text": Study(
        "small LSTM on English novels, byte by byte, two held-out books", "test/bits_per_byte",
        "configs/language/rnn_text.py", baseline=counted.bits_per_byte, target="below the bigram",
    ),
    "bert_text": Study(
        "small BERT on English novels (1,024 subwords), hidden tokens of two held-out books", "test/accuracy",
        "configs/language/bert_text.py", baseline=counted.masked_accuracy, target="above the bigram",
    ),
    "t5_text": Study(
        "small T5 on English novels, byte by byte, spans of two held-out books (sentinels not counted)",
        "test/accuracy", "configs/language/t5_text.py", baseline=counted.target_accuracy, target="above the bigram",
        note="teacher-forced",
    ),
    "translation_multi30k": Study(
        "small encoder-decoder, Multi30k German to English, test_2016_flickr", "test/accuracy",
        "configs/language/translation_multi30k.py", baseline=counted.target_accuracy, target="above the bigram",
        note="teacher-forced accuracy of subwords",
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Read the names, train every seed, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=STUDIES)
    parser.add_argument("--workdir", default="runs/seeds", help="where the runs go")
    args = parser.parse_args(argv)

    from fmjax.start import start

    start()
    from fmjax.assembly import prepare
    from fmjax.run import fit

    for name in args.names:
        study, values, seconds = STUDIES[name], [], []
        for seed in range(study.seeds):
            began = time.perf_counter()
            folder = Path(args.workdir) / name / f"seed_{seed}"
            run = fit(study.config, folder, [*study.overrides, f"--config.seed={seed}"], progress=False)
            if run.word != "finished":
                print(f"interrupted at seed {seed} of {name}: give the command again", file=sys.stderr)
                return 1
            values.append(run.numbers[study.metric])
            seconds.append(time.perf_counter() - began)
            print(f"{name} seed {seed}: {study.metric} {values[-1]:.5g} in {seconds[-1]:.0f} s", flush=True)
        config, _ = prepare(study.config, study.overrides)
        baseline, others = None, ""
        if study.baseline:
            called, number, others = study.baseline(run.parts)
            baseline = {"name": called, "value": number}
        middle = sorted(seconds)[len(seconds) // 2]
        results.write_row(
            name,
            task=study.task,
            metric=study.metric,
            command=f"python benchmarks/seeds.py {name}",
            values=values,
            seeds=list(range(study.seeds)),
            config=config,
            baseline=baseline,
            published=study.published and {"value": study.published[0], "source": study.published[1]},
            target=study.target,
            note="; ".join(filter(None, [study.note, others, f"median {middle:.0f} s a seed, everything included"])),
        )
    return 0


if __name__ == "__main__":
    exits(main)()
