"""Lines of JSON: objects with fields of any kind, each with the place it came from."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError, DataError
from fmjax.data.corpora import BROKEN, OPENERS, TextFiles


def objects(
    files: TextFiles, as_: Callable[[dict[str, Any], str], dict[str, Any]] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE line N", object) of every line that is not blank.

    Args:
      files: `.jsonl` files.
      as_: what each object is turned into, given with its place (`asked.Asked`).

    Raises:
      ConfigError: a file of another kind. DataError: a line that is no JSON object, or a file that is damaged.
    """
    for path in files.files:
        if not path.name.removesuffix(path.suffix if path.suffix in OPENERS else "").endswith(".jsonl"):
            raise ConfigError(f"{path} has no fields: name .jsonl files (.gz or .xz may follow)")
        try:
            with OPENERS.get(path.suffix, open)(path, "rb") as file:
                for number, raw in enumerate(file, 1):
                    if raw.strip():
                        record = _object(raw, at := f"{path} line {number}")
                        yield at, record if as_ is None else as_(record, at)
        except BROKEN as error:
            raise DataError(f"cannot read {path}: {error}") from None


def field(record: dict[str, Any], name: str, at: str) -> Any:
    """`record[name]`.

    Raises:
      DataError: there is none.
    """
    if name not in record:
        raise DataError(f"{at} has no {name!r}; {did_you_mean(name, record)}")
    return record[name]


def number(record: dict[str, Any], name: str, at: str) -> float:
    """`record[name]`, which must be a number.

    Raises:
      DataError: it is none.
    """
    value = field(record, name, at)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{at}: {name!r} is {value!r}, and a number is wanted")
    return float(value)


def words(value: Any, name: str, at: str) -> str:
    """The value, which must be a text with something in it.

    Raises:
      DataError: it is none.
    """
    if not isinstance(value, str):
        raise DataError(f"{at}: {name} is no text but {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{at}: {name} has no text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{at}: {name} holds half a surrogate pair") from None
    return value


def _object(raw: bytes, at: str) -> dict[str, Any]:
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DataError(f"{at} is no JSON object")
    return record
