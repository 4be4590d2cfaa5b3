"""Seconds a training step beside timm: `python benchmarks/vision_steps.py [NAME ...]` trains on the same images.

Forward, backward and an update of gradient descent with momentum, float32, from the same weights: by fmjax's step, as
a run takes it, and by timm on PyTorch, in turns in one process with the same number of threads. The row is fmjax's
seconds; the ratio of a turn is timm's seconds over fmjax's. The first step of each side is not among them: fmjax's
compiles, and its seconds are in the note. Both sides say the losses, which must agree. Needs the extra `oracle`.
"""

import argparse
import importlib.metadata
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fmjax import pretrained, results
from fmjax.core.errors import ConfigError, exits, extra
from fmjax.interop import timm
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.sharding.mesh import make_mesh
from fmjax.training.program import Program

os.environ.setdefault("HF_HUB_OFFLINE", "1")
RATE, MOMENTUM = 1e-3, 0.9
# name: (timm's architecture, images a batch)
CASES = {"resnet18": ("resnet18", 8), "vit_s16": ("vit_small_patch16_224", 4)}
WORDS = {"resnet18": "ResNet-18", "vit_s16": "ViT-S/16"}


def torch_step(model: Any, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """What takes a step on PyTorch and returns the loss before it."""
    torch = extra("torch", "oracle")
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.SGD(model.train().parameters(), lr=RATE, momentum=MOMENTUM)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(folder: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """What takes a step here, compiled when first called, and returns the loss before it."""
    batch = {"image": images, "label": labels, "valid": np.ones(len(images), np.float32)}
    program = Program(
        modules={"model": timm.load(folder)[0]},
        objective=supervised.Classify(),
        optimizers={"model": optimizers.sgd(rate=RATE, momentum=MOMENTUM)},
        mesh=make_mesh({"data": 1}, jax.devices()[:1]),
        example=batch,
        initial=pretrained.weights(path=folder),
    )
    on_device, made = program.put(batch), {"state": program.begin()}

    def step() -> float:
        if "step" not in made:
            made["step"] = program.compile()
        made["state"], told = made["step"](made["state"], on_device)
        return made["step"].unpack(np.asarray(told))["loss"]

    return step


def measure(name: str, repeats: int, write: bool) -> None:
    """One model, in turns; a row with the median ratio.

    Raises:
      ConfigError: the losses of the two sides disagree.
    """
    torch, library = extra("torch", "oracle"), extra("timm", "oracle")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    architecture, rows = CASES[name]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((rows, 224, 224, 3)).astype(np.float32)
    labels = rng.integers(0, 1000, rows).astype(np.int32)
    model = library.create_model(architecture)
    with tempfile.TemporaryDirectory() as folder:
        library.models.save_for_hf(model, folder, safe_serialization=True)
        ways = {"fmjax": our_step(folder, images, labels), "timm": torch_step(model, images, labels)}
    first = {way: timed(step) for way, step in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {way: [loss] for way, (_, loss) in first.items()}
    for _ in range(repeats):
        for way, step in ways.items():
            taken, loss = timed(step)
            seconds[way].append(taken)
            losses[way].append(loss)
    apart = float(np.abs(np.subtract(*losses.values())).max())
    middle = {way: statistics.median(x) for way, x in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    told = ", ".join(f"{way} {x:.3f} s" for way, x in middle.items())
    print(
        f"{name}, batch {rows}: medians {told}; median ratio {ratio:.2f}; first step fmjax {first['fmjax'][0]:.1f} s, "
        f"timm {first['timm'][0]:.1f} s; losses of {repeats + 1} steps within {apart:.1e}",
        flush=True,
    )
    if not apart < 1e-2:
        raise ConfigError(f"{name}: the losses of the two sides differ by {apart}: they do not train the same model")
    if write:
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("timm", "torch"))
        results.write_row(
            f"step_{name}",
            task=f"training step of {WORDS[name]}, batch {rows} of 224x224, float32, gradient descent with momentum",
            metric="seconds",
            command=f"python benchmarks/vision_steps.py {name}",
            values=seconds["fmjax"],
            repeats=repeats,
            baseline={"name": f"{versions}, in turns", "value": round(middle["timm"], 3)},
            note=f"medians: {told}; median over turns of timm's seconds for one of fmjax's {ratio:.2f}; first step, "
            f"compilation included, {first['fmjax'][0]:.1f} s; losses of {repeats + 1} steps within {apart:.0e}",
        )


def timed(step: Callable[[], float]) -> tuple[float, float]:
    """(seconds, what it returned)."""
    began = time.perf_counter()
    loss = step()
    return time.perf_counter() - began, loss


def main(argv: list[str] | None = None) -> int:
    """Time both sides and write the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=11, help="steps of each side (default: 11)")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    if odd := [name for name in args.names if name not in CASES]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(CASES)}")
    for name in args.names or CASES:
        measure(name, args.repeats, not args.print)
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
