"""Data sets that TensorFlow Datasets prepared as ArrayRecord, read without tensorflow."""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import DataError
from fmjax.data.cache import cached, digest, digest_files
from fmjax.data.decode import DAMAGED, decode_all, split_unreadable
from fmjax.data.source import InMemory, check_labels

DECODER = 1  # version of what is kept in the cache
MEMORY = 4 << 30  # decoded data sets up to so many bytes are kept in memory
WORDS = (("image", "image"), ("label", "label"))


class Tfds(InMemory):
    """One split of a prepared TFDS data set: `Tfds("mnist", "train[:90%]")`.

    Images of one size are decoded once to uint8, held in memory and kept on disk (see fmjax/data/cache.py); others,
    and sets over 4 GiB, are decoded when they are asked for. The fingerprint is of the files, the split and the
    words.

    Args:
      name: "mnist", "mnist:3.0.1", or "name/config".
      split: a split or a slice of one: "train", "train[:90%]", "train[100:200]+test".
      data_dir: where it was prepared; None is $FMJAX_DATA/tfds, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      words: pairs (key of the batch, name of the feature).
      in_memory: None decides by size.

    Raises:
      DataError: no such data set, split or feature, or one stored in a format that needs tensorflow.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        data_dir: str | None = None,
        words: tuple = WORDS,
        in_memory: bool | None = None,
    ):
        directory = find(name, data_dir)
        title = f"Tfds({name}, {split})"
        features = _features(directory, words, title)
        _check_split(directory, split, title)
        files = [p for p in directory.iterdir() if p.is_file()]
        fingerprint = digest("tfds", DECODER, split, tuple(words), digest_files(files, directory))
        if in_memory is None:
            in_memory = _decoded_bytes(directory, features) <= MEMORY
        self.reader = None
        if in_memory:
            decoded = cached(fingerprint, lambda: _decode(directory, split, words, title))
            arrays, unreadable = split_unreadable(decoded)
            super().__init__(title, arrays, _class_names(directory, features), fingerprint, unreadable)
            return
        self.name, self.classes, self.fingerprint = title, _class_names(directory, features), fingerprint
        self.reader = _Reader(directory, split, tuple(words), title)
        self.rows = None  # nothing is in memory: the pipeline reads example by example

    def __len__(self) -> int:
        return super().__len__() if self.reader is None else len(self.reader)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.reader is None:
            return super().__getitem__(index)
        try:
            example = self.reader.read([index])[0]
        except DAMAGED as error:
            raise DataError(str(error)) from error
        if np.ndim(example.get("label", ())) == 0:
            check_labels(np.asarray(example["label"])[None], len(self.classes) if self.classes else None, self.name)
        return example


class _Reader:
    """tfds's data source, opened again in every process that receives it."""

    def __init__(self, directory: Path, split: str, words: tuple, title: str):
        self.directory, self.split, self.words, self.title = directory, split, words, title
        logging.getLogger("absl").addFilter(_no_advice)
        import tensorflow_datasets as tfds

        try:
            self.source = tfds.builder_from_directory(directory).as_data_source(split)
            self.count = len(self.source)
        except (ValueError, AssertionError) as error:
            raise DataError(f"{title}: {' '.join(str(error).split())}") from None

    def __len__(self) -> int:
        return self.count

    def __reduce__(self):
        return (_Reader, (self.directory, self.split, self.words, self.title))

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = self.source.__getitems__(list(indices))
        return [{word: _plain(record[feature]) for word, feature in self.words} for record in records]


def find(name: str, data_dir: str | None = None) -> Path:
    """The folder of the newest version of a prepared data set.

    Raises:
      DataError: there is none, saying where it looked and how to make it.
    """
    base, _, version = name.partition(":")
    data = os.environ.get("FMJAX_DATA")
    fallback = os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")
    root = Path(data_dir or (Path(data) / "tfds" if data else fallback)).expanduser()
    folder = root / base
    if folder.is_dir() and "/" not in base and not any(_versions(folder, version)):
        configs = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(_versions(p, version)))
        if configs:
            raise DataError(f"the data set {base!r} has configs: write {' or '.join(f'{base}/{c}' for c in configs)}")
    versions = list(_versions(folder, version))
    if not versions:
        recipe = (
            f"tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(root)!r}, file_format='array_record')"
        )
        raise DataError(
            f"there is no TFDS data set {name!r} under {root}: give data_dir (or set FMJAX_DATA), or prepare it where "
            f'tensorflow is installed: python -c "import {recipe}.download_and_prepare()"'
        )
    directory = max(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    kind = _json(directory / "dataset_info.json").get("fileFormat", "tfrecord")
    if kind not in ("array_record", "parquet"):
        raise DataError(
            f"{directory} is stored as {kind}, which needs tensorflow: prepare it with file_format='array_record'"
        )
    return directory


def _versions(folder: Path, version: str):
    if folder.is_dir():
        yield from (p.parent for p in folder.glob("*/dataset_info.json") if p.parent.name == (version or p.parent.name))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _features(directory: Path, words: tuple, title: str) -> dict[str, Any]:
    """{feature: its description} of the words, from features.json."""
    there = _json(directory / "features.json").get("featuresDict", {}).get("features", {})
    for _, feature in words:
        if feature not in there:
            raise DataError(f"{title} has no feature {feature!r}; {did_you_mean(feature, there)}")
    return {word: {**there[feature], "feature": feature} for word, feature in words}


def _check_split(directory: Path, split: str, title: str) -> None:
    splits = [s["name"] for s in _json(directory / "dataset_info.json").get("splits", [])]
    for part in split.split("+"):
        base = part.split("[")[0].strip()
        if base not in (*splits, "all"):
            raise DataError(f"{title}: there is no split {base!r}; {did_you_mean(base, splits)}")


def _decoded_bytes(directory: Path, features: dict[str, Any]) -> float:
    """Bytes of the whole data set decoded; infinite when images differ in size."""
    image = features.get("image", {}).get("image", {})
    sizes = [int(n) for n in image.get("shape", {}).get("dimensions", ["-1"])]
    splits = _json(directory / "dataset_info.json").get("splits", [])
    examples = sum(int(n) for split in splits for n in split.get("shardLengths", []))
    return float(np.prod(sizes)) * examples if min(sizes) > 0 else float("inf")


def _class_names(directory: Path, features: dict[str, Any]) -> tuple[str, ...] | None:
    label = features.get("label", {})
    count = label.get("classLabel", {}).get("numClasses")
    if count is None:
        return None
    file = directory / f"{label['feature']}.labels.txt"
    names = file.read_text().splitlines() if file.is_file() else []
    return tuple(names) if len(names) == int(count) else tuple(str(i) for i in range(int(count)))


def _decode(directory: Path, split: str, words: tuple, title: str) -> dict[str, np.ndarray]:
    reader = _Reader(directory, split, tuple(words), title)
    return decode_all(len(reader), reader.read, title)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _no_advice(record: logging.LogRecord) -> bool:
    return "OpenCV" not in record.getMessage()
