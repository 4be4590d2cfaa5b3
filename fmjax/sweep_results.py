"""Lines of results.jsonl: what each run of a study ended with; the last line of a run is the one that counts."""

import datetime
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, DataError
from fmjax.provenance import in_words, same_code
from fmjax.study import Trial, written

NEEDED = ("change", "seed", "status", "numbers", "code", "config")


def line_of(
    trial: Trial,
    status: str,
    *,
    config: str,
    code: Mapping[str, Any],
    numbers: Mapping[str, float] = {},
    error: str | None = None,
    seconds: float = 0.0,
    batches: str | None = None,
    how: str = "solo",
) -> dict[str, Any]:
    """What there is to say of a run that ended.

    Args:
      status: "finished" or "failed"; of a search's trial also "pruned".
      config: hash of the trial's config, as of `study.trial_hash`.
      code: of `provenance.code_version`.
      numbers: {"evaluator/number": value}.
      error: the line it failed with.
      batches: digest of all its batches.
      how: "solo", or "population of N", whose seconds are shared among N.
    """
    from fmjax.results import machine

    bad = sorted(name for name, value in numbers.items() if not math.isfinite(value))
    return {
        "change": trial.change,
        "seed": trial.seed,
        "status": status,
        "error": error,
        "numbers": {name: None if name in bad else float(value) for name, value in numbers.items()},
        "overrides": {key: written(value) for key, value in trial.overrides.items()},
        "config": config,
        "batches": batches,
        "code": dict(code),
        "how": how,
        "seconds": round(seconds, 2),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line in one write, so that several processes can share the file.

    Raises:
      DataError: the file cannot be written.
    """
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and path.read_bytes()[-1:] not in (b"\n", b"")  # a kill in the middle of a line
        with open(path, "ab", buffering=0) as file:
            file.write(("\n" * torn + text).encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """{(change, seed): its last line}; {} where there is no file. A torn last line is passed over.

    Raises:
      DataError: a line that is no result; it is named.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    if not path.is_file():
        return found
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            if number >= len(lines) - 1 or lines[number].strip():  # torn, then gone on from
                continue
            raise DataError(f"{path}, line {number}: no JSON") from None
        if not isinstance(line, dict) or any(key not in line for key in NEEDED):
            missing = [key for key in NEEDED if key not in line] if isinstance(line, dict) else NEEDED
            raise DataError(f"{path}, line {number}: a result has {', '.join(NEEDED)}; {missing[0]!r} is missing")
        found[line["change"], line["seed"]] = line
    return found


def one_code(lines: Iterable[Mapping[str, Any]], now: Mapping[str, Any] | None = None) -> None:
    """Refuse results of several versions of the code, or of another than `now`.

    Raises:
      ConfigError: naming two versions.
    """
    lines = list(lines)
    first = now if now is not None else next((line["code"] for line in lines), None)
    others = [line for line in lines if not same_code(line["code"], first)]
    if others:
        raise ConfigError(
            f"{len(others)} results are of {in_words(others[0]['code'])}, not of {in_words(first)}: "
            "take another --workdir, go back to that code, or say --mix"
        )


def batches_digest(metrics: Path) -> str | None:
    """One digest of all batches that a run saw, of the records in its metrics.jsonl."""
    from fmjax.training.records import read_records

    seen, count = hashlib.blake2b(digest_size=8), 0
    for record in read_records(metrics) if metrics.is_file() else ():
        if record.get("kind") == "train" and "batch" in record:
            seen.update(record["batch"].encode())
            count += 1
    return f"{seen.hexdigest()}/{count}" if count else None


def write_whole(path: Path, text: str) -> None:
    """Write a file that a reader sees whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
