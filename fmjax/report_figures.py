"""Figures and tables of a report: confusion matrix, reliability diagram, tables; everything given is escaped."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fmjax.report_chart import Curve, chart
from fmjax.training.progress import amount, compact

DRAWN, COUNTED = 120, 25  # classes: a confusion matrix is drawn up to the one, with its counts up to the other
ROWS = 1000  # of a table at most
PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/]+={0,2}")  # base64 of a file that begins as PNG files do


def artifact(name: str, value: Any) -> str:
    """One of an evaluator's artifacts, drawn by what it holds; what is not known is shown as text."""
    head = f"<h4>{escape(name)}</h4>"
    if is_matrix(value):
        return head + confusion(value)
    if isinstance(value, dict) and set(value) == {"classes", "counts"} and is_matrix(value["counts"]):
        names = value["classes"]
        if isinstance(names, list) and len(names) == len(value["counts"]):
            return head + confusion(value["counts"], [str(name) for name in names])
    if is_table(value):
        columns = list(value[0])
        if {"group", "caption", "picture"} <= set(columns):
            return head + gallery(value)
        if {"confidence", "accuracy"} <= set(columns):
            return head + reliability(value)
        if name.endswith("curve") and len(columns) == 2 and all(is_number(v) for row in value for v in row.values()):
            x, y = columns
            points = sorted((row[x], row[y]) for row in value)
            return chart(f"{name}: {y}", [Curve(y, [p[0] for p in points], [p[1] for p in points])], x_label=x)
        return head + records(value)
    if isinstance(value, (int, float, str, bool)) or value is None:
        return head + f"<p>{escape(cell(value))}</p>"
    text = json.dumps(value, default=str)
    what = f"{len(value)} entries" if isinstance(value, (list, dict)) else type(value).__name__
    shown = text if len(text) <= 2000 else text[:2000] + " ..."
    return head + f"<details><summary>{what}</summary><pre>{escape(shown)}</pre></details>"


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_matrix(value: Any) -> bool:
    """Whether it can be a confusion matrix: square, of counts."""
    if not isinstance(value, list) or len(value) < 2:
        return False
    rows = all(isinstance(row, list) and len(row) == len(value) for row in value)
    return rows and all(is_number(v) and v >= 0 for row in value for v in row)


def is_table(value: Any) -> bool:
    """Whether it is a list of rows with the same columns of scalars."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or not value[0]:
        return False
    columns = list(value[0])
    scalars = (int, float, str, bool, type(None))
    return all(
        isinstance(r, dict) and list(r) == columns and all(isinstance(v, scalars) for v in r.values()) for r in value
    )


def confusion(matrix: Sequence[Sequence[float]], names: Sequence[str] = ()) -> str:
    """A heat map of a confusion matrix, each row shaded by its shares, and the most frequent mistakes."""
    n, total = len(matrix), sum(map(sum, matrix))
    right = sum(matrix[i][i] for i in range(n))
    share = f"{right / total:.2%}" if total else "none"
    summary = f'<p class="note">{_count(total)} examples, {share} on the diagonal; shade: share of the row</p>'
    wrong = sorted((-matrix[i][j], i, j) for i in range(n) for j in range(n) if i != j and matrix[i][j])
    names = names or list(range(n))
    pairs = [
        {"true": names[i], "predicted": names[j], "count": -minus, "of its class": f"{-minus / sum(matrix[i]):.1%}"}
        for minus, i, j in wrong[:10]
    ]
    mistakes = records(pairs) if pairs else '<p class="note">no mistakes</p>'
    mistakes = f"<div><h4>most frequent mistakes</h4>{mistakes}</div>"
    if n > DRAWN:
        return f'{summary}<p class="note">{n} classes are too many to draw</p>{mistakes}'
    size = max(min(34.0, 520 / n), 5.0)
    shorts = [str(name) if len(str(name)) <= 14 else str(name)[:13] + "…" for name in names]
    longest = max(map(len, shorts))
    upright = longest * 6.5 <= size or longest <= 3  # column names that fit side by side
    left = max(46, 32 + 6.5 * longest)
    top = 46 if upright else left
    right, bottom = left + n * size, top + n * size
    out = []
    every = max(1, math.ceil(22 / size))
    for i, row in enumerate(matrix):
        whole = sum(row) or 1
        y = top + i * size
        for j, count in enumerate(row):
            part, x = count / whole, left + j * size
            pair = escape(f"true {names[i]}, predicted {names[j]}")
            tip = f"<title>{pair}: {_count(count)} ({part:.1%})</title>"
            out.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}" '
                f'fill-opacity="{part:.3f}">{tip}</rect>'
            )
            if n <= COUNTED and count:
                shown = f' class="count{" on" if part > 0.55 else ""}" text-anchor="middle" pointer-events="none"'
                small = f' font-size="{min(11, size / 2.6):.1f}" style="font-size:{min(11, size / 2.6):.1f}px"'
                out.append(
                    f'<text x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}"{shown}{small}>{_count(count)}</text>'
                )
        if i % every == 0:
            at, name = i * size + size / 2, escape(shorts[i])
            out.append(f'<text class="tick" x="{left - 6}" y="{top + at + 4:.1f}" text-anchor="end">{name}</text>')
            x, y = left + at, top - 6
            turn = '"middle"' if upright else f'"start" transform="rotate(-90 {x:.1f} {y:.1f}) translate(0 4)"'
            out.append(f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor={turn}>{name}</text>')
    middle, centre = left + n * size / 2, top + n * size / 2
    out.append(f'<text class="label" x="{middle:.1f}" y="16" text-anchor="middle">predicted class</text>')
    turned = f'transform="rotate(-90 14 {centre:.1f})"'
    out.append(f'<text class="label" x="14" y="{centre:.1f}" text-anchor="middle" {turned}>true class</text>')
    box = f'viewBox="0 0 {right + 4:.0f} {bottom + 4:.0f}" width="{right + 4:.0f}" role="img"'
    return (
        f'{summary}<div class="figures"><svg {box} aria-label="confusion matrix">{"".join(out)}</svg>{mistakes}</div>'
    )


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy over confidence by bin: bars on the diagonal are calibrated, below it overconfident."""
    rows = [b for b in bins if is_number(b["confidence"]) and is_number(b["accuracy"])]
    weights = [float(b.get("weight", 0) or 0) for b in rows]
    size, left, top = 240, 48, 10
    bottom = top + size

    def px(v: float) -> float:
        return left + min(max(v, 0.0), 1.0) * size

    def py(v: float) -> float:
        return bottom - min(max(v, 0.0), 1.0) * size

    out = []
    for v in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<path class="grid" d="M{left} {py(v):.1f}H{left + size}M{px(v):.1f} {top}V{bottom}"/>')
        out.append(f'<text class="tick" x="{left - 6}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
        out.append(f'<text class="tick" x="{px(v):.1f}" y="{bottom + 15}" text-anchor="middle">{v:g}</text>')
    for row, weight in zip(rows, weights, strict=True):
        low = row["low"] if is_number(row.get("low")) else row["confidence"] - 0.02
        high = row["high"] if is_number(row.get("high")) else row["confidence"] + 0.02
        x0, x1, y = px(low), px(high), py(row["accuracy"])
        x1 = max(x1, x0 + 2)
        tip = f"confidence {row['confidence']:.3f}, accuracy {row['accuracy']:.3f}, {_count(weight)} examples"
        box = f'x="{x0 + 0.5:.1f}" y="{y:.1f}" width="{x1 - x0 - 1:.1f}" height="{max(bottom - y, 1):.1f}"'
        out.append(f'<rect class="c0" fill="currentColor" fill-opacity=".55" {box}><title>{tip}</title></rect>')
        out.append(f'<circle class="c1" fill="currentColor" cx="{px(row["confidence"]):.1f}" cy="{y:.1f}" r="3"/>')
    out.append(f'<path d="M{left} {bottom}L{left + size} {top}" class="axis" stroke-dasharray="4 3"/>')
    label = f'<text class="label" text-anchor="middle" x="{left + size / 2}" y="{bottom + 32}">confidence</text>'
    side = f'x="12" y="{top + size / 2}" transform="rotate(-90 12 {top + size / 2})"'
    label += f'<text class="label" text-anchor="middle" {side}>accuracy</text>'
    box = f'viewBox="0 0 {left + size + 12} {bottom + 40}" width="{left + size + 12}" role="img"'
    note = '<p class="note">bars: accuracy by bin; dots: mean confidence; dashed: perfectly calibrated</p>'
    return f'{note}<svg {box} aria-label="reliability diagram">{"".join(out)}{label}</svg>'


def gallery(rows: Sequence[Mapping[str, Any]]) -> str:
    """Pictures with captions, those of one group together; what is no PNG is left out."""
    out, group = [], None
    for row in rows[:ROWS]:
        if row["group"] != group:
            out += ["</div>"] * (group is not None)
            group = row["group"]
            out.append((f'<p class="note">{escape(str(group))}</p>' if group else "") + '<div class="gallery">')
        caption, data = escape(str(row["caption"])), str(row["picture"])
        if PNG.fullmatch(data):
            out.append(f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">')
            out.append(f"<figcaption>{caption}</figcaption></figure>")
        else:
            out.append(f"<figure><figcaption>{caption}: no picture</figcaption></figure>")
    note = f'<p class="note">the first {ROWS} of {len(rows)} pictures</p>' if len(rows) > ROWS else ""
    return "".join(out) + "</div>" + note


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """A list of rows as a table."""
    columns = list(rows[0])
    exact = {c: all(not isinstance(v, float) or v.is_integer() for v in (row[c] for row in rows)) for c in columns}
    body = [[cell(row[c]) if exact[c] else _measured(row[c]) for c in columns] for row in rows[:ROWS]]
    right = [all(isinstance(row[c], (int, float)) or row[c] is None for row in rows) for c in columns]
    note = f'<p class="note">the first {ROWS} of {len(rows)} rows</p>' if len(rows) > ROWS else ""
    return f'<div class="scroll">{table(columns, body, right)}</div>{note}'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = (), marked: Sequence[bool] = ()
) -> str:
    """Cells of text as a table; `right` says which columns hold numbers, `marked` which rows stand out."""
    right, marked = [*right, *[False] * len(header)], [*marked, *[False] * len(rows)]

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if number else ''}>{escape(c)}</{tag}>" for c, number in zip(cells, right, strict=False)
        )

    body = "".join(
        f"<tr{' class=differs' if mark else ''}>{line(row, 'td')}</tr>" for row, mark in zip(rows, marked, strict=False)
    )
    return f"<table><thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def cell(value: Any) -> str:
    """A value for a cell: numbers in at most five digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e12 else f"{value:.5g}"
    return str(value)


def _measured(value: Any) -> str:
    """A cell of a column of measurements, all with the same digits."""
    return amount(value) if isinstance(value, float) else cell(value)


def _count(value: float) -> str:
    """A count that fits its cell; a weighted one keeps two digits."""
    if abs(value) >= 1e5:
        return compact(value)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
