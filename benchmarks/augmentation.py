"""Images a second of augmentation: `python benchmarks/augmentation.py [NAME ...]`, beside Pillow and torchvision.

The same operations of the same strength, by fmjax as one jitted program and by Pillow an image at a time on one core,
which is what a worker of a data loader does; torchvision's v2 transforms on PIL images too where they can be imported
(extra `oracle`). In turns in one process, uint8 in and out. Random draws differ. Compilation is not timed: its seconds
are in the note.
"""

import argparse
import importlib.metadata
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from fmjax import results
from fmjax.core.errors import exits
from fmjax.data import augment, augment_crop, augment_policy

RNG = np.random.default_rng(0)
# name: (what it is, rows, side)
CASES = {
    "small": ("padded crop, flip, RandAugment(2, 9), erase; 512 images of 32 x 32", 512, 32),
    "large": ("random-resized crop, flip, colour jitter; 64 images of 224 x 224", 64, 224),
}  # fmt: skip
OURS = {
    "small": (augment.padded_crop(4), augment.flip(), augment_policy.rand_augment(2, 9), augment.erase(0.25)),
    "large": (augment_crop.random_resized_crop(), augment.flip(), augment.color_jitter(0.4, 0.4, 0.4)),
}


def main(argv: list[str] | None = None) -> int:
    """Time each case, write a row for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*CASES, []])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    for name in args.names or CASES:
        measure(name, args.repeats)
    return 0


def measure(name: str, repeats: int) -> None:
    """One case, in turns; a row with the median ratio."""
    what, rows, side = CASES[name]
    images = RNG.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
    transform, keys = augment.compose(OURS[name]), iter(jax.random.split(jax.random.key(0), 1000))

    @jax.jit
    def jitted(key: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.round(transform(key, images / jnp.float32(255)) * 255).astype(jnp.uint8)

    one = {"small": pillow_small, "large": pillow_large}[name]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "fmjax": lambda: np.asarray(jitted(next(keys), images)),
        "Pillow": lambda: np.stack([np.asarray(one(Image.fromarray(image))) for image in images]),
    }
    other = torchvision_pipeline(name, side)
    if other is not None:
        ways["torchvision"] = lambda: np.stack([np.asarray(other(Image.fromarray(image))) for image in images])
    first = {way: timed(run) for way, run in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            seconds[way].append(timed(run))
    rates = {way: [rows / s for s in taken] for way, taken in seconds.items()}
    middle = {way: statistics.median(x) for way, x in rates.items()}
    ratios = {
        way: statistics.median(a / b for a, b in zip(rates["fmjax"], rates[way], strict=True))
        for way in ways
        if way != "fmjax"
    }
    told = ", ".join(f"{way} {rate:,.0f}" for way, rate in middle.items())
    times = ", ".join(f"{ratio:.2f} times {way}" for way, ratio in ratios.items())
    print(f"{name}: {told}; {times}; first call {first['fmjax']:.1f} s", flush=True)
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("pillow", "torchvision")[: len(ways) - 1])
    results.write_row(
        f"augmentation_{name}",
        task=what,
        metric="images a second",
        command=f"python benchmarks/augmentation.py {name}",
        values=rates["fmjax"],
        repeats=repeats,
        baseline={"name": f"{versions}: Pillow on one core, in turns", "value": round(middle["Pillow"], 1)},
        note=f"medians: {told}; median ratio of a turn {times}; first call, compilation included, "
        f"{first['fmjax']:.1f} s; fmjax uses all of the machine's {jax.default_backend()}",
    )


def pillow_small(image: Image.Image) -> Image.Image:
    """Padded crop, flip, two operations of RandAugment at magnitude 9, erase."""
    padded = Image.new("RGB", (40, 40))
    padded.paste(image, (4, 4))
    left, top = RNG.integers(0, 9, 2)
    image = padded.crop((left, top, left + 32, top + 32))
    if RNG.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for _ in range(2):
        image = pillow_operation(image, augment_policy.NAMES[RNG.integers(len(augment_policy.NAMES))])
    if RNG.random() < 0.25:
        area, ratio = RNG.uniform(0.02, 0.33) * 1024, math.exp(RNG.uniform(math.log(0.3), math.log(3.3)))
        height, width = (max(1, min(32, round(math.sqrt(x)))) for x in (area * ratio, area / ratio))
        image.paste(
            (0, 0, 0), (left := RNG.integers(33 - width), top := RNG.integers(33 - height), left + width, top + height)
        )
    return image


def pillow_operation(image: Image.Image, name: str) -> Image.Image:
    """One operation at magnitude 9 of 30."""
    largest, _, signed = augment_policy.OPERATIONS[name]
    amount = largest * 9 / 30 * (RNG.choice((-1, 1)) if signed else 1)
    moves = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount * 32, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * 32),
    }
    if name in moves:
        return image.transform(image.size, Image.Transform.AFFINE, moves[name], Image.Resampling.BILINEAR)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + amount)
    others: dict[str, Callable[[], Image.Image]] = {
        "rotate": lambda: image.rotate(amount, Image.Resampling.BILINEAR),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(amount)),
        "solarize": lambda: ImageOps.solarize(image, 256 - round(amount)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "identity": lambda: image,
    }
    return others[name]()


def pillow_large(image: Image.Image) -> Image.Image:
    """Random-resized crop, flip, brightness, contrast, saturation."""
    for _ in range(10):
        area, ratio = RNG.uniform(0.08, 1) * 224 * 224, math.exp(RNG.uniform(math.log(3 / 4), math.log(4 / 3)))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= 224 and 0 < width <= 224:
            break
    else:
        height = width = 224
    left, top = RNG.integers(225 - width), RNG.integers(225 - height)
    image = image.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
    if RNG.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for kind in ("Brightness", "Contrast", "Color"):
        image = getattr(ImageEnhance, kind)(image).enhance(RNG.uniform(0.6, 1.4))
    return image


def torchvision_pipeline(name: str, side: int) -> Any:
    """The same by torchvision.transforms.v2, or None."""
    try:
        import torch
        from torchvision.transforms import InterpolationMode, v2
    except ImportError:
        return None
    torch.set_num_threads(1)
    if name == "large":
        return v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4)])
    erase = [v2.PILToTensor(), v2.RandomErasing(0.25), v2.ToPILImage()]  # erasing is for tensors only
    policy = v2.RandAugment(2, 9, interpolation=InterpolationMode.BILINEAR)
    return v2.Compose([v2.RandomCrop(side, 4), v2.RandomHorizontalFlip(), policy, *erase])


def timed(run: Callable[[], np.ndarray]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    exits(main)()
