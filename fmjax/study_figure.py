"""The figure of a study: every run a dot, every change its mean and interval, the base a band behind them."""

import math
from collections.abc import Sequence
from pathlib import Path

from fmjax.study import Study
from fmjax.study_report import Row

BASE, OTHER, FAILED = "#4a4f55", "#0072b2", "#d55e00"


def draw(study: Study, rows: Sequence[Row], path: Path) -> None:
    """Write the figure as a PNG; a change of which runs failed says so beside its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6.4, 0.9 + 0.34 * len(rows)), layout="constrained")
    base = rows[0].mean
    panel.axvspan(base.low, base.high, color=BASE, alpha=0.12, lw=0)
    panel.axvline(base.value, color=BASE, lw=0.8, ls=":")
    for i, row in enumerate(rows):
        color = BASE if i == 0 else OTHER
        panel.plot(list(row.values.values()), [i] * len(row.values), "o", ms=3.5, mfc="none", mec=color, alpha=0.7)
        if row.mean:
            panel.plot([row.mean.low, row.mean.high], [i, i], color=color, lw=1.6)
            panel.plot(row.mean.value, i, "|", color=color, ms=11, mew=2)
    panel.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    for tick, row in zip(panel.get_yticklabels(), rows, strict=True):
        tick.set_color(FAILED if row.failed or row.missing else "black")
    panel.set_ylim(len(rows) - 0.5, -0.5)
    direction = "←" if study.lower_is_better else "→"
    panel.set_xlabel(f"{study.metric}   ({direction} better)", fontsize=8)
    panel.set_title(study.title, fontsize=9, loc="left", wrap=True)
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", alpha=0.3, lw=0.5)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _label(row: Row) -> str:
    notes = [f"{len(bad)} {word}" for word, bad in (("failed", row.failed), ("missing", row.missing)) if bad]
    effect = "" if math.isnan(row.noise) else f"  ({row.noise:+.1f} noise)"
    return row.change + effect + (f"  [{', '.join(notes)}]" if notes else "")
