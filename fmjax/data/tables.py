"""Tables: CSV, JSON lines and Parquet, gzipped or not."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fmjax.core.config import did_you_mean
from fmjax.core.errors import DataError, extra
from fmjax.data.source import InMemory

Columns = dict[str, list[Any]]


class Table(InMemory):
    """Rows of a table: features float32 (F,), and label, targets or text.

    A feature column whose values are all numbers gives one number; any other gives one 0/1 number per category,
    in sorted order (a category that only another file has is all zeros). The label is the index of its value
    among the sorted values. Kinds, categories and classes come from `vocabulary`: for a test file, name the
    training file there. `columns` says what each feature is. The fingerprint is of the numbers.

    Args:
      path: .csv, .tsv, .jsonl or .parquet; the first three also with .gz.
      features: columns; none given: all that nothing else uses.
      label: column of the class.
      targets: columns of numbers to regress, float32 (T,).
      text: column kept as a string.
      vocabulary: the table whose categories count; None is this one.
      header: names of the columns of a CSV file that does not start with them.
      delimiter: of a CSV file; None is a tab for .tsv and a comma otherwise.
      comment: lines that start with this are no rows.
      strip: characters taken off the ends of every value, besides blanks.
      missing: the number an empty numeric cell stands for; None refuses it.

    Raises:
      DataError: what cannot be read so, naming row and column.
    """

    def __init__(
        self,
        path: str,
        features: tuple[str, ...] = (),
        label: str | None = None,
        targets: tuple[str, ...] = (),
        text: str | None = None,
        vocabulary: str | None = None,
        header: tuple[str, ...] = (),
        delimiter: str | None = None,
        comment: str | None = None,
        strip: str = "",
        missing: float | None = None,
    ):
        columns = read(Path(path), header, delimiter, comment, strip)
        known = read(Path(vocabulary), header, delimiter, comment, strip) if vocabulary else columns
        used = {*targets, *(name for name in (label, text) if name)}
        features = tuple(features) or tuple(name for name in columns if name not in used)
        for name in (*features, *used):
            for file, there in ((path, columns), (vocabulary, known)):
                if name not in there:
                    raise DataError(f"{file} has no column {name!r}; {did_you_mean(name, there)}")
        rows = len(next(iter(columns.values())))
        self.columns: list[str] = []
        parts = []
        for name in features:
            part, names = _feature(name, columns[name], known[name], missing, path)
            parts.append(part)
            self.columns += names
        arrays: dict[str, np.ndarray] = {}
        if parts:
            arrays["features"] = np.concatenate(parts, axis=1)
        classes = None
        if label:
            classes = sorted({_text(v) for v in known[label]}, key=_numbers_first)
            arrays["label"] = _label(label, columns[label], classes, path)
        if targets:
            arrays["targets"] = np.stack([_floats(name, columns[name], missing, path) for name in targets], axis=1)
        if text:
            arrays["text"] = np.array([_text(v) for v in columns[text]], np.str_)
        super().__init__(f"Table({path}, {rows} rows)", arrays, classes)


def read(
    path: Path,
    header: tuple[str, ...] = (),
    delimiter: str | None = None,
    comment: str | None = None,
    strip: str = "",
) -> Columns:
    """{column: values}, all of one length: strings of a CSV file, what JSON and Parquet hold otherwise.

    Raises:
      DataError: no such file, another format, no rows, or a row of another width.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}; {did_you_mean(path.name, near)}")
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        if kind == ".parquet":
            table = extra("pyarrow.parquet", "table").read_table(path)
            columns = {name: table.column(name).to_pylist() for name in table.column_names}
        elif kind in (".jsonl", ".json"):
            columns = _json_lines(path)
        else:
            columns = _csv(path, header, delimiter or ("\t" if kind == ".tsv" else ","), comment)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    except ValueError as error:  # pyarrow's errors are ValueErrors
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from None
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path} has no rows")
    blanks = " \t\r\n" + strip
    return {k: [v.strip(blanks) if isinstance(v, str) else v for v in values] for k, values in columns.items()}


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        yield from file


def _csv(path: Path, header: tuple[str, ...], delimiter: str, comment: str | None) -> Columns:
    lines = (line for line in _lines(path) if not (comment and line.startswith(comment)))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    names = list(header)
    rows: list[list[str]] = []
    for row in reader:
        if not row:
            continue
        if not names:
            names = [name.strip() for name in row]
            continue
        if len(row) != len(names):
            raise DataError(f"{path} line {reader.line_num}: {len(row)} values, the header names {len(names)} columns")
        rows.append(row)
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name: {', '.join(names)}")
    return dict(zip(names, map(list, zip(*rows, strict=True)))) if rows else {}


def _json_lines(path: Path) -> Columns:
    columns: Columns = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path} line {number} is no JSON: {error}") from None
        if not isinstance(row, dict) or (columns and row.keys() != columns.keys()):
            there = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{path} line {number} holds {there}, the first line {sorted(columns)}")
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _numbers_first(value: str) -> tuple:
    """Sort "2" before "10", and numbers before words."""
    number = _number(value)
    return (number is None, number if number is not None else 0.0, value)


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (list, dict)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _feature(name: str, values: list, known: list, missing: float | None, path: str) -> tuple[np.ndarray, list[str]]:
    """((N, 1) numbers or (N, categories) 0/1, what each is called)."""
    if all(_empty(v) or _number(v) is not None for v in known):
        return _floats(name, values, missing, path)[:, None], [name]
    categories = sorted({_text(v) for v in known})
    index = {category: i for i, category in enumerate(categories)}
    out = np.zeros((len(values), len(categories)), np.float32)
    for row, value in enumerate(values):
        if (column := index.get(_text(value))) is not None:
            out[row, column] = 1
    return out, [f"{name}={category}" for category in categories]


def _floats(name: str, values: list, missing: float | None, path: str) -> np.ndarray:
    out = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        number = missing if _empty(value) else _number(value)
        if number is None or not np.isfinite(number):
            hint = "set missing= to the number it stands for" if _empty(value) else "wanted a finite number"
            raise DataError(f"{path} row {row + 1}, column {name}: {_text(value)!r}: {hint}")
        out[row] = number
    return out


def _label(name: str, values: list, classes: list[str], path: str) -> np.ndarray:
    index = {label: i for i, label in enumerate(classes)}
    out = np.empty(len(values), np.int32)
    for row, value in enumerate(values):
        if _text(value) not in index:
            raise DataError(f"{path} row {row + 1}: label {_text(value)!r} is none of {', '.join(classes[:10])}")
        out[row] = index[_text(value)]
    return out
