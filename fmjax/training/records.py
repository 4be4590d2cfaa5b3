"""Records: the lines of `metrics.jsonl`, flat dicts with `kind`, `step` and `time`, written and read back."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError, DataError

NO_METRIC = {"kind", "step", "time", "batch"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class JsonLines:
    """Append records to a file, one strict-JSON line each, handed to the OS before `write` returns.

    A number that is not finite is written as the string "nan", "inf" or "-inf". After a kill the file may end in
    a torn line; opening it again cuts that line off.

    Raises:
      CheckpointError: the file cannot be written; a line that did not fit on the disk is taken back.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            os.ftruncate(self._file, _end_of_last_line(self._file))
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        data = (json.dumps({k: _strict(v) for k, v in record.items()}, allow_nan=False) + "\n").encode()
        before = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from None

    def truncate_after(self, step: int) -> int:
        """Drop train and eval records of later steps (events and starts stay: they did happen); how many went.

        The file is rewritten beside itself and renamed over, so that a kill leaves the old or the new one.
        """
        kept, dropped = [], 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            record = _parse(line)
            if record and record.get("kind") in ("train", "eval") and record.get("step", 0) > step:
                dropped += 1
            else:
                kept.append(line)
        if not dropped:
            return 0
        beside = self.path.with_name(self.path.name + ".tmp")
        try:
            with open(beside, "wb") as file:
                file.writelines(kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
            old, self._file = self._file, self._open()
            os.close(old)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from None
        return dropped

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file that `JsonLines` wrote, "nan" and "inf" as numbers again; a torn last line is ignored.

    The strings of an event are text and stay as they are. No file gives no records.

    Raises:
      DataError: a line before the last one is damaged.
    """
    records, damaged = scan_records(path)
    if damaged:
        raise DataError(f"{path}: line {damaged[0]} is damaged; delete it, or put back a copy of the file")
    return records


def scan_records(path: str | Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The readable records, and the numbers (from 1) of the lines that are damaged, without raising."""
    path = Path(path)
    if not path.is_file():
        return [], []
    with open(path, "rb") as file:
        return parse_lines(file)


def parse_lines(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], list[int]]:
    """`scan_records` of lines that end in a newline; one that does not was torn by a kill, and is the last."""
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        record = _parse(line)
        if record is None:
            damaged.append(number)
            continue
        if (b'nan"' in line or b'inf"' in line) and record.get("kind") != "event":
            for key, value in record.items():
                if isinstance(value, str) and value in _NOT_FINITE and key not in NO_METRIC:
                    record[key] = _NOT_FINITE[value]
        records.append(record)
    return records, damaged


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record: every number but its step and time."""
    return {
        k: v
        for k, v in ((k, _strict(v, finite=False)) for k, v in record.items() if k not in NO_METRIC)
        if isinstance(v, (int, float)) and not isinstance(v, bool)
    }


def _strict(value: Any, finite: bool = True) -> Any:
    """A value as strict JSON holds it: arrays of one number and numpy scalars become Python's."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if not finite or math.isfinite(value) else repr(float(value))
    if isinstance(value, Mapping):
        return {str(k): _strict(v, finite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v, finite) for v in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return _strict(value.item(), finite)
    if hasattr(value, "tolist"):
        return _strict(value.tolist(), finite)
    return str(value)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    good = isinstance(record, dict) and isinstance(record.get("step", 0), int)
    return record if good else None


def _end_of_last_line(file: int) -> int:
    """The offset just after the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(end - 65536, 0)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
