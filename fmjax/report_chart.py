"""Charts of a report: curves as inline SVG, drawn once on a linear and once on a logarithmic axis."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from html import escape

from fmjax.training.progress import compact

POINTS = 500  # of a curve at most
COLOURS = 6
HUGE = 1e300  # what is greater counts as not finite: twice as much would not be
WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 8, 34


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
      label: who it is, in the legend and under the pointer.
      x, y: its points; those that are not finite are left out.
      colour: which of the palette.
      dashed: drawn dashed (an evaluation beside a training curve).
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


def chart(title: str, curves: Sequence[Curve], x_label: str = "step", upto: float = 0.0) -> str:
    """A card with its title, the curves and, where every value is positive, a button for the logarithmic axis.

    The x axis goes to `upto` at least, and from 0 where the curves begin near it.
    """
    notes = [note for note in map(_not_finite, curves) if note]
    kept = [finite(curve) for curve in curves]
    kept = [curve for curve in kept if curve.x]
    head = f"<h3>{escape(title)}</h3>"
    tail = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    if not kept:
        return f'<div class="card chart">{head}<p class="note">no finite values</p>{tail}</div>'
    xs, ys = [v for c in kept for v in (min(c.x), max(c.x))], [v for c in kept for v in (min(c.y), max(c.y))]
    whole = [*xs, upto] if upto > max(xs) else xs
    from_zero = upto > 0 or 0 < min(xs) < 0.1 * max(whole)
    x_range, linear = _range([0.0, *whole] if from_zero else whole, 0.0), _range(ys, 0.06)
    logarithmic = _range([math.log10(y) for y in ys], 0.04) if min(ys) > 1 / HUGE else None
    layers = [_layer("linear", kept, x_range, linear, _identity, x_label)]
    if logarithmic:
        layers.append(_layer("log", kept, x_range, logarithmic, math.log10, x_label))
        head += '<button type="button" class="toggle" title="logarithmic axis">log</button>'
    thin = [downsample(c.x, c.y) for c in kept]
    data = {
        "x": x_range,
        "y": {"linear": linear, "log": logarithmic},
        "curves": [
            {"label": c.label, "colour": c.colour % COLOURS, "x": list(x), "y": list(y)}
            for c, (x, y) in zip(kept, thin, strict=True)
        ],
    }
    legend = ""
    if len(kept) > 1:
        items = "".join(
            f'<li class="c{c.colour % COLOURS}"><svg width="22" height="8"><path d="M1 4H21" {_style(c)}/></svg>'
            f"{escape(c.label)}</li>"
            for c in kept
        )
        legend = f'<ul class="legend">{items}</ul>'
    return (
        f'<div class="card chart" data-chart="{escape(json.dumps(data), quote=True)}"><div class="head">{head}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">{"".join(layers)}'
        f'<g class="hover"></g></svg>{legend}{tail}</div>'
    )


def finite(curve: Curve) -> Curve:
    """The curve without points that are not finite."""
    pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if abs(x) < HUGE and abs(y) < HUGE]
    return dataclasses.replace(curve, x=[x for x, _ in pairs], y=[y for _, y in pairs])


def downsample(x: Sequence[float], y: Sequence[float], limit: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `limit` points: the first, the last, and the least and greatest of every stretch between.

    So a spike of one step stays on the picture.
    """
    if len(x) <= limit:
        return list(x), list(y)
    stretches = (limit - 2) // 2
    kept = {0, len(x) - 1}
    for i in range(stretches):
        stretch = range(i * len(x) // stretches, (i + 1) * len(x) // stretches)
        kept |= {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)}
    at = sorted(kept)
    return [x[i] for i in at], [y[i] for i in at]


def smooth(y: Sequence[float]) -> list[float] | None:
    """A moving average, centred and narrower at the steep beginning; None for a curve without noise."""
    n = len(y)
    travelled = sum(abs(b - a) for a, b in itertools.pairwise(y))
    if n < 40 or travelled < 4 * (max(y) - min(y)):
        return None
    sums = [0.0]
    for value in y:
        sums.append(sums[-1] + value)
    out = []
    for i in range(n):
        half = min(i, max(n // 60, 2))
        end = min(i + half + 1, n)
        out.append((sums[end] - sums[i - half]) / (end - i + half))
    return out


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high, about `count` of them."""
    raw = (high - low) / max(count, 1)
    if not (raw > 0 and math.isfinite(raw)):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Values to mark between 10**low and 10**high: powers of ten, with 2 and 5 between where there are few."""
    first, last = math.floor(low), math.ceil(high)
    stride = max(1, (last - first) // 6)
    found = [10.0**k for k in range(first, min(last, 308) + 1, stride)]
    if last - first <= 3:
        found = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    found = [v for v in found if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    return found if len(found) >= 3 else [v for v in ticks(10**low, 10**high) if v > 0]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Ticks in a few characters, with the digits that tell neighbours apart: 0.25, 10.05k, 3e-4."""
    if len(values) < 2:
        return [_short(v) for v in values]
    top, step = max(map(abs, values)), min(b - a for a, b in itertools.pairwise(values))
    if max(values) > 50 * step or top < 1e-2 or top >= 1e15:  # decades, or far from 1
        labels = [_short(v) for v in values]
        if len(set(labels)) == len(labels):
            return labels
    unit, letter = next(
        ((u, c) for u, c in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if top >= 10 * u), (1.0, "")
    )
    decimals = min(max(0, -math.floor(math.log10(step / unit) + 1e-9)), 9)
    return [f"{v / unit + 0.0:.{decimals}f}{letter if v else ''}" for v in values]


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e4:
        return f"{value:.4g}"
    if 1e4 <= abs(value) < 1e15:
        return compact(value)
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _layer(
    name: str,
    curves: Sequence[Curve],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    scale: Callable[[float], float],
    x_label: str,
) -> str:
    """One of the two pictures: grid, labels and lines."""
    px, py = _to_pixels(x_range, y_range, scale)
    rows = log_ticks(*y_range) if name == "log" else ticks(*y_range)
    heights = [py(v) for v in rows]
    columns = ticks(*x_range)
    out = [
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
        for label, y in zip(tick_labels(rows), heights, strict=True)
    ]
    out += [
        f'<text class="tick" x="{px(v):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{label}</text>'
        for v, label in zip(columns, tick_labels(columns), strict=True)
    ]
    out.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    for curve in curves:
        out.append(f'<g class="c{curve.colour % COLOURS}">{_lines(curve, px, py)}</g>')
    return f'<g class="{name}">{"".join(out)}</g>'


def _lines(curve: Curve, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    style, out = _style(curve), ""
    average = None if curve.dashed else smooth(curve.y)
    raw = downsample(curve.x, curve.y)
    if average is not None:
        out += f'<path d="{_path(*raw, px, py)}" {style} class="faint"/>'
        stride = -(-len(average) // (POINTS // 2))
        at = sorted({*range(0, len(average), stride), len(average) - 1})
        return out + f'<path d="{_path([curve.x[i] for i in at], [average[i] for i in at], px, py)}" {style}/>'
    out += f'<path d="{_path(*raw, px, py)}" {style}/>'
    if len(raw[0]) <= 40:
        points = zip(*raw, strict=True)
        out += "".join(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.6" class="dot"/>' for x, y in points)
    return out


def _path(x: Sequence[float], y: Sequence[float], px: Callable, py: Callable) -> str:
    return "M" + "L".join(f"{px(a):.1f} {py(b):.1f}" for a, b in zip(x, y, strict=True))


def _style(curve: Curve) -> str:
    dash = "5 3" if curve.dashed else ("", "9 3", "2 3")[curve.colour // COLOURS % 3]
    return 'fill="none" stroke="currentColor" stroke-width="1.7"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _to_pixels(
    x_range: tuple[float, float], y_range: tuple[float, float], scale: Callable[[float], float]
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    (x0, x1), (y0, y1) = x_range, y_range
    return (
        lambda x: LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
        lambda y: HEIGHT - BOTTOM - (scale(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
    )


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    """From the least to the greatest, wider by a share of itself; never empty."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.1 * abs(low) or 1.0
    else:
        pad = margin * (high - low)
    return low - pad, high + pad


def _not_finite(curve: Curve) -> str:
    bad = [x for x, y in zip(curve.x, curve.y, strict=True) if not abs(y) < HUGE]
    if not bad:
        return ""
    what = "value is" if len(bad) == 1 else "values are"
    return f"{curve.label}: {len(bad)} {what} not finite, the first at step {bad[0]:.0f}"


def _identity(value: float) -> float:
    return value
