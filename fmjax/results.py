"""Results: rows that the measuring commands wrote, and the table of the README made of them.

python -m fmjax.results           write the table into README.md
python -m fmjax.results --check   exit with 2 when README.md and the rows disagree
"""

import argparse
import datetime
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmjax.core.errors import DataError, exits
from fmjax.core.fingerprint import config_hash

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FIELDS = {
    "name": str,
    "task": str,
    "metric": str,
    "command": str,
    "config_hash": (str, type(None)),
    "values": list,
    "mean": (int, float),
    "spread": (int, float),
    "baseline": (dict, type(None)),
    "published": (dict, type(None)),
    "target": (int, float, str, type(None)),
    "versions": dict,
    "machine": str,
    "date": str,
    "note": str,
}
_FILLED = ("name", "task", "metric", "command", "machine", "date", "versions", "values")  # may not be empty
_PACKAGES = ("fmjax", "jax", "jaxlib", "flax", "optax", "numpy")


def write_row(
    name: str,
    *,
    task: str,
    metric: str,
    command: str,
    values: Sequence[float],
    seeds: Sequence[int] | None = None,
    repeats: int | None = None,
    config: Any = None,
    baseline: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    target: float | str | None = None,
    note: str = "",
    folder: str | Path | None = None,
) -> Path:
    """Write a row of results; versions, machine, date, mean and spread are filled in here.

    Args:
      name: of the row and its file: lower case, digits and underscores.
      command: what a reader types to measure it again, from the root of the repository.
      values: one number a seed, or a repeat; `seeds` or `repeats` says which.
      config: the config that was measured, for its hash.
      baseline: {"name", "value"} of what it is compared with, measured here too; and where both were measured in
        turns "values", its numbers one by one, as many as ours.
      published: {"value", "source"} of what others report.
      folder: where the rows are; by default experiments/results of this checkout, or of the working folder.

    Raises:
      DataError: the row is not valid; nothing is written.
    """
    values = [float(v) for v in values]
    if not all(map(math.isfinite, values)):
        raise DataError(f"row {name}: 'values' holds something that is no finite number")
    row: dict[str, Any] = {"name": name, "task": task, "metric": metric, "command": command}
    row["config_hash"] = None if config is None else config_hash(config)
    if seeds is not None:
        row["seeds"] = [int(s) for s in seeds]
    if repeats is not None:
        row["repeats"] = int(repeats)
    row |= {
        "values": values,
        "mean": statistics.fmean(values) if values else math.nan,
        "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
        "baseline": None if baseline is None else dict(baseline),
        "published": None if published is None else dict(published),
        "target": target,
        "versions": versions(),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "note": note,
    }
    path = Path(folder or results_folder()) / f"{name}.json"
    problems = check_row(row, path.stem)
    if problems:
        raise DataError(f"row {name}: {problems[0]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return path


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    import importlib.metadata

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The machine in words that name no host: "2 CPU cores", "1 x NVIDIA H200, 16 CPU cores"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = [f"{cores} CPU core" + ("s" if cores != 1 else "")]
    jax = sys.modules.get("jax")  # what measured nothing with jax has used no accelerator
    if jax is not None:
        devices = [d for d in jax.devices() if d.platform != "cpu"]
        if devices:
            words.insert(0, f"{len(devices)} x {devices[0].device_kind}")
    return ", ".join(words)


def results_folder() -> Path:
    """experiments/results of the checkout that this code is run from, else of the working folder."""
    return (ROOT if (ROOT / "experiments").is_dir() else Path.cwd()) / "experiments" / "results"


def check_row(row: Any, stem: str) -> list[str]:
    """What is wrong with a row, one sentence each, the field first."""
    if not isinstance(row, dict):
        return ["it is no JSON object"]
    problems = [f"{field!r} is missing" for field in FIELDS if field not in row]
    for field, kind in FIELDS.items():
        if field in row and (not isinstance(row[field], kind) or isinstance(row[field], bool)):
            problems.append(f"{field!r} is {row[field]!r}, which is no {_kind(kind)}")
    problems += [f"{field!r} is empty" for field in _FILLED if field in row and row[field] in ("", [], {})]
    problems += [f"{k!r} is no field of a row" for k in row if k not in FIELDS and k not in ("seeds", "repeats")]
    if problems:
        return problems
    return [*_check_values(row), *_check_words(row, stem)]


def _check_values(row: dict[str, Any]) -> list[str]:
    values, problems = row["values"], []
    if not all(_is_number(v) for v in values):
        return ["'values' holds something that is no finite number"]
    seeds, repeats = row.get("seeds"), row.get("repeats")
    if (seeds is None) == (repeats is None):
        problems.append("'seeds' or 'repeats' must be there, and not both")
    elif seeds is not None:
        whole = isinstance(seeds, list) and all(type(s) is int for s in seeds)
        if not whole or len(set(seeds)) != len(values):
            problems.append(f"'seeds' are {seeds!r}: not {len(values)} different integers, one a value")
    elif repeats != len(values) or isinstance(repeats, bool):
        problems.append(f"'repeats' is {repeats!r}, but there are {len(values)} values")
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    for field, expected in (("mean", mean), ("spread", spread)):
        if not math.isclose(row[field], expected, rel_tol=1e-6, abs_tol=1e-9 * max(abs(mean), 1e-3)):
            problems.append(f"{field!r} is {row[field]}, but that of the values is {expected:.6g}")
    return problems


def _check_words(row: dict[str, Any], stem: str) -> list[str]:
    problems = []
    if row["name"] != stem or not re.fullmatch(r"[a-z0-9_]+", row["name"]):
        problems.append(f"'name' is {row['name']!r}: it must be the file's, in lower case, digits and underscores")
    for field, keys in (("baseline", {"name", "value"}), ("published", {"value", "source"})):
        inner = row[field]
        more = {"values"} if field == "baseline" else set()
        if inner is not None and (set(inner) - more != keys or not _is_number(inner["value"])):
            problems.append(f"{field!r} must be null or hold {' and '.join(sorted(keys))}, the value a number")
    turns = (row["baseline"] or {}).get("values")
    if turns is not None and not (
        isinstance(turns, list) and len(turns) == len(row["values"]) and all(map(_is_number, turns))
    ):
        problems.append(f"'baseline' has the values {turns!r}: not {len(row['values'])} numbers, one a value of ours")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", row["date"]):
        problems.append(f"'date' is {row['date']!r}, not like 2026-11-22")
    if row["config_hash"] is not None and not re.fullmatch(r"[0-9a-f]{8,64}", row["config_hash"]):
        problems.append(f"'config_hash' is {row['config_hash']!r}, no hex digits")
    if "\n" in row["command"]:
        problems.append("'command' has more than one line")
    return problems


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """Every row of a folder, by task and name.

    Raises:
      DataError: a row is not valid; names the file and the field.
    """
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no JSON: {error}") from None
        problems = check_row(row, path.stem)
        if problems:
            raise DataError(f"{path}: {problems[0]}")
        rows.append(row)
    return sorted(rows, key=lambda row: (row["task"], row["name"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| task | metric | ours (mean ± spread, n) | baseline | published / target | command |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        base, published, target = row["baseline"], row["published"], row["target"]
        compared = [f"{_number(published['value'])} ({_cell(published['source'])})"] if published else []
        compared += [f"target {_cell(_number(target) if _is_number(target) else target)}"] if target is not None else []
        cells = [
            _cell(row["task"]) + (f" ({_cell(row['note'])})" if row["note"] else ""),
            _cell(row["metric"]),
            ours(row),
            f"{_number(base['value'])} ({_cell(base['name'])})" if base else "",
            "; ".join(compared),
            _code(row["command"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ours(row: Mapping[str, Any]) -> str:
    """Mean and spread with the digits that the spread leaves meaning to: "0.9842 ± 0.0006 (n=5)"."""
    mean, spread, n = row["mean"], row["spread"], len(row["values"])
    if n == 1 or spread == 0:
        return f"{_number(mean)} (n=1)" if n == 1 else f"{_number(mean)} ± 0 (n={n})"
    if not 1e-5 < spread < 1e6:
        return f"{mean:.4g} ± {spread:.2g} (n={n})"
    digits = max(1 - math.floor(math.log10(spread)), 0)
    return f"{mean:.{digits}f} ± {spread:.{digits}f} (n={n})"


def insert(readme: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The README with the table of the rows between its two markers.

    Raises:
      DataError: the markers are not there once each, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise DataError(f"the README must hold the lines {BEGIN} and {END}, once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> int:
    """Regenerate the README's table of results from experiments/results, or check it."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.results", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 2 when they disagree")
    parser.add_argument("--folder", type=Path, help="where the rows are (default: experiments/results)")
    parser.add_argument("--readme", type=Path, help="the file with the table (default: README.md beside experiments)")
    args = parser.parse_args(argv)
    folder = args.folder or results_folder()
    readme = args.readme or folder.parent.parent / "README.md"
    rows = read_rows(folder)
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {readme}: {error.strerror}") from None
    try:
        wanted = insert(text, rows)
    except DataError as error:
        raise DataError(f"{readme}: {error}") from None
    if args.check:
        if text != wanted:
            raise DataError(f"the table in {readme} is not that of the rows: run python -m fmjax.results")
        print(f"{readme.name} agrees with {len(rows)} rows")
        return 0
    if text != wanted:
        readme.write_text(wanted, encoding="utf-8")
    print(f"{readme.name}: {len(rows)} rows" + ("" if text != wanted else ", nothing new"))
    return 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.6g}"


def _kind(kind: Any) -> str:
    names = {str: "text", list: "list", dict: "object", int: "number", float: "number", type(None): "null"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names[k] for k in kinds))


def _cell(text: str) -> str:
    """Text that stays inside its cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """A command as code; GitHub needs the bar escaped even there."""
    fence = "``" if "`" in text else "`"
    return fence + " ".join(text.split()).replace("|", "\\|") + fence


if __name__ == "__main__":
    exits(main)()
