"""Seconds a training step beside timm: `python benchmarks/vision_steps.py [NAME ...]` trains on the same images.

Forward, backward and an update of gradient descent with momentum, float32, from the same weights: by fmjax's step, as
a run takes it, by timm on PyTorch, with its images and weights laid out with the channels last, and with
`torch.compile`, in turns in one process with the same number of threads. The row is fmjax's seconds; its baseline is
the fastest of the others. The first step of each side is not among them: it compiles, and its seconds are in the note.
All sides say the losses, which must agree. Needs the extra `oracle`.
"""

import copy
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import turns

from fmjax import pretrained, results
from fmjax.core.errors import exits, extra
from fmjax.interop import timm
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.sharding.mesh import make_mesh
from fmjax.training.program import Program

os.environ.setdefault("HF_HUB_OFFLINE", "1")
RATE, MOMENTUM = 1e-3, 0.9
TOLERANCE = 1e-3  # of a loss, at every step
# name: (timm's architecture, images a batch)
CASES = {"resnet18": ("resnet18", 8), "vit_s16": ("vit_small_patch16_224", 4)}
WORDS = {"resnet18": "ResNet-18", "vit_s16": "ViT-S/16"}


def torch_step(
    model: Any, images: np.ndarray, labels: np.ndarray, last: bool = False, compiled: bool = False
) -> Callable[[], float]:
    """What takes a step on PyTorch and returns the loss before it.

    Args:
      last: lay images and weights out with the channels last.
      compiled: by torch.compile.
    """
    torch = extra("torch", "oracle")
    form = torch.channels_last if last else torch.contiguous_format
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(memory_format=form)
    y = torch.from_numpy(labels.astype(np.int64))
    model = copy.deepcopy(model).train().to(memory_format=form)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(folder: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """What takes a step here, compiled when first called, and returns the loss before it."""
    program, batch = our_program(folder, images, labels)
    on_device, made = program.put(batch), {"state": program.begin()}

    def step() -> float:
        if "step" not in made:
            made["step"] = program.compile()
        made["state"], told = made["step"](made["state"], on_device)
        return made["step"].unpack(np.asarray(told))["loss"]

    return step


def our_program(folder: str, images: np.ndarray, labels: np.ndarray) -> tuple[Program, dict[str, np.ndarray]]:
    """(the program that begins with the weights of a folder, its batch)."""
    batch = {"image": images, "label": labels, "valid": np.ones(len(images), np.float32)}
    program = Program(
        modules={"model": timm.load(folder)[0]},
        objective=supervised.Classify(),
        optimizers={"model": optimizers.sgd(rate=RATE, momentum=MOMENTUM)},
        mesh=make_mesh({"data": 1}, jax.devices()[:1]),
        example=batch,
        initial=pretrained.weights(path=folder),
    )
    _ = program.given, program.given_mutable  # read before the folder goes
    return program, batch


def prepared(name: str, folder: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """(timm's model, which is written into `folder`, images, labels)."""
    torch, library = extra("torch", "oracle"), extra("timm", "oracle")
    torch.manual_seed(0)
    architecture, rows = CASES[name]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((rows, 224, 224, 3)).astype(np.float32)
    labels = rng.integers(0, 1000, rows).astype(np.int32)
    model = library.create_model(architecture)
    library.models.save_for_hf(model, folder, safe_serialization=True)
    return model, images, labels


def measure(name: str, repeats: int, compiled: bool, write: bool) -> None:
    """One model, in turns; a row with the median ratio.

    Raises:
      ConfigError: the losses of the sides disagree.
    """
    extra("torch", "oracle").set_num_threads(len(os.sched_getaffinity(0)))
    rows = CASES[name][1]
    with tempfile.TemporaryDirectory() as folder:
        model, images, labels = prepared(name, folder)
        ways = {"fmjax": our_step(folder, images, labels), "timm": torch_step(model, images, labels)}
    ways["timm, channels last"] = torch_step(model, images, labels, last=True)
    if compiled:
        ways["timm, torch.compile"] = torch_step(model, images, labels, last=True, compiled=True)
    found = turns.take(ways, repeats)
    same = turns.compare_losses(name, found.said, TOLERANCE)
    note = f"{turns.told(found)}; {same}"
    print(f"{name}, batch {rows}: {note}", flush=True)
    if write:
        results.write_row(
            f"step_{name}",
            task=f"training step of {WORDS[name]}, batch {rows} of 224x224, float32, gradient descent with momentum",
            metric="seconds",
            command=f"python benchmarks/vision_steps.py {name}",
            values=found.seconds["fmjax"],
            repeats=repeats,
            baseline=turns.baseline(found, "timm", "torch"),
            note=note,
        )


def main(argv: list[str] | None = None) -> int:
    """Time both sides and write the rows."""
    args = turns.arguments(argv, main.__doc__, CASES, 11, "steps of each side", more=turns.EAGER)
    return turns.each(args.names or CASES, lambda name: measure(name, args.repeats, not args.eager, not args.print))


if __name__ == "__main__":
    sys.exit(exits(main)())
