"""The coordinate check: `python benchmarks/coordinate_check.py` moves transformers of many widths a few steps.

Under the maximal-update parametrisation what blocks and head give moves as far at every width; under the usual one it
moves further the wider the net is. Writes the row coordinate_check and experiments/coordinate_check/slopes.png.
"""

import argparse
from pathlib import Path

import numpy as np

from fmjax import results
from fmjax.core.errors import exits, extra

BASE = 32
FIGURE = Path("experiments/coordinate_check/slopes.png")
TITLES = {"mup": "maximal-update", "standard": "standard"}


def main(argv: list[str] | None = None) -> int:
    """Measure every width and seed under both parametrisations, write the row and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-2)
    args = parser.parse_args(argv)
    extra("matplotlib", "plot")  # missing, it is missed before the work

    from fmjax.start import start

    start()
    from fmjax.optim.coordinates import slopes

    sizes = {name: [_sizes(name, args, seed) for seed in range(args.seeds)] for name in TITLES}
    found = {name: [slopes(of_seed) for of_seed in seeds] for name, seeds in sizes.items()}
    worst = [max(map(abs, s.values())) for s in found["mup"]]
    usual = float(np.mean([min(s.values()) for s in found["standard"]]))
    for name in TITLES:
        print(name, {at: round(float(np.mean([s[at] for s in found[name]])), 3) for at in found[name][0]})
    _draw(sizes, args)
    results.write_row(
        "coordinate_check",
        task=f"transformers of width {args.widths[0]} to {args.widths[-1]}, {args.steps} steps of Adam",
        metric="steepest slope of log movement over log width (0 is flat), any branch or the logits",
        command="python benchmarks/coordinate_check.py",
        values=worst,
        seeds=range(args.seeds),
        baseline={"name": "standard parametrisation, its flattest slope", "value": usual},
        target="<= 0.15",
        note=f"two blocks, four heads, rate {args.rate:g}, base width {BASE}; {FIGURE}",
    )
    return 0


def _sizes(name: str, args: argparse.Namespace, seed: int) -> dict[int, dict[str, np.ndarray]]:
    """{width: what moved, and how far}."""
    from fmjax.models.transformer import Decoder
    from fmjax.optim import mup, optimizers
    from fmjax.optim.coordinates import moved

    tokens, out = np.random.default_rng(seed).integers(0, 64, (8, 33)), {}
    for width in args.widths:
        scales = mup.multipliers(width, BASE, width // 4, BASE // 4) if name == "mup" else {}
        model = Decoder(vocab=64, width=width, depth=2, heads=4, **scales)
        rates = mup.rates(width, BASE) if name == "mup" else ()
        out[width] = moved(model, optimizers.adam(args.rate, rates=rates), tokens, args.steps, seed)
    return out


def _draw(sizes: dict[str, list], args: argparse.Namespace) -> None:
    """One panel a parametrisation, one line a place: movement after the last step over width, mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for panel, (name, seeds) in zip(panels, sizes.items(), strict=True):
        for at in seeds[0][args.widths[0]]:
            mean = [np.mean([s[w][at][-1] for s in seeds]) for w in args.widths]
            panel.plot(args.widths, mean, marker="o", ms=3, lw=1.2, label=at.replace("_", " "))
        panel.set(xscale="log", yscale="log", xlabel="width", title=f"{TITLES[name]} parametrisation")
        panel.set_xticks(args.widths, [str(w) for w in args.widths], minor=False)
        panel.minorticks_off()
        panel.grid(alpha=0.3, lw=0.5)
    panels[0].set_ylabel(f"rms change after {args.steps} steps")
    panels[0].legend(fontsize=7, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=90)


if __name__ == "__main__":
    exits(main)()
