"""What a search found: the best trial, a table of all of them, and which parameters mattered."""

import csv
import io
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path

from fmjax import sweep_results
from fmjax.core.errors import ConfigError, DataError, UserError
from fmjax.provenance import sentence
from fmjax.search_results import Found, count, found
from fmjax.search_store import STORE, Store
from fmjax.study import Study

ENOUGH = 10  # finished trials from which importances are shown


def importances(study: Study, workdir: Path) -> dict[str, float]:
    """{key: its share of what makes the best tenth of the trials differ from all}, by PED-ANOVA, the largest first.

    Raises:
      UserError: Optuna is not installed, or there is no store.
    """
    if not (workdir / STORE).is_file():
        raise DataError(f"there is no {workdir / STORE}")
    store = Store(workdir, study.space, study.search, study.minimizes)
    try:
        importance = store.optuna.importance
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of Optuna call it experimental
            return importance.get_param_importances(store.study, evaluator=importance.PedAnovaImportanceEvaluator())
    finally:
        store.close()


def markdown(study: Study, trials: list[Found], mattered: Mapping[str, float] | str, code: str) -> str:
    """The report; `mattered` is the importances, or why there are none."""
    better = "lower" if study.minimizes else "higher"
    counts = [f"{n} {word}" for word, n in count(trials).items() if n]
    how = study.search
    pruning = f", pruned by {how.prune}" if how.prune else ""
    out = [f"# {study.title}\n"] if study.title else []
    out.append(
        f"`{study.objective}` ({better} is better), {len(trials)} trials: {', '.join(counts)}. Drawn by {how.sampler}, "
        f"seed {how.seed}{pruning}; seeds of the runs {', '.join(map(str, study.seeds))}.\n"
    )
    best = trials[0]
    if best.status == "finished":
        other = f", `{study.metric}` {best.metric:.5g}" if study.metric != study.objective else ""
        out.append(f"Best: {best.name} with {best.value:.5g}{other}:\n\n    {shlex.join(best.flags)}\n")
    numbers = [study.objective] + [study.metric] * (study.metric != study.objective)
    out += [f"| trial | ended | {' | '.join(numbers)} | {' | '.join(study.space)} | seconds |"]
    out.append("| --- " * (3 + len(numbers) + len(study.space)) + "|")
    for trial in trials:
        values = [trial.value] + [trial.metric] * (len(numbers) - 1)
        said = ["-" if value is None else f"{value:.5g}" for value in values]
        drawn = [_short(value) for value in trial.drawn.values()]
        cells = [trial.name, trial.status, *said, *drawn, f"{trial.seconds:.1f}"]
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    out += ["", *(f"- {trial.name} failed: {trial.error}" for trial in trials if trial.status == "failed")]
    if isinstance(mattered, str):
        out.append(mattered)
    else:
        out += ["| parameter | importance |", "| --- | --- |"]
        out += [f"| {key} | {share:.2f} |" for key, share in mattered.items()]
        out.append(
            f"\nImportance: PED-ANOVA over the {count(trials)['finished']} trials that finished, shares of 1; "
            "a parameter whose range was chosen narrow looks unimportant."
        )
    out.append(
        f"The best of many trials flatters `{study.objective}`: the more trials, the more. Compare by another split, "
        "with seeds that were not searched with."
    )
    out.append(code)
    return "\n".join(out) + "\n"


def _short(text: str) -> str:
    try:
        return f"{float(text):.4g}" if "." in text or "e" in text else text
    except ValueError:
        return text.rpartition(":")[2]


def table_csv(study: Study, trials: list[Found]) -> str:
    """The same numbers, unrounded, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "ended", "value", "metric", *study.space, "seconds", "error"])
    for trial in trials:
        numbers = ["" if value is None else repr(value) for value in (trial.value, trial.metric)]
        seconds = f"{trial.seconds:.2f}"
        writer.writerow([trial.name, trial.status, *numbers, *trial.drawn.values(), seconds, trial.error or ""])
    return text.getvalue()


def write(study: Study, workdir: Path, results: Path | None = None, mix: bool = False) -> str:
    """Write table.md and table.csv beside the results; returns the table.

    Raises:
      ConfigError: no space in the study, results of another space, or of several versions of the code unless `mix`.
      DataError: no results.
    """
    if not study.space:
        raise ConfigError("the study has no space to search: python -m fmjax.sweep --report reports changes")
    results = results or workdir / "results.jsonl"
    lines = sweep_results.read(results)
    if not lines:
        raise DataError(f"{results} has no trial of this search: run it first")
    for (name, _), line in lines.items():
        if missing := [key for key in study.space if key not in line.get("overrides", {})]:
            raise ConfigError(f"{results}: {name} did not draw {missing[0]!r}: it is of another study")
    if not mix:
        sweep_results.one_code(lines.values())
    trials = found(study, lines)
    finished = count(trials)["finished"]
    mattered: Mapping[str, float] | str
    if len(study.space) < 2 or finished < ENOUGH:
        mattered = f"No importances: they want two parameters and {ENOUGH} trials that finished, here are {finished}."
    else:
        try:
            mattered = importances(study, workdir)
        except UserError as error:
            mattered = f"No importances: {error}."
    text = markdown(study, trials, mattered, sentence(line["code"] for line in lines.values()))
    sweep_results.write_whole(results.parent / "table.md", text)
    sweep_results.write_whole(results.parent / "table.csv", table_csv(study, trials))
    return text
