"""The table of speed: benchmarks/RESULTS.md says of every row how fast, beside whom, and whether it meets its goal.

python benchmarks/speed_table.py           write the table between the markers of benchmarks/RESULTS.md
python benchmarks/speed_table.py --check   exit with 2 when they disagree, or a missed row has no word about why

What is written outside the markers stays: that is where the reasons are.
"""

import argparse
import dataclasses
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmjax import results
from fmjax.core.errors import DataError, exits

PAGE = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a row should reach.

    Attributes:
      rows: pattern of their names.
      limit: the number.
      of: "ratio" (our time or memory over the peer's, at most), "most" or "least" (the row's own median).
    """

    rows: str
    limit: float
    of: str = "ratio"

    @property
    def words(self) -> str:
        sign = ">=" if self.of == "least" else "<="
        return f"{'ratio ' if self.of == 'ratio' else ''}{sign} {self.limit:g}"


# The first that matches counts; a row without one is there to be known.
GOALS = (
    Goal(r"mfu_llama_\w+_2048_bfloat16_gpu", 0.5, "least"),
    Goal(r"cifar_94_gpu", 2.6, "most"),
    Goal(r"cifar_94_accuracy_gpu", 0.94, "least"),
    Goal(r"decode_\w+_gpu", 1.0),
    Goal(r"step_\w+", 1.0),
    Goal(r"ceiling_\w+", 0.75, "least"),
    Goal(r"decode_\w+", 0.5),
    Goal(r"inputs_(images|text)", 0.5),
    Goal(r"first_step_warm", 6.0, "most"),
    Goal(r"quickstart_seconds", 180.0, "most"),
    Goal(r"host_share_\w+", 0.01, "most"),
    Goal(r"checkpoint_stall_share", 0.05, "most"),
)
GPU = "GPU"
NOTHING = "Nothing was measured on a GPU: no row of one is there. benchmarks/gpu/NOTES.md says what is ready to be run."
# A row is in the first section that matches.
SECTIONS = {
    GPU: r"\w+_gpu",
    "Training steps": r"(step|ceiling)_\w+",
    "Evaluation": r"evaluate_\w+",
    "Decoding": r"decode_\w+",
    "Input": r"(inputs|augmentation)_\w+",
    "Starting": r"(import|import_run|quickstart)_seconds|first_step_\w+",
    "Checkpoints": r"checkpoint_\w+",
    "Memory and host": r"(memory|host_share)_\w+|chunked_loss_\w+",
}


def is_rate(row: Row) -> bool:
    """Whether more of the row's metric is better."""
    return row["metric"].endswith(("a second", "/s"))


def ratios(row: Row) -> list[float]:
    """Our time over the peer's, or our memory: of every turn where the row has them, else of the medians."""
    base = row["baseline"]
    if base is None:
        return []
    pairs = zip(row["values"], base["values"], strict=True) if base.get("values") else [(_median(row), base["value"])]
    return [b / a if is_rate(row) else a / b for a, b in pairs]


def goal_of(row: Row) -> Goal | None:
    """The goal that a row has."""
    return next((goal for goal in GOALS if re.fullmatch(goal.rows, row["name"])), None)


def missed(row: Row) -> float | None:
    """By which part of its limit a row misses its goal: 0.1 is ten percent, 0 or less is met, None has no goal.

    Raises:
      DataError: a goal beside a peer, and no peer.
    """
    goal = goal_of(row)
    if goal is None:
        return None
    if goal.of != "ratio":
        part = _median(row) / goal.limit - 1
        return -part if goal.of == "least" else part
    found = ratios(row)
    if not found:
        raise DataError(f"row {row['name']} has a goal beside a peer, and no baseline")
    return statistics.median(found) / goal.limit - 1


def table(rows: Sequence[Row]) -> str:
    """The rows by section, each a line of Markdown; their notes below."""
    lines = []
    for title in (*(title for title in SECTIONS if title != GPU), GPU):
        here = [row for row in rows if section(row) == title]
        if not here:
            lines += [f"## {GPU}", "", NOTHING, ""] * (title == GPU)
            continue
        lines += [f"## {title}", "", "| row | what | unit | ours | peer | ratio | goal | | date |", "| --- " * 9 + "|"]
        lines += [line(row) for row in here]
        lines += ["", *(note(row) for row in here), ""]
    return "\n".join([*machines(rows), "", *lines]).rstrip()


def section(row: Row) -> str | None:
    """Where a row is told."""
    return next((title for title, pattern in SECTIONS.items() if re.fullmatch(pattern, row["name"])), None)


def line(row: Row) -> str:
    """One row of the table; its ratio has the range over turns."""
    base, found, goal, by = row["baseline"], ratios(row), goal_of(row), missed(row)
    ratio = f"{statistics.median(found):.2f}" if found else ""
    if len(found) > 1:
        ratio += f" ({min(found):.2f} to {max(found):.2f})"
    verdict = "" if by is None else "met" if by <= 0 else f"**missed by {by:.0%}**"
    cells = [
        f"`{row['name']}`", row["task"], row["metric"],
        f"{_median(row):.4g} ± {row['spread']:.2g} (n={len(row['values'])})",
        f"{base['value']:.4g} ({base['name']})" if base else "",
        ratio, goal.words if goal else "", verdict, row["date"],
    ]  # fmt: skip
    plain = (" ".join(str(cell).split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(plain)} |"


def note(row: Row) -> str:
    """How a row is measured again, and what else there is to say of it."""
    return f"- `{row['name']}`: " + "; ".join(filter(None, (f"`{row['command']}`", row["note"])))


def machines(rows: Sequence[Row]) -> list[str]:
    """A line for every machine and set of versions, with the rows measured there where there are several."""
    found: dict[str, list[str]] = {}
    for row in rows:
        where = f"{row['machine']}; " + ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        found.setdefault(where, []).append(f"`{row['name']}`")
    if len(found) == 1:
        return [f"All on {next(iter(found))}."]
    return [f"- {where}: {', '.join(names)}" for where, names in found.items()]


def speed_rows(folder: Path | None = None) -> list[dict[str, Any]]:
    """The rows that are about speed, by name."""
    rows = results.read_rows(folder or results.results_folder())
    some = "|".join(SECTIONS.values())
    return sorted((row for row in rows if re.fullmatch(some, row["name"])), key=lambda row: row["name"])


def insert(page: str, rows: Sequence[Row]) -> str:
    """The page with the table between its markers.

    Raises:
      DataError: the markers are not there once each, in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise DataError(f"the page must hold the lines {BEGIN} and {END}, once each")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    return f"{before}{BEGIN}\n{table(rows)}\n{after}"


def unexplained(page: str, rows: Sequence[Row]) -> list[str]:
    """The rows that miss their goals and are not named outside the table, where the reasons are."""
    said = page[: page.index(BEGIN)] + page[page.index(END) :]
    return [row["name"] for row in rows if (missed(row) or 0) > 0 and f"`{row['name']}`" not in said]


def main(argv: list[str] | None = None) -> int:
    """Write the table into benchmarks/RESULTS.md, or check it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 2 when they disagree")
    parser.add_argument("--folder", type=Path, help="where the rows are (default: experiments/results)")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file with the table (default: RESULTS.md here)")
    args = parser.parse_args(argv)
    rows = speed_rows(args.folder)
    try:
        page = args.page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {args.page}: {error.strerror}") from None
    wanted = insert(page, rows)
    if not args.check:
        args.page.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        raise DataError(f"{args.page.name} is not what the rows say: run python benchmarks/speed_table.py")
    missing = unexplained(wanted, rows)
    if missing:
        words = f"{args.page.name} does not say why these rows miss their goals: {', '.join(missing)}"
        if args.check:
            raise DataError(f"{words}; write it outside the markers")
        print(words)
    count = sum((missed(row) or 0) > 0 for row in rows)
    print(f"{args.page.name}: {len(rows)} rows, {count} miss their goals")
    return 0


def _median(row: Row) -> float:
    return statistics.median(row["values"])


if __name__ == "__main__":
    sys.exit(exits(main)())
