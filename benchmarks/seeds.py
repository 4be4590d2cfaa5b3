"""Learning results over seeds: `python benchmarks/seeds.py NAME [NAME ...]` trains, and writes a row for each.

Every seed is an ordinary run in a folder of its own, so that the command can be stopped and given again; the row keeps
each seed's number, their mean and spread.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counted

from fmjax import pretrained, results
from fmjax.core.errors import exits
from fmjax.training.records import read_records


@dataclasses.dataclass(frozen=True)
class Study:
    """One row: a config, overrides, and the number that counts."""

    task: str
    metric: str
    config: str
    seeds: int = 3
    overrides: tuple[str, ...] = ()
    baseline: Callable[[Any], tuple[str, float, str]] | tuple[str, str] | None = None  # or (row, what it is)
    published: tuple[float, str] | None = None
    target: str | None = None
    note: str = ""
    also: tuple[str, ...] = ()  # other numbers, for the note: means over the seeds


JPEG = "this copy of the images went through JPEG, which costs a little accuracy"

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
        note=JPEG,
    ),
    "resnet_cifar10": Study(
        "whitened patches and six convolutions on CIFAR-10, 8 epochs; mean over mirror images and shifts",
        "views/accuracy", "configs/vision/resnet_cifar10.py", also=("test/accuracy",),
        published=(0.94, "twice the channels, 2.6 s on an A100, arXiv 2404.00498"), note=JPEG,
    ),
    "vgg_cifar10": Study(
        "VGG-11 at a fourth of its width on CIFAR-10, 5 epochs", "test/accuracy", "configs/vision/vgg_cifar10.py",
        published=(0.9264, "VGG-16, about 350 epochs, kuangliu/pytorch-cifar"), note=JPEG,
    ),
    "densenet_cifar10": Study(
        "DenseNet-BC of 28 layers on CIFAR-10, 1 epoch", "test/accuracy", "configs/vision/densenet_cifar10.py",
        published=(0.9549, "DenseNet-BC-100, 300 epochs, arXiv 1608.06993"), note=JPEG,
    ),
    "efficientnet_cifar10": Study(
        "half of EfficientNet-B0 on CIFAR-10, 2 epochs", "test/accuracy", "configs/vision/efficientnet_cifar10.py",
        published=(0.981, "B0 from ImageNet, at 224 x 224, arXiv 1905.11946"), note=JPEG,
    ),
    "alexnet_cifar10": Study(
        "small AlexNet on CIFAR-10, 3 epochs", "test/accuracy", "configs/vision/alexnet_cifar10.py",
        published=(0.89, "cuda-convnet with local response norm"), note=JPEG,
    ),
    "vit_cifar10": Study(
        "ViT of 4 blocks of width 96 on CIFAR-10, 3 epochs", "test/accuracy", "configs/vision/vit_cifar10.py",
        published=(0.80, "patches of 4x4, 200 epochs, kentaroy47/vision-transformers-cifar10"), note=JPEG,
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
        "small encoder-decoder, Multi30k German to English, test_2016_flickr", "written/bleu",
        "configs/language/translation_multi30k.py",
        published=(36.5, "a 9M-parameter model after minutes on a GPU, torchtext's BLEU"),
        note="sacreBLEU, 4 beams; :gpu is the recipe of 9M parameters, which was not trained here",
        also=("written/chrf", "test/accuracy", "test/loss"),
    ),
    "bert_words": Study(
        "small BERT of words on novels and reviews, hidden words of two held-out books", "validation/accuracy",
        "configs/language/bert_words.py", seeds=1,
    ),
    "sst2_scratch": Study(
        "SST-2, the 872 sentences, small encoder from scratch", "test/accuracy",
        "configs/language/sst2.py:start={runs}/bert_words/seed_0", overrides=("--config.init=None",),
    ),
    "sst2_pretrained": Study(
        "SST-2, the same encoder after bert_words.py", "test/accuracy",
        "configs/language/sst2.py:start={runs}/bert_words/seed_0",
        baseline=("sst2_scratch", "from scratch, same steps"), target="above scratch",
    ),
    "sst2_minilm": Study(
        "SST-2, the real MiniLM (22M parameters), 150 steps", "test/accuracy",
        "configs/language/sst2.py:start={minilm}",
        overrides=("--config.optimizer.rate.peak=1e-4", "--config.steps=150"),
        baseline=("sst2_pretrained", "the small encoder pretrained here, 800 steps"), target="above both",
    ),
    "wnut17_scratch": Study(
        "WNUT-17 entities, test part, small encoder from scratch, 6 epochs", "test/f1", "configs/language/wnut17.py",
        overrides=("--config.steps=6epochs",),
    ),
    "wnut17_minilm": Study(
        "WNUT-17 entities, test part, the real MiniLM, one epoch", "test/f1",
        "configs/language/wnut17.py:start={minilm}",
        overrides=("--config.optimizer.rate.peak=2e-4",),
        baseline=("wnut17_scratch", "from scratch, 6 epochs"),
    ),
    "squad_scratch": Study(
        "questions of the English XQuAD (838), small encoder from scratch", "test/f1", "configs/language/squad.py",
        also=("test/f1_exact",),
    ),
    "squad_minilm": Study(
        "questions of the English XQuAD (838), the real MiniLM after 800 windows", "test/f1",
        "configs/language/squad.py:start={minilm}",
        overrides=("--config.optimizer.rate.peak=2e-4",), also=("test/f1_exact",),
        baseline=("squad_scratch", "from scratch"),
    ),
    "embeddings_multi30k": Study(
        "sentence embeddings, English captions of test_2016_flickr found by German ones", "test/retrieval_recall_1",
        "configs/language/embeddings_multi30k.py",
    ),
    "mnist_teacher": Study(
        "784-512-512-10 on MNIST, moved and turned: the teacher of the next rows", "test/accuracy",
        "configs/vision/distill_mnist.py:teacher", seeds=1,
    ),
    "mnist_student": Study(
        "784-128-10 on 2,000 images of MNIST, labels alone", "test/accuracy", "configs/vision/distill_mnist.py",
    ),
    "mnist_distilled": Study(
        "784-128-10 on the same 2,000 images, learned from mnist_teacher", "test/accuracy",
        "configs/vision/distill_mnist.py:start={runs}/mnist_teacher/seed_0",
        baseline=("mnist_student", "labels alone"), target="above labels alone",
        note="temperature 4 chosen of 2 and 4 on 5,000 validation images, one seed",
    ),
    "imbalance_none": Study(
        "MNIST, classes of sizes 1:50, macro F1 on the even test set", "test/f1", "experiments/imbalance/study.py",
        seeds=5,
    ),
    "imbalance_adjusted": Study(
        "MNIST, classes of sizes 1:50, macro F1 on the even test set, logit adjustment", "test/f1",
        "experiments/imbalance/study.py", seeds=5, overrides=("--config.objective.remedy=logit adjustment",),
        baseline=("imbalance_none", "the plain loss"), target="above the plain loss",
        note="other remedies in experiments/imbalance/table.md",
    ),
    "chat_sft": Study(
        "chats about SST-2's reviews, answers alone learned, right answer of two", "validation/accuracy",
        "configs/language/chat_sft.py", seeds=1,
    ),
    "dpo": Study(
        "chats about SST-2's reviews, then 400 steps of DPO, likelier answer of two", "choice/accuracy",
        "configs/language/dpo.py:start={runs}/chat_sft/seed_0",
        overrides=("--config.optimizer.rate.peak=5e-4", "--config.optimizer.adamw_rate.peak=5e-4"),
        baseline=("chat_sft", "before DPO"), target="above what it starts from", also=("validation/accuracy",),
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Read the names, train every seed, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=STUDIES)
    parser.add_argument("--workdir", default="runs/seeds", help="where the runs go")
    parser.add_argument("--seeds", type=int, help="how many (default: as the study says)")
    args = parser.parse_args(argv)

    from fmjax.start import start

    start()
    from fmjax.assembly import prepare
    from fmjax.run import fit

    for name in args.names:
        study, values, seconds, also = STUDIES[name], [], [], {}
        spec = study.config.format(runs=args.workdir, minilm=pretrained.minilm() if "{minilm}" in study.config else "")
        seeds = range(args.seeds or study.seeds)
        for seed in seeds:
            folder = Path(args.workdir) / name / f"seed_{seed}"
            run = fit(spec, folder, [*study.overrides, f"--config.seed={seed}"], progress=False)
            if run.word != "finished":
                print(f"interrupted at seed {seed} of {name}: give the command again", file=sys.stderr)
                return 1
            values.append(run.numbers[study.metric])
            for number in study.also:
                also.setdefault(number, []).append(run.numbers[number])
            seconds.append(_seconds(folder))
            print(f"{name} seed {seed}: {study.metric} {values[-1]:.5g} in {seconds[-1]:.0f} s", flush=True)
        config, _ = prepare(spec, study.overrides)
        baseline, others = None, ""
        if isinstance(study.baseline, tuple):
            row = json.loads((results.results_folder() / f"{study.baseline[0]}.json").read_text())
            baseline = {"name": study.baseline[1], "value": row["mean"]}
        elif study.baseline:
            called, number, others = study.baseline(run.parts)
            baseline = {"name": called, "value": number}
        means = ", ".join(f"{number} {sum(x) / len(x):.4g}" for number, x in also.items())
        middle = sorted(seconds)[len(seconds) // 2]
        results.write_row(
            name,
            task=study.task,
            metric=study.metric,
            command=f"python benchmarks/seeds.py {name}",
            values=values,
            seeds=list(seeds),
            config=config,
            baseline=baseline,
            published=study.published and {"value": study.published[0], "source": study.published[1]},
            target=study.target,
            note="; ".join(
                filter(None, [study.note, others, means, f"median {middle:.0f} s a seed, everything included"])
            ),
        )
    return 0


def _seconds(folder: Path) -> float:
    """What a run took from start to end, as its folder says: it may have been finished long before."""
    return [r["seconds"] for r in read_records(folder / "metrics.jsonl") if r.get("event") == "finished"][-1]


if __name__ == "__main__":
    exits(main)()
