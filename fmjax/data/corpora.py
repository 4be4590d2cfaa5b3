"""Corpora: documents of text, in a fixed order, with a fingerprint; and the parts they are split into."""

import functools
import gzip
import hashlib
import itertools
import json
import lzma
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from fmjax.core.errors import ConfigError, DataError
from fmjax.data.cache import digest

SPLITS = ("train", "validation", "all")
OPENERS = {".gz": gzip.open, ".xz": lzma.open}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)
# Python packages that are no part of every installation (Debian ships them apart, newer versions dropped some), and
# two that hold generated tables rather than programs.
ABSENT = ("test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "distutils", "ensurepip")
TABLES = ("encodings", "pydoc_data")


class Corpus(Protocol):
    """Documents, the same ones in the same order each time it is iterated over; all valid Unicode, none empty."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with the text."""

    def __iter__(self) -> Iterator[str]: ...


class PythonStdlib:
    """The source files of the running interpreter's standard library: real text on every machine.

    The text differs between versions of Python, so bits per byte compare within one version. A file is held out by
    the hash of its path, so that its side does not depend on the other files.

    Args:
      split: "train", "validation" or "all".
      held_out: how much goes to validation, as a fraction of the files.
      exclude: names of folders to leave out; installed packages always are.

    Attributes:
      files: {path relative to the library: text}, sorted by path.
      skipped: files that are not UTF-8.
    """

    def __init__(self, split: str = "train", held_out: float = 0.1, exclude: tuple[str, ...] = (*ABSENT, *TABLES)):
        _check_split(split, held_out)
        self.split = split
        self.files: dict[str, str] = {}
        self.skipped: list[str] = []
        root = Path(sysconfig.get_path("stdlib"))
        for path in _python_files(root, {*exclude, "site-packages", "dist-packages", "__pycache__"}):
            name = path.relative_to(root).as_posix()
            if not _on_side(split, name, held_out):
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                self.skipped.append(name)
                continue
            if text:
                self.files[name] = text
        if not self.files:
            raise DataError(f"no Python source in {root}: this interpreter comes without the text of its library")
        self.fingerprint = digest("corpus", list(self.files.values()))

    def __repr__(self) -> str:
        return f"PythonStdlib({self.split})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.files.values())


class TextFiles:
    """Text in files: each file is a document, but of `.jsonl` each line is one; `.gz` and `.xz` are unpacked.

    Args:
      paths: files or folders, `$NAME` and `~` expanded; folders are searched to the bottom, hidden files left out.
      pattern: which files of a folder.
      field: where a line of JSON keeps its text.
      invalid: "fail" at text that is no valid UTF-8, or "replace" it by U+FFFD.

    Raises:
      DataError: no such file, or none that matches; while reading, a file that is damaged, empty of text, or invalid.
    """

    def __init__(self, paths: str | tuple[str, ...], pattern: str = "*", field: str = "text", invalid: str = "fail"):
        if invalid not in ("fail", "replace"):
            raise ConfigError(f"invalid must be 'fail' or 'replace', not {invalid!r}")
        self.pattern, self.field, self.invalid = pattern, field, invalid
        self.paths = (paths,) if isinstance(paths, str) else tuple(paths)
        self.files = [file for path in self.paths for file in _files(path, pattern)]
        if not self.files:
            raise DataError("a corpus needs at least one text file, and none is named")

    def __repr__(self) -> str:
        return f"TextFiles({', '.join(self.paths)})"

    def __iter__(self) -> Iterator[str]:
        empty = True
        for path in self.files:
            try:
                for text in self._lines(path) if _kind(path).startswith(".jsonl") else self._whole(path):
                    if text:
                        empty = False
                        yield text
            except BROKEN as error:
                raise DataError(f"cannot read {path}: {error}") from None
        if empty:
            raise DataError(f"there is no text in {', '.join(self.paths)}")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the content of the files, as they are on disk, and of how they are read."""
        parts = []
        for path in self.files:
            try:
                with path.open("rb") as file:
                    parts.append((_kind(path), hashlib.file_digest(file, "sha256").hexdigest()))
            except OSError as error:
                raise DataError(f"cannot read {path}: {error}") from None
        return digest("text files", parts, self.field, self.invalid)

    def _whole(self, path: Path) -> Iterator[str]:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            yield self._decode(file.read(), str(path))

    def records(self, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """These fields of every line of every file, which must all be `.jsonl`; a text may be empty here.

        Raises:
          ConfigError: a file of another kind. DataError: a line without these fields, or without text in them.
        """
        for at, record in self.objects(fields):
            yield tuple(self.text(record[field], field, at) for field in fields)

    def objects(self, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every line of every file, which must all be `.jsonl`, as (place, object); the place is for errors.

        Raises:
          ConfigError: a file of another kind. DataError: a line without one of these fields.
        """
        for path in self.files:
            if not _kind(path).startswith(".jsonl"):
                raise ConfigError(f"{path} has no fields: name .jsonl files (.gz or .xz may follow)")
            try:
                yield from self._objects(path, fields)
            except BROKEN as error:
                raise DataError(f"cannot read {path}: {error}") from None

    def _lines(self, path: Path) -> Iterator[str]:
        for at, record in self._objects(path, (self.field,)):
            yield self.text(record[self.field], self.field, at)

    def _objects(self, path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                line = self._decode(raw, at := f"{path} line {number}")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                for field in fields:
                    if not isinstance(record, dict) or field not in record:
                        raise DataError(f"{at} is no JSON object with a field {field!r}")
                yield at, record

    def text(self, value: Any, field: str, at: str) -> str:
        """A value of an object as text."""
        if not isinstance(value, str):
            raise DataError(f"{at}: {field!r} is no text but {type(value).__name__}")
        # JSON can spell half a surrogate pair, which no encoding can write.
        return self._decode(value.encode("utf-8", "surrogatepass"), f"{at}: {field!r}")

    def _decode(self, raw: bytes, at: str) -> str:
        try:
            return raw.decode("utf-8", "strict" if self.invalid == "fail" else "replace")
        except UnicodeDecodeError as error:
            raise DataError(f"{at} is not valid UTF-8 at byte {error.start}; invalid='replace' accepts it") from None


class Part:
    """The characters of a corpus from fraction `start` to fraction `stop`; a document at a border is cut.

    `Part(corpus, stop=0.9)` and `Part(corpus, start=0.9)` are nanoGPT's training and validation text.
    """

    def __init__(self, corpus: Corpus, start: float = 0.0, stop: float = 1.0):
        if not 0 <= start < stop <= 1:
            raise ConfigError(f"a part runs from start to stop with 0 <= start < stop <= 1, not {start} to {stop}")
        self.corpus, self.start, self.stop = corpus, start, stop

    def __repr__(self) -> str:
        return f"Part({self.corpus!r}, {self.start}, {self.stop})"

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest("part", self.corpus.fingerprint, float(self.start), float(self.stop))

    def __iter__(self) -> Iterator[str]:
        total = sum(map(len, self.corpus))
        first, last, at, empty = int(total * self.start), int(total * self.stop), 0, True
        for text in self.corpus:
            if part := text[max(first - at, 0) : max(last - at, 0)]:
                empty = False
                yield part
            at += len(text)
        if empty:
            raise DataError(f"{self!r} is empty: the corpus has only {total} characters")


class HeldOut:
    """The documents of one side of a split by the hash of their text, so that copies stay on one side.

    Args:
      corpus: the documents to split.
      split: "train", "validation" or "all".
      held_out: the fraction of the documents that goes to validation.
    """

    def __init__(self, corpus: Corpus, split: str = "train", held_out: float = 0.1):
        _check_split(split, held_out)
        self.corpus, self.split, self.held_out = corpus, split, held_out

    def __repr__(self) -> str:
        return f"HeldOut({self.corpus!r}, {self.split})"

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest("held out", self.corpus.fingerprint, self.split, float(self.held_out))

    def __iter__(self) -> Iterator[str]:
        empty = True
        for text in self.corpus:
            if _on_side(self.split, text, self.held_out):
                empty = False
                yield text
        if empty:
            hint = "hold out a part of the text instead (Part, or --valid_by=tail)"
            raise DataError(f"no document falls into the {self.split} split: {hint}")


class Several:
    """The documents of several corpora, one corpus after the other: both languages of a translation, for example."""

    def __init__(self, corpora: tuple):
        if not corpora:
            raise ConfigError("several corpora are at least one")
        self.corpora: tuple[Corpus, ...] = tuple(corpora)

    def __repr__(self) -> str:
        return f"Several({', '.join(map(repr, self.corpora))})"

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest("several", [corpus.fingerprint for corpus in self.corpora])

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self.corpora)


def joined(corpus: Corpus) -> bytes:
    """All the text of a corpus as UTF-8, documents end to end."""
    return b"".join(text.encode("utf-8") for text in corpus)


def _check_split(split: str, held_out: float) -> None:
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}; there is {', '.join(SPLITS)}")
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out is a fraction between 0 and 1, not {held_out}")


def _on_side(split: str, name: str, held_out: float) -> bool:
    place = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") / 2**64
    return split == "all" or (place < held_out) == (split == "validation")


def _python_files(root: Path, exclude: set[str]) -> list[Path]:
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in exclude and not name.startswith(("config-", "."))]
        found += [Path(folder, name) for name in names if name.endswith(".py") and name not in exclude]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _kind(path: Path) -> str:
    """What the name says of how to read the file: "", ".gz", ".jsonl", ".jsonl.xz", ..."""
    packed = path.suffix if path.suffix in OPENERS else ""
    return (".jsonl" if path.name.removesuffix(packed).endswith(".jsonl") else "") + packed


def _files(given: str, pattern: str) -> list[Path]:
    path = Path(os.path.expandvars(given)).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        unset = " ($ names an environment variable that is not set)" if "$" in str(path) else ""
        raise DataError(f"there is no text file or folder {path}{unset}")
    names = [file.relative_to(path) for file in path.rglob(pattern) if file.is_file()]
    shown = sorted((n for n in names if not any(p.startswith(".") for p in n.parts)), key=lambda n: n.as_posix())
    if not shown:
        raise DataError(f"no file in {path} matches {pattern!r}")
    return [path / name for name in shown]
