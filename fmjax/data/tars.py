"""Images in tar files, in the layout of WebDataset: `key.jpg` beside `key.cls` or `key.json`; nothing is extracted."""

import glob
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import cached, digest, digest_files
from fmjax.data.encoded import DECODER, Encoded
from fmjax.data.images import Decode
from fmjax.data.source import check_labels, identity

INDEX = 1  # version of the index on disk
LARGEST_IMAGE, LARGEST_LABEL = 1 << 28, 1 << 20  # bytes of a member


class TarShards(Encoded):
    """Examples in tar shards: image uint8 (H, W, C), label; any of them is read by its place in its shard.

    What belongs together has one key, the name of a member up to the first dot after its folder: `a/01.jpg` and
    `a/01.cls`. Shards are read in the order of their names, and examples in the order of the images in them. Where
    everything lies is found out once and kept on disk (see fmjax/data/cache.py) under the content of the shards; of
    shards over 1 GiB together that is their names, sizes and both ends. Members with other endings are left alone.

    Args:
      path: a tar file, or a pattern of several: "train-*.tar".
      image: endings of images, blanks between them.
      label: ending of the labels, text of one number or name; "json.a.b" is field b of field a of a JSON object; None
        reads no labels.
      classes: names of the classes, in the order of their numbers; labels may then be names. None takes numbers only.
      decode: how images become pixels; None hands out the bytes, for a transform to decode.
      in_memory: None decides by size.

    Raises:
      DataError: no such shard, one that is cut short or compressed, an image without a label, or the reverse.
    """

    def __init__(
        self,
        path: str,
        image: str = "jpg jpeg png webp",
        label: str | None = "cls",
        classes: tuple[str, ...] | None = None,
        decode: Decode | None = Decode(),  # noqa: B008 - frozen
        in_memory: bool | None = None,
    ):
        if not image.split():
            raise ConfigError("TarShards wants endings of images, such as image='jpg png'")
        self.shards = _shards(path)
        images = image.lower().split()
        key = digest("tar index", INDEX, digest_files(self.shards, _root(self.shards)), images, label)
        found = cached(key, lambda: _index(self.shards, images, label))
        title = f"TarShards({path})"
        self.shard, self.offset, self.length, self.names = (found[k] for k in ("shard", "offset", "length", "name"))
        labels = None if label is None else _numbers(found["label"], classes, title, self.names)
        if labels is not None:
            check_labels(labels, len(classes) if classes else None, title)
        fingerprint = digest("tar", DECODER, key, identity(decode), identity(classes))
        super().__init__(title, len(self.names), labels, classes, fingerprint, decode, in_memory)

    def encoded(self, index: int) -> tuple[bytes, str]:
        shard = self.shards[self.shard[index]]
        with shard.open("rb") as file:
            file.seek(self.offset[index])
            return file.read(self.length[index]), f"{self.names[index]} in {shard}"


def _shards(path: str) -> list[Path]:
    found = sorted(p for p in map(Path, glob.glob(str(Path(path).expanduser()), recursive=True)) if p.is_file())
    if not found:
        parent = Path(path).expanduser().parent
        near = sorted(p.name for p in parent.glob("*.tar")) if parent.is_dir() else []
        raise DataError(f"there is no tar file {path}; {did_you_mean(Path(path).name, near)}")
    return found


def _root(shards: list[Path]) -> Path:
    """The folder that all shards lie in."""
    return next(p for p in shards[0].parents if all(p in shard.parents for shard in shards))


def _index(shards: list[Path], images: list[str], label: str | None) -> dict[str, np.ndarray]:
    """Where every image lies, what it is called, and the text of its label."""
    ending, *field = label.split(".") if (label or "").startswith("json") else [label]
    rows: list[tuple[int, int, int, str, str]] = []
    for number, shard in enumerate(shards):
        places: dict[str, tuple[int, int, str]] = {}
        labels: dict[str, str] = {}
        for name, offset, size, read in _members(shard):
            folder, _, base = name.rpartition("/")
            stem, _, end = base.partition(".")
            key, end = f"{folder}/{stem}", end.lower()
            if end in images:
                if key in places:
                    raise DataError(f"{shard} holds two images for one key: {places[key][2]} and {name}")
                if size > LARGEST_IMAGE:
                    raise DataError(f"{name} in {shard} has {size} bytes: an image has at most {LARGEST_IMAGE}")
                places[key] = (offset, size, name)
            elif label is not None and end == ending:
                if key in labels:
                    raise DataError(f"{shard} holds two labels {name}")
                if size > LARGEST_LABEL:
                    raise DataError(f"{name} in {shard} has {size} bytes: a label has at most {LARGEST_LABEL}")
                labels[key] = _text(read(), field, f"{name} in {shard}")
        for key, (offset, size, name) in places.items():
            if label is not None and key not in labels:
                raise DataError(f"{name} in {shard} has no label {key.lstrip('/')}.{ending}: label=None reads none")
            rows.append((number, offset, size, name, labels.get(key, "")))
        if lonely := labels.keys() - places.keys():
            raise DataError(
                f"{min(lonely).lstrip('/')}.{ending} in {shard} has no image ({', '.join(images)}) beside it"
            )
    if not rows:
        raise DataError(f"{shards[0]}{' and others' * (len(shards) > 1)}: no member ends in {' or '.join(images)}")
    shard, offset, length, name, text = zip(*rows, strict=True)
    integers = {"shard": shard, "offset": offset, "length": length}
    words = {"name": name} if label is None else {"name": name, "label": text}
    return {k: np.array(v, np.int64) for k, v in integers.items()} | {k: np.array(v, np.str_) for k, v in words.items()}


def _members(shard: Path) -> Iterator[tuple[str, int, int, Any]]:
    """(name, offset, bytes, read) of every file in a tar file; nothing else in it is followed.

    Raises:
      DataError: no tar file, a compressed one, or one that is cut short.
    """
    whole = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile() or member.issparse():
                    continue
                end = member.offset_data + member.size
                if member.size < 0 or end > whole:
                    raise DataError(f"{shard} is cut short: {member.name} ends at byte {end} of {whole}")
                yield member.name, member.offset_data, member.size, lambda m=member: tar.extractfile(m).read()
            if tar.offset > whole:
                raise DataError(f"{shard} is cut short")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        with shard.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        hint = "unpack it first (gunzip): a compressed one has no random access" if packed else "is it damaged?"
        raise DataError(f"{shard} cannot be read as a tar file ({error}): {hint}") from None


def _text(raw: bytes, field: list[str], name: str) -> str:
    """A label as text: all of it, or a field of a JSON object."""
    try:
        value: Any = raw.decode()
        if field:
            value = json.loads(value)
            for word in field:
                if not isinstance(value, dict) or word not in value:
                    there = list(value) if isinstance(value, dict) else []
                    raise DataError(f"{name} has no field {word!r}; {did_you_mean(word, there)}")
                value = value[word]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}") from None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{name} holds {value!r}, no class")
    return str(value).strip()


def _numbers(texts: np.ndarray, classes: tuple[str, ...] | None, title: str, names: np.ndarray) -> np.ndarray:
    """Labels as class numbers."""
    known = {word: number for number, word in enumerate(classes or ())}
    values, places = np.unique(texts, return_inverse=True)
    numbers = np.zeros(len(values), np.int32)
    for i, text in enumerate(values.tolist()):
        if text in known:
            numbers[i] = known[text]
        elif text.isascii() and text.isdecimal() and len(text) < 10:
            numbers[i] = int(text)
        else:
            first = names[int(np.argmax(places == i))]
            hint = did_you_mean(text, known) if known else "name the classes: classes=('cat', 'dog')"
            raise DataError(f"{title}: the label of {first} is {text!r}, no class number; {hint}")
    return numbers[places]
