"""Which augmentation of images helps, one at a time? A small convolutional network on a fifth of CIFAR-10.

Run:      python -m fmjax.sweep --study=experiments/augmentation/study.py --workdir=runs/augmentation
          python -m fmjax.sweep --study=experiments/augmentation/study.py --workdir=runs/augmentation --report
Smoke:    the same with --study=experiments/augmentation/study.py:smoke: a few steps.
Data:     TFDS "cifar10" in ArrayRecord format, under $FMJAX_DATA/tfds or ~/tensorflow_datasets.

10,000 training images and 10 epochs of them, so that a network without augmentation learns them by heart. Each
augmentation has the setting that its factory has by default, or, where that does nothing, a usual one; none was tuned.
"""

from collections.abc import Callable
from typing import Any, Literal

from ml_collections import ConfigDict

from fmjax.core.config import call
from fmjax.data import augment, augment_crop, augment_policy, mixing, pipeline, sources
from fmjax.evals import evaluators, metrics
from fmjax.models import convnet
from fmjax.objectives import supervised
from fmjax.optim import optimizers, schedules
from fmjax.study import Study
from fmjax.training.policies import Log

Size = Literal["full", "smoke"]
AUGMENTS: dict[str, Callable[[], Any]] = {
    "flip": augment.flip,
    "padded crop": augment.padded_crop,
    "random resized crop": lambda: augment_crop.random_resized_crop(size=(32, 32)),
    "affine": lambda: augment.affine(rotate=15.0, zoom=0.1, translate=0.1),
    "colour jitter": lambda: augment.color_jitter(brightness=0.4, contrast=0.4, saturation=0.4),
    "erase": augment.erase,
    "RandAugment": augment_policy.rand_augment,
    "TrivialAugment": augment_policy.trivial_augment,
}
MIXES: dict[str, Callable[[], Any]] = {"MixUp": mixing.mixup, "CutMix": mixing.cutmix}


def augmented(kind: str = "none") -> supervised.Classify:
    """Classification with one augmentation, by name."""
    return supervised.Classify(
        augment=(AUGMENTS[kind](),) if kind in AUGMENTS else (),
        mix=(MIXES[kind](),) if kind in MIXES else (),
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )


def get_config(size: Size = "full") -> ConfigDict:
    """A convolutional network of a fourth of convnet_cifar10.py's size, without augmentation."""
    full = size == "full"
    config = ConfigDict({"seed": 0, "steps": "10epochs" if full else 2})
    widths, dense = ((16, 32, 64), 256) if full else ((4, 4, 4), 8)
    config.model = call(convnet.ConvNet, widths=widths, dense=dense, dropout=0.0, classes=10)
    config.objective = call(augmented)
    rate = call(schedules.warmup_cosine, peak=2e-3, steps=config.get_oneway_ref("steps"), warmup="10%")
    config.optimizer = call(optimizers.adamw, rate=rate, decay=0.05)
    train, test = ("train[:10000]", "test") if full else ("train[:32]", "test[:32]")
    source = call(sources.Tfds, name="cifar10", split=train)
    config.data = call(pipeline.stream, source=source, batch_size=64 if full else 8)
    data = call(
        pipeline.one_pass, source=call(sources.Tfds, name="cifar10", split=test), batch_size=500 if full else 32
    )
    config.evals = {"test": call(evaluators.average, data=data, metrics={"accuracy": metrics.accuracy})}
    config.log = call(Log, every=100, tensorboard=False)
    return config


def get_study(size: Size = "full") -> Study:
    """Each augmentation by itself."""
    return Study(
        title="Which augmentation helps, one at a time?",
        config=f"experiments/augmentation/study.py:{size}",
        changes={kind: {"objective.kind": kind} for kind in (*AUGMENTS, *MIXES)},
        seeds=range(3 if size == "full" else 2),
        base="none",
        metric="test/accuracy",
    )
