"""Report: one or several runs as one HTML file that opens without a network.

python -m fmjax.report RUN [RUN...] [--out report.html]
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError, exits
from fmjax.report_chart import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, chart
from fmjax.report_figures import artifact, table
from fmjax.report_style import CSS, script
from fmjax.runfolder import SavedRun, best, is_about, labels, lower_is_better
from fmjax.runs import comparison, config_name
from fmjax.training.progress import amount, compact, duration

# What may run and load: what is in the page, and nothing from elsewhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
SPEED = ("step_seconds", "examples_per_second", "tokens_per_second", "mfu")
LONGEST = 20_000  # characters of a text sample


def write(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one or several run folders, and return its path.

    By default it is `report.html` in the folder of the one run, or in the working folder for several.

    Raises:
      DataError: a folder that is not there, or holds no run.
      CheckpointError: the file cannot be written.
    """
    opened = [SavedRun.open(path) for path in runs]
    if out is None:
        out = opened[0].path / "report.html" if len(opened) == 1 else "report.html"
    out = Path(out)
    beside = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page(opened), encoding="utf-8", errors="replace")
        os.replace(beside, out)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error.strerror}") from None
    return out


def page(runs: Sequence[SavedRun]) -> str:
    """The whole page."""
    names = labels(list(runs))
    pairs = list(zip(names, runs, strict=True))
    body = [_curves(pairs), _finals(pairs), _artifacts(pairs), _samples(pairs), _configs(pairs), _environment(pairs)]
    head = _header(pairs)  # last: by now every problem is known
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    sizes = {"LEFT": LEFT, "RIGHT": RIGHT, "TOP": TOP, "BOTTOM": BOTTOM, "WIDTH": WIDTH, "HEIGHT": HEIGHT}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - fmjax report</title><style>{CSS}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="soft">fmjax report, {now}</p>{head}{"".join(body)}'
        f"</main><script>{script(**sizes)}</script></body></html>\n"
    )


Named = Sequence[tuple[str, SavedRun]]


def _header(runs: Named) -> str:
    """A card a run: state, progress, time, command, overrides, what happened, what is wrong."""
    cards = []
    for i, (name, run) in enumerate(runs):
        train, start = run.kind("train"), next(iter(run.kind("start")), {})
        step = max((r.get("step", 0) for r in run.records if r.get("kind") in ("train", "eval")), default=0)
        facts = {
            "step": f"{step} of {'?' if run.steps is None else run.steps}",
            "wall time": duration(run.wall_seconds()),
        }
        times = [r["time"] for r in run.records if isinstance(r.get("time"), (int, float)) and 0 < r["time"] < 1e11]
        if times:
            began = datetime.datetime.fromtimestamp(times[0], datetime.UTC)
            facts["started"] = began.strftime("%Y-%m-%d %H:%M UTC")
        if start.get("parameters"):
            facts["parameters"] = compact(start["parameters"])
        if isinstance(start.get("first_step_seconds"), (int, float)):
            compiled = start.get("compile_seconds")
            extra = f" ({compiled:.1f} s compiling)" if isinstance(compiled, (int, float)) else ""
            facts["first step after"] = f"{start['first_step_seconds']:.1f} s{extra}"
        if train and isinstance(train[-1].get("loss"), (int, float)):
            facts["last loss"] = amount(train[-1]["loss"])
        rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
        command = run.command or (config_name(run) if run.config else "")
        if command:
            rows += f"<dt>{'command' if run.command else 'config'}</dt><dd><code>{escape(command)}</code></dd>"
        if run.overrides:
            words = "<br>".join(f"<code>{escape(f'{k} = {_value(v)}')}</code>" for k, v in run.overrides.items())
            rows += f"<dt>overrides</dt><dd>{words}</dd>"
        share = min(step / run.steps, 1.0) if run.steps else 0.0
        state = run.status()
        swatch = f'<span class="swatch c{i % COLOURS}"></span>' if len(runs) > 1 else ""
        problems = "".join(f'<p class="warn">&#9888; {escape(p)}</p>' for p in run.problems)
        cards.append(
            f'<div class="card run"><div class="head"><h3>{swatch}{escape(name)}</h3>'
            f'<span class="state {state.split()[0]}">{escape(state)}</span></div>'
            f'<div class="bar"><i style="width:{share:.1%}"></i></div><dl>{rows}</dl>{_events(run)}{problems}</div>'
        )
    return f'<div class="{"cards" if len(cards) > 1 else ""}">{"".join(cards)}</div>'


def _events(run: SavedRun) -> str:
    """What happened, saves only counted."""
    events = run.kind("event")
    saves = sum(r.get("event") == "saved" for r in events)
    told = [r for r in events if r.get("event") != "saved"]
    if not events:
        return ""
    rows = []
    for record in told[-200:]:
        rest = {k: v for k, v in record.items() if k not in ("kind", "step", "time", "event")}
        rows.append(
            [str(record.get("step", "")), str(record.get("event")), ", ".join(f"{k} {v}" for k, v in rest.items())]
        )
    words = f"{saves} save{'s' if saves != 1 else ''}" + (
        f", {len(told)} other event{'s' if len(told) != 1 else ''}: " if told else ""
    )
    words += ", ".join(dict.fromkeys(str(r.get("event")) for r in told))
    inner = table(["step", "event", ""], rows, [True]) if rows else ""
    return f"<details><summary>{escape(words)}</summary>{inner}</details>"


def _curves(runs: Named) -> str:
    train = [run.series("train") for _, run in runs]
    evals = [run.series("eval") for _, run in runs]
    out = '<h2 class="head"><span>Curves</span>'
    if not any(train) and not any(evals):
        return out + '</h2><p class="note">No step has been recorded yet, so there is nothing to draw.</p>'
    out += '<button type="button" class="toggle" id="all-log">log, all</button></h2>'
    last = max(steps[-1] for found in (*train, *evals) for steps, _ in found.values())
    names = dict.fromkeys(name for series in train for name in series)
    words = [n for n in names if n not in ("loss", "grad_norm", "rate", *SPEED)]
    sections = [
        ("Training", [n for n in ("loss", *words, "grad_norm", "rate") if n in names], train),
        ("Evaluation", [*dict.fromkeys(n for s in evals for n in s if not is_about(n, s))], evals),
        ("Speed", [n for n in SPEED if n in names], train),
    ]
    for title, shown, series in sections:
        cards = []
        for metric in shown:
            curves = _overlay(runs, series, metric)
            beside = _losses_of(runs, evals) if title == "Training" and metric == "loss" else []
            if beside:  # the runs' names alone would not say whose line is whose
                curves = [
                    dataclasses.replace(c, label=f"{c.label} train" if len(runs) > 1 else "train") for c in curves
                ]
            curves += beside
            cards.append(chart(metric, curves, upto=last))
        if cards:
            out += f'<h3 class="soft part">{title}</h3><div class="cards">{"".join(cards)}</div>'
        elif title == "Evaluation":
            out += '<h3 class="soft part">Evaluation</h3><p class="note">No evaluation has run yet.</p>'
    return out


def _overlay(runs: Named, series: Sequence[Mapping], metric: str) -> list[Curve]:
    return [
        Curve(name, *found[metric], colour=i)
        for i, ((name, _), found) in enumerate(zip(runs, series, strict=True))
        if metric in found
    ]


def _losses_of(runs: Named, evals: Sequence[Mapping]) -> list[Curve]:
    """The losses of the evaluators, to see beside the training loss."""
    return [
        Curve(f"{name} {metric}" if len(runs) > 1 else metric, *found[metric], colour=i, dashed=True)
        for i, ((name, _), found) in enumerate(zip(runs, evals, strict=True))
        for metric in found
        if metric.rsplit("/", 1)[-1] == "loss"
    ]


def _finals(runs: Named) -> str:
    """Best and last of every eval number."""
    series = [run.series("eval") for _, run in runs]
    metrics = [n for n in dict.fromkeys(n for s in series for n in s) if not any(is_about(n, s) for s in series)]
    if not metrics:
        return ""
    header = ["metric", *(f"{name}{what}" for name, _ in _prefix(runs) for what in ("best", "at step", "last"))]
    rows = []
    for metric in metrics:
        having = [run for (_, run), found in zip(runs, series, strict=True) if metric in found]
        lower = lower_is_better(metric, having[0])
        row = [f"{metric} {'↓' if lower else '↑'}"]
        for found in series:
            steps, values = found.get(metric, ([], []))
            top = best(steps, values, lower)
            row += [amount(top[1]), str(top[0])] if top else ["-", "-"]
            error = found.get(f"{metric}_se", ([], [math.nan]))[1][-1]
            shown = amount(values[-1]) if values else "-"
            row.append(shown + (f" ± {amount(error)}" if math.isfinite(error) else ""))
        rows.append(row)
    note = "↓ lower is better, ↑ higher is better, by the config or else by the name; ± is one standard error."
    numbers = [False, *[True] * 3 * len(runs)]
    inner = table(header, rows, numbers)
    return f'<h2>Evaluation numbers</h2><div class="card wide">{inner}</div><p class="note">{note}</p>'


def _prefix(runs: Named) -> list[tuple[str, SavedRun]]:
    return [(f"{name}: " if len(runs) > 1 else "", run) for name, run in runs]


def _artifacts(runs: Named) -> str:
    out = ""
    for name, run in _prefix(runs):
        for evaluator, (step, arrays) in run.artifacts().items():
            figures = "".join(f"<div>{artifact(key, value)}</div>" for key, value in arrays.items())
            out += (
                f'<div class="card wide"><h3>{escape(name)}{escape(evaluator)}, step {step}</h3>'
                f'<div class="figures">{figures}</div></div>'
            )
    return f"<h2>Artifacts</h2>{out}" if out else ""


def _samples(runs: Named) -> str:
    """The latest sample of each run, the earlier ones folded."""
    out = ""
    for name, run in _prefix(runs):
        samples = run.samples()
        for i, (step, text) in enumerate(reversed(samples)):
            shown = text if len(text) <= LONGEST else text[:LONGEST] + f"\n... ({len(text) - LONGEST} more characters)"
            body = f"<pre>{escape(shown)}</pre>"
            title = f"{escape(name)}step {step}"
            out += f"<details{' open' if i == 0 else ''}><summary>{title}</summary>{body}</details>"
    return f'<h2>Samples</h2><div class="card">{out}</div>' if out else ""


def _configs(runs: Named) -> str:
    out = "<h2>Config</h2>"
    if len(runs) > 1:
        rows, _ = comparison([run for _, run in runs])
        if len(rows) > 1:
            out += f'<div class="card wide">{table(rows[0], rows[1:])}</div>'
        else:
            out += '<p class="note">The configs of these runs are equal.</p>'
    for name, run in runs:
        text = json.dumps(run.config, indent=1, ensure_ascii=False, default=str) if run.config else "(missing)"
        title = "The resolved config" + (f" of {name}" if len(runs) > 1 else "")
        out += f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
    return out


def _environment(runs: Named) -> str:
    flat = [dict(_flatten(run.environment)) for _, run in runs]
    keys = dict.fromkeys(key for found in flat for key in found)
    if not keys:
        return '<h2>Environment</h2><p class="note">environment.json says nothing.</p>'
    rows = [[key, *(found.get(key, "-") for found in flat)] for key in keys]
    marked = [len(set(row[1:])) > 1 for row in rows]
    inner = table(["", *(name for name, _ in runs)] if len(runs) > 1 else ["", ""], rows, marked=marked)
    return f'<h2>Environment</h2><div class="card wide"><div class="scroll">{inner}</div></div>'


def _flatten(value: Any, at: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in _flatten(v, f"{at}.{k}" if at else str(k))]
    if isinstance(value, (list, tuple)):
        return [(at, " ".join(map(str, value)))]
    return [(at, _value(value))]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def main(argv: list[str] | None = None) -> int:
    """Write one HTML file about one or several run folders: curves, numbers, figures, samples, configs."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.report", description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--out", type=Path, help="default: report.html in the run folder, or here for several")
    args = parser.parse_args(argv)
    print(f"wrote {write(args.runs, args.out)}")
    return 0


if __name__ == "__main__":
    exits(main)()
