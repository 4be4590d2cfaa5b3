"""What a study found, from the lines of its runs: a table in Markdown and CSV, and a figure."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmjax import sweep_results
from fmjax.core.config import did_you_mean
from fmjax.core.errors import DataError
from fmjax.evals.intervals import Interval, bootstrap, holm, paired_bootstrap, paired_t
from fmjax.provenance import sentence
from fmjax.runfolder import lower_is_better
from fmjax.study import Study, group

Line = Mapping[str, Any]
COLUMNS = (
    "change", "runs", "mean", "spread", "low", "high", "difference", "difference low", "difference high",
    "difference / noise", "p (Holm)", "batches", "seconds", "failed", "missing", "compared with",
)  # fmt: skip


@dataclasses.dataclass
class Row:
    """A change beside the base.

    Attributes:
      values: {seed: number} of the runs that finished.
      failed: {seed: the error's line}.
      missing: seeds that did not run.
      mean: and its bootstrap interval over seeds.
      spread: standard deviation over seeds, NaN for one.
      difference: mean of this minus the base over the seeds that both have, with its paired bootstrap interval; None
        for the base, and where no seed is shared.
      noise: the difference in standard deviations over seeds, those of both pooled.
      p: of the paired t-test, corrected by Holm for the number of changes.
      batches: "same" where every shared seed saw the base's batches, else "other"; "" where it is not known.
      seconds: of a run, mean.
      base: the change it is compared with; "" for those that others are compared with.
      also: {metric: (mean, spread)} of what the study names besides.
    """

    change: str
    values: dict[int, float]
    failed: dict[int, str]
    missing: list[int]
    mean: Interval | None = None
    spread: float = math.nan
    difference: Interval | None = None
    noise: float = math.nan
    p: float = math.nan
    batches: str = ""
    seconds: float = math.nan
    base: str = ""
    also: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def rows(study: Study, lines: Mapping[tuple[str, int], Line]) -> list[Row]:
    """A row a change, the base first; of changes that `choose` picks from, the chosen of each group.

    Raises:
      DataError: the base has no run that finished, or runs have no such number.
    """
    names = list(study.changes) if study.choose is None else _chosen(study, lines)
    base = next(n for n in names if study.name(n) == study.base)
    found = [_row(study, name, lines) for name in (base, *(n for n in names if n != base))]
    by_name = {study.name(row.change): row for row in found}
    bases = {study.base, *study.against.values()}
    compared = [row for row in found if study.name(row.change) not in bases]
    for name in bases:
        if not by_name[name].values:
            raise DataError(f"the base {name!r} has no run that finished: there is nothing to compare with")
    for row in compared:
        other = by_name[study.against.get(study.name(row.change), study.base)]
        row.base = other.change
        _compare(row, other, lines)
    for row, p in zip(compared, holm([row.p for row in compared]), strict=True):
        row.p = float(p)
    return found


def _row(study: Study, name: str, lines: Mapping[tuple[str, int], Line]) -> Row:
    own = {seed: lines[name, seed] for seed in study.seeds if (name, seed) in lines}
    done = {seed: line for seed, line in own.items() if line["status"] == "finished"}
    failed = {seed: str(line.get("error")) for seed, line in own.items() if line["status"] != "finished"}
    row = Row(name, _numbers(study.metric, done), failed, [seed for seed in study.seeds if seed not in own])
    if row.values:
        row.mean = bootstrap(list(row.values.values()))
        row.spread = _spread(list(row.values.values()))[1]
        row.seconds = statistics.fmean(line.get("seconds", math.nan) for line in done.values())
        row.also = {metric: _spread(list(_numbers(metric, done).values())) for metric in study.also}
    return row


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def _numbers(metric: str, done: Mapping[int, Line]) -> dict[int, float]:
    for line in done.values():
        if line["numbers"].get(metric) is None:
            known = did_you_mean(metric, line["numbers"])
            raise DataError(f"the run {line['change']!r}, seed {line['seed']} has no number {metric!r}; {known}")
    return {seed: line["numbers"][metric] for seed, line in done.items()}


def _chosen(study: Study, lines: Mapping[tuple[str, int], Line]) -> list[str]:
    """Of every group the change with the best mean of `choose` over its seeds; one with a failed run is passed over
    unless all of them have one."""
    sign = -1 if lower_is_better(study.choose) else 1
    best: dict[str, tuple[tuple[int, float], str]] = {}
    for name in study.changes:
        own = [lines[name, seed] for seed in study.seeds if (name, seed) in lines]
        done = {line["seed"]: line for line in own if line["status"] == "finished"}
        numbers = _numbers(study.choose, done).values()
        score = (len(done), sign * statistics.fmean(numbers)) if done else (0, -math.inf)
        if group(name) not in best or score > best[group(name)][0]:
            best[group(name)] = score, name
    return [name for _, name in best.values()]


def _compare(row: Row, base: Row, lines: Mapping[tuple[str, int], Line]) -> None:
    """Fill in what stands beside the base."""
    shared = [seed for seed in row.values if seed in base.values]
    if not shared:
        return
    a, b = [row.values[s] for s in shared], [base.values[s] for s in shared]
    row.difference = paired_bootstrap(a, b)
    spreads = [s for s in (row.spread, base.spread) if not math.isnan(s)]
    pooled = math.sqrt(statistics.fmean(s * s for s in spreads)) if spreads else math.nan
    row.noise = row.difference.value / pooled if pooled else math.nan
    row.p = paired_t(a, b)
    pairs = [(lines[row.change, s].get("batches"), lines[base.change, s].get("batches")) for s in shared]
    if all(x and y for x, y in pairs):
        row.batches = "same" if all(x == y for x, y in pairs) else "other"


def failures(study: Study, lines: Mapping[tuple[str, int], Line]) -> list[str]:
    """Every run that failed or did not run, those of changes that were not chosen included."""
    own = [(name, seed) for name in study.changes for seed in study.seeds]
    said = [
        f"{name}, seed {seed} failed: {lines[name, seed].get('error')}"
        for name, seed in own
        if (name, seed) in lines and lines[name, seed]["status"] != "finished"
    ]
    missing = [f"{name}, seed {seed}" for name, seed in own if (name, seed) not in lines]
    return said + ([f"{len(missing)} of {len(own)} runs are missing, the first {missing[0]}"] if missing else [])


def markdown(study: Study, found: Sequence[Row], failures: Sequence[str] = (), code: str = "") -> str:
    """The table, what failed, and how to read it."""
    better = "lower" if study.lower_is_better else "higher"
    out = [f"# {study.title}\n"] if study.title else []
    out.append(f"`{study.metric}` ({better} is better), base `{found[0].change}`, seeds {_listed(study.seeds)}.\n")
    names = ("change", "runs", "mean ± spread", "95% interval", "difference from the base", "/ seed noise", "p (Holm)")
    columns = (*names, "batches", *(f"`{metric}`" for metric in study.also))
    out += [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in found:
        counted = (("failed", row.failed), ("missing", row.missing))
        mean, apart = row.mean, row.difference
        cells = [
            row.change,
            ", ".join([str(len(row.values)), *(f"{len(bad)} {word}" for word, bad in counted if bad)]),
            _pm(mean.value, row.spread) if mean else "-",
            f"[{mean.low:.4g}, {mean.high:.4g}]" if mean and len(row.values) > 1 else "-",
            _apart(apart) + (f" from `{row.base}`" if row.base != found[0].change else "") if apart else "-",
            f"{row.noise:+.1f}" if not math.isnan(row.noise) else "-",
            f"{row.p:.2g}" if not math.isnan(row.p) else "-",
            row.batches or "-",
            *(_pm(*row.also[metric]) if metric in row.also else "-" for metric in study.also),
        ]
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    out += ["", *(f"- {failure}" for failure in failures)]
    if study.choose:
        out.append(f"The best of each group by the mean of `{study.choose}`.")
    out.append(
        "Spread: standard deviation over seeds. Intervals: bootstrap over seeds (2,000 resamples), for differences "
        "over pairs of one seed; with fewer than about ten seeds they are too narrow. p: paired t-test, corrected for "
        f"{sum(bool(row.base) for row in found)} comparisons. Batches: whether a seed gave both runs the same ones."
    )
    if code:
        out.append(code)
    return "\n".join(out) + "\n"


def table_csv(found: Sequence[Row]) -> str:
    """The same numbers, unrounded, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    also = list(dict.fromkeys(metric for row in found for metric in row.also))
    writer.writerow([*COLUMNS, *(f"{metric} {word}" for metric in also for word in ("mean", "spread"))])
    for row in found:
        mean, difference = row.mean or (None,) * 3, row.difference or (None,) * 3
        numbers = [mean[0], row.spread, *mean[1:], *difference, row.noise, row.p]
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.2f}"
        writer.writerow([
            row.change, len(row.values), *map(_plain, numbers), row.batches, seconds, len(row.failed),
            len(row.missing), row.base, *(_plain(x) for metric in also for x in row.also.get(metric, (None, None))),
        ])  # fmt: skip
    return text.getvalue()


def _plain(x: float | None) -> str:
    return "" if x is None or math.isnan(x) else repr(float(x))


def write(study: Study, results: Path, folder: Path, mix: bool = False) -> str:
    """Write table.md, table.csv and, where matplotlib is installed, figure.png; returns the table.

    Raises:
      ConfigError: results of several versions of the code, unless `mix`.
      DataError: no results.
    """
    lines = sweep_results.read(results)
    names = set(study.changes)
    own = {key: line for key, line in lines.items() if key[0] in names and key[1] in study.seeds}
    if not own:
        raise DataError(f"{results} has no run of this study: run it first")
    if not mix:
        sweep_results.one_code(own.values())
    found = rows(study, own)
    text = markdown(study, found, failures(study, own), sentence(line["code"] for line in own.values()))
    sweep_results.write_whole(folder / "table.md", text)
    sweep_results.write_whole(folder / "table.csv", table_csv(found))
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return text + "\nNo figure: it needs pip install 'fmjax[plot]'."
    from fmjax.study_figure import draw

    draw(study, found, folder / "figure.png")
    return text


def _pm(mean: float, spread: float) -> str:
    if math.isnan(spread) or spread == 0:
        return f"{mean:.4g}" + (" ± 0" if spread == 0 else "")
    digits = min(max(1 - math.floor(math.log10(spread)), 0), 9)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _apart(apart: Interval) -> str:
    return f"{apart.value:+.3g} [{apart.low:+.3g}, {apart.high:+.3g}]"


def _listed(seeds: Sequence[int]) -> str:
    seeds = list(seeds)
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
