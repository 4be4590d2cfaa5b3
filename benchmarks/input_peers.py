"""What others feed their training with, for benchmarks/inputs.py: PyTorch's loaders and Grain. Imports no jax.

Worker processes import this file.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

PAD = 4
try:
    from torch.utils.data import DataLoader, Dataset
except ModuleNotFoundError:  # the tests without the extra `oracle` need what is below only
    DataLoader, Dataset = None, object


class Images(Dataset):
    """CIFAR-10 as torchvision has it: uint8 arrays in memory, a PIL image each time one is asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        side = images.shape[1]
        flip = transforms.RandomHorizontalFlip()
        self.transform = transforms.Compose([transforms.RandomCrop(side, PAD), flip, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Crops(Dataset):
    """Every window of `length` tokens and the same one token on."""

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return len(self.tokens) - self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        window = self.tokens[index : index + self.length + 1].astype(np.int64)
        return window[:-1], window[1:]


def loader(data: Any, rows: int, workers: int) -> Iterator[Any]:
    """Shuffled batches without end, by `workers` processes that stay (0: by this one)."""
    ways = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    batches = DataLoader(data, rows, shuffle=True, drop_last=True, num_workers=workers, **ways)
    return itertools.chain.from_iterable(iter(lambda: iter(batches), None))


def random_windows(tokens: np.ndarray, rows: int, length: int, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """Windows drawn with replacement and stacked, as nanoGPT's get_batch makes them."""
    import torch

    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(tokens) - length, rows)
        x, y = ([torch.from_numpy(tokens[i : i + length].astype(np.int64)) for i in starts + j] for j in (0, 1))
        yield torch.stack(x), torch.stack(y)


def grain_images(images: np.ndarray, labels: np.ndarray, rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Plain Grain: a map over the shuffled examples, crop and flip in numpy."""
    import grain

    places = grain.MapDataset.range(len(images)).seed(0).shuffle().repeat()
    return _read_ahead(places.random_map(Crop(images, labels)).batch(rows))


class Crop:
    """Example `index`, padded, cut out at a random place, flipped in half of the cases, as numbers from 0 to 1."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = np.pad(self.images[index], ((PAD, PAD), (PAD, PAD), (0, 0)))
        top, left = rng.integers(0, 2 * PAD + 1, 2)
        side = len(self.images[index])
        image = image[top : top + side, left : left + side]
        image = image[:, ::-1] if rng.random() < 0.5 else image
        return {"image": image.astype(np.float32) / 255, "label": self.labels[index]}


def grain_windows(tokens: np.ndarray, rows: int, length: int) -> Iterator[np.ndarray]:
    """Plain Grain: windows of the shuffled offsets."""
    import grain

    cut: Callable[[int], np.ndarray] = lambda i: tokens[i : i + length + 1].astype(np.int32)  # noqa: E731
    places = grain.MapDataset.range(len(tokens) - length).seed(0).shuffle().repeat()
    return _read_ahead(places.map(cut).batch(rows))


def _read_ahead(batches: Any) -> Iterator[Any]:
    """By two threads, few batches ahead: Grain's usual 500 would be made while it is another's turn."""
    import grain

    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
