"""Shards: a corpus as token ids in memory-mapped files, with an index and the tokenizer beside them.

A folder of shards holds index.json; of each split, `<split>_00000.bin`, ... (little-endian uint16 or uint32 ids, one
stream cut every `shard_tokens`) and `<split>_documents.bin` (uint64: where each document starts, and the end); and
the tokenizer as `load` reads it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fmjax.core.errors import DataError
from fmjax.data import tokenizers
from fmjax.data.atomic import atomic_folder
from fmjax.data.cache import digest
from fmjax.data.parallel import GROUP, groups, mapped
from fmjax.data.tokenizer import Tokenizer
from fmjax.data.windows import TokenWindows, with_end

FORMAT = 1
INDEX = "index.json"
SHARD = 1 << 27  # tokens


class Shards(TokenWindows):
    """Windows over a folder that `python -m fmjax.tokenize` wrote; nothing is read before it is needed.

    Args:
      path: the folder.
      length: targets in a window; a row has `length + 1` tokens.
      stride: tokens between the starts of windows (1 for training); None covers every token once (for evaluation).
      context: with `stride=None`, targets of each window that are only context.
      split: "train", "validation".

    Raises:
      DataError: no shards there, no such split, or a file that is missing or has another size (the file is named).
    """

    def __init__(self, path: str, length: int, stride: int | None = None, context: int = 0, split: str = "train"):
        self._given = (path, length, stride, context, split)
        name, parts, documents, tokenizer, content = opened(path, split)
        super().__init__(name, parts, documents, tokenizer, length, stride, context, content)

    def __reduce__(self):  # a worker process opens the files itself
        return Shards, self._given


def opened(path: str, split: str) -> tuple[str, list[np.ndarray], np.ndarray, Tokenizer, str]:
    """(name, parts of the stream, where documents start, tokenizer, digest of the content) of a split on disk.

    Raises:
      DataError: no shards there, no such split, a file that is missing or of another size, or another tokenizer.
    """
    folder = Path(os.path.expandvars(path)).expanduser()
    index = read_index(folder)
    if split not in index["splits"]:
        raise DataError(f"{folder} has no split {split!r}; it has {', '.join(index['splits'])}")
    tokenizer, entry = tokenizers.load(str(folder)), index["splits"][split]
    if tokenizer.fingerprint != index["tokenizer"]:
        raise DataError(f"the tokenizer in {folder} is not the one its shards were made with")
    parts = [_map(folder / shard["file"], index["dtype"]) for shard in entry["shards"]]
    documents = _map(folder / entry["documents_file"]["file"], "<u8")
    content = digest("shards", [shard["sha256"] for shard in entry["shards"]])
    return f"{folder} {split}", parts, documents, tokenizer, content


def write(
    folder: Path,
    splits: Mapping[str, Iterable[str]],
    tokenizer: Tokenizer,
    key: str,
    workers: int = 0,
    shard_tokens: int = SHARD,
    replace: bool = False,
    tell: Callable[[str, dict[str, Any]], None] = lambda split, entry: None,
) -> dict[str, Any]:
    """Encode documents into a folder of shards, which appears when all is written; gives its index.

    Args:
      folder: where; nothing or an empty folder, unless `replace`.
      splits: {name: documents}.
      tokenizer: what turns them to ids; it is saved beside them.
      key: digest of the input and the settings, to know later whether this is up to date.
      workers: processes that encode; 0 encodes here. What is written does not depend on it.
      shard_tokens: tokens in a file.
      replace: put the new folder in the place of an old one.
      tell: called with the numbers of a split so far, after each group of documents.

    Raises:
      DataError: a split without tokens, or a folder that cannot be written.
    """
    try:
        with atomic_folder(folder, replace) as new:
            entries = {}
            for split, texts in splits.items():
                entries[split] = _write_split(new, split, texts, tokenizer, workers, shard_tokens, tell)
            tokenizer.save(new)
            index = {
                "format": FORMAT,
                "key": key,
                "dtype": tokenizer.dtype.str,
                "vocab": tokenizer.vocab,
                "tokenizer": tokenizer.fingerprint,
                "splits": entries,
            }
            (new / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"cannot write shards to {folder}: {error}") from None
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of shards, after comparing the size of every file with it.

    Raises:
      DataError: there is none, or a file is missing or has another size.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        version, files = int(index["format"]), list(_files(index))
    except FileNotFoundError:
        raise DataError(f"there are no shards in {folder}: make them with python -m fmjax.tokenize") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / INDEX} is no index of shards: {error!r}") from None
    if version > FORMAT:
        raise DataError(f"{folder} has shards of format {version}, this fmjax reads up to {FORMAT}: upgrade fmjax")
    for name, size, _ in files:
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes, not {size}"
            raise DataError(f"{folder / name} is damaged: it {state}; write the shards again")
    return index


def verify(folder: Path) -> int:
    """Compare every file with its sha256 in the index; gives the number of bytes read.

    Raises:
      DataError: names the first file that differs.
    """
    index, total = read_index(folder), 0
    for name, size, sha256 in _files(index):
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise DataError(f"{folder / name} is damaged: its content has changed; write the shards again")
        total += size
    if tokenizers.load(str(folder)).fingerprint != index["tokenizer"]:
        raise DataError(f"the tokenizer in {folder} is not the one its shards were made with")
    return total


def _files(index: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(name, bytes, sha256) of every binary file."""
    for entry in index["splits"].values():
        for file in [*entry["shards"], entry["documents_file"]]:
            yield file["file"], int(file["bytes"]), file["sha256"]


def _map(path: Path, dtype: str) -> np.ndarray:
    return np.asarray(np.memmap(path, dtype, mode="r"))  # a plain view: slices of it are cheaper


class _Cut:
    """Numbers written to files of at most `size` of them, hashed on the way.

    Attributes:
      files: name, bytes and sha256 of each file that is complete.
    """

    def __init__(self, folder: Path, name: str, size: int):
        self.folder, self.name, self.size = folder, name, size
        self.files: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._room = 0

    def __enter__(self) -> "_Cut":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, array: np.ndarray) -> None:
        while len(array):
            if self._file is None:
                self._file, self._hash = (self.folder / self.name.format(len(self.files))).open("wb"), hashlib.sha256()
                self._room = self.size
            piece, array = array[: self._room], array[self._room :]
            self._file.write(piece.tobytes())
            self._hash.update(piece.tobytes())
            self._room -= len(piece)
            if not self._room:
                self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            size = file.tell()
            file.close()
            self.files.append({"file": Path(file.name).name, "bytes": size, "sha256": self._hash.hexdigest()})


def _write_split(
    folder: Path,
    split: str,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    workers: int,
    shard_tokens: int,
    tell: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    entry: dict[str, Any] = {"documents": 0, "tokens": 0, "bytes": 0}
    with (
        _Cut(folder, f"{split}_{{:05d}}.bin", shard_tokens) as stream,
        _Cut(folder, f"{split}_documents.bin", sys.maxsize) as starts,
    ):
        for group, size in mapped(_Encode(tokenizer), groups(texts, GROUP), workers):
            entry["bytes"] += size
            for ids in (with_end(ids, tokenizer) for ids in group):
                starts.write(np.array([entry["tokens"]], "<u8"))
                stream.write(ids)
                entry["documents"] += 1
                entry["tokens"] += len(ids)
            tell(split, entry)
        starts.write(np.array([entry["tokens"]], "<u8"))
    entry["shards"], [entry["documents_file"]] = stream.files, starts.files
    if not entry["tokens"]:
        raise DataError(f"the {split} split has no text")
    return entry


class _Encode:
    """A group of documents to their ids, and the bytes of their text."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, group: list[str]) -> tuple[list[np.ndarray], int]:
        return self.tokenizer.encode_many(group), sum(len(text.encode("utf-8")) for text in group)
