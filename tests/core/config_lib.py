"""Callables for the config tests to name."""

import functools
from collections.abc import Callable

import flax.linen as nn


class Decoder(nn.Module):
    vocab: int
    width: int = 32
    depth: int = 2
    dropout: float = 0
    causal: bool = True
    window: int | None = None
    scale: float | None = None
    stages: tuple[int, ...] = (2, 2)
    norm: Callable | None = None
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


small = functools.partial(Decoder, width=16, stages=(1, 1))


class Other(nn.Module):
    vocab: int = 64
    experts: int = 4


class Written:
    """Not a dataclass: its types are on its own __init__."""

    def __init__(self, size: float, path: str | None = None):
        self.size, self.path = size, path


def loose(**kw):
    return Decoder(vocab=3, **kw)


def warmup_cosine(peak: float, steps: int, warmup: float = 0.1):
    return ("rate", peak, steps, warmup)


def adamw(rate, decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999), clip: float | None = 1.0):
    return ("adamw", rate, decay, betas, clip)


def data(source, batch: int, epochs: int | None = 1, transforms=()):
    return (source, batch, epochs, transforms)


def crop(pad: int = 2):
    return ("crop", pad)


def flip(p: float = 0.5):
    return ("flip", p)


def rms(eps: float = 1e-6):
    return ("rms", eps)


def source(n: int = 5):
    return ("src", n)


def gelu(x):
    return x
