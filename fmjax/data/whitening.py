"""Whitening filters for a first convolution, from patches of the training images (arXiv 2404.00498)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.trees import flatten
from fmjax.core.types import Tree
from fmjax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Whiten:
    """Weights for `config.init`: the kernel at `address` becomes the eigenvectors of patches, in both signs, scaled.

    Attributes:
      source: images, of which evenly spaced ones are read.
      images: how many.
      mean, std: as the objective's, so that the patches are what the network sees.
      address: of the kernel (h, w, C, 2 h w C).
      eps: added to the eigenvalues, which the eigenvectors are divided by the root of.
      net: whose weights.
    """

    source: Source
    images: int = 2000
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    address: str = "whiten/kernel"
    eps: float = 5e-4
    net: str = "model"

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, Any]]:
        """{net: {address: kernel}}; see Program.initial.

        Raises:
          ConfigError: there is no such kernel, or it does not have two features a number of a patch.
        """
        flat = flatten(params[self.net])
        if self.address not in flat:
            raise ConfigError(f"init: {self.net} has no weight {self.address!r} to whiten with")
        h, w, channels, features = flat[self.address].shape
        if features != 2 * h * w * channels:
            raise ConfigError(f"init: {self.address} has {features} features; whitening gives {2 * h * w * channels}")
        places = np.linspace(0, len(self.source) - 1, min(self.images, len(self.source))).astype(int)
        images = np.stack([self.source[int(i)]["image"] for i in places])
        return {self.net: {self.address: whitening_kernel(self._seen(images), (h, w), self.eps)}}

    def _seen(self, images: np.ndarray) -> np.ndarray:
        scale = 255.0 if np.issubdtype(images.dtype, np.integer) else 1.0
        return (images.astype(np.float32) / scale - np.float32(self.mean)) / np.float32(self.std)


def whitening_kernel(images: np.ndarray, window: tuple[int, int], eps: float = 5e-4) -> np.ndarray:
    """The eigenvectors of the images' patches, over the roots of their eigenvalues, and the same with the other sign.

    Args:
      images: (N, H, W, C) as the network sees them.
      window: rows and columns of a patch.

    Returns:
      (h, w, C, 2 h w C); without `eps` the first half of the features would have the identity as second moment.

    Raises:
      DataError: images smaller than the window.
    """
    if images.ndim != 4 or images.shape[1] < window[0] or images.shape[2] < window[1]:
        raise DataError(f"patches of {window[0]}x{window[1]} cannot be cut from images of shape {images.shape[1:]}")
    patches = np.lib.stride_tricks.sliding_window_view(images, window, (1, 2))  # (N, Y, X, C, h, w)
    flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, window[0] * window[1] * images.shape[3]).astype(np.float64)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    kernel = (vectors / np.sqrt(np.maximum(values, 0) + eps))[:, ::-1]  # the strongest first
    kernel = np.concatenate([kernel, -kernel], 1)
    return kernel.reshape(*window, images.shape[3], -1).astype(np.float32)
