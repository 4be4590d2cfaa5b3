"""Weights and images from formulas, the same on every machine, and folders of timm made of them."""

import json
import zlib

import jax
import numpy as np
from safetensors.numpy import save_file
from tiny_models import FAST

from fmjax.interop import tensors

GAIN = 2.0


def numbers(name, shape):
    """Numbers in [-1, 1) that a name spreads (an integer hash, so no library's random numbers are in it)."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2**31 - 1).astype(np.float32).reshape(shape)


def tensor(name, shape):
    """One of timm's that counts: norms near one, variances above zero, kernels that keep the size of what they read.

    EfficientNet's activations and gates halve it several times a block, so those of its convolutions that
    see all channels make it larger.
    """
    x = numbers(name, shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return 1 + x / 2
    if name.endswith(".weight"):
        gain = GAIN if "conv_pw" in name else 1.0
        return 1 + x / 3 if len(shape) == 1 else x * np.float32(gain * (3 / np.prod(shape[1:])) ** 0.5)
    return x / 2


def image(size, rows=2):
    """(rows, H, W, C)."""
    return 2 * numbers("image", (rows, *size))


def write(folder, config, shapes):
    """A folder of timm; returns its tensors."""
    folder.mkdir(parents=True)
    held = {name: tensor(name, shape) for name, shape in shapes.items()}
    save_file(held, folder / tensors.ONE)
    (folder / "config.json").write_text(json.dumps(config))
    return held


def ours(module, params, mutable, x):
    """Logits in evaluation."""
    return np.asarray(jax.jit(module.apply, compiler_options=FAST)({"params": params, **mutable}, x))
