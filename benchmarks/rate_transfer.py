"""Does the best rate stay when the net gets wider? `python benchmarks/rate_transfer.py` trains all widths at all rates.

Small byte-level GPTs on the novels ($FMJAX_DATA/text), under the maximal-update parametrisation and the usual one. What
counts is the regret: how much worse the widest net ends at the rate that is best for the narrowest than at its own.
Writes the row rate_transfer and experiments/rate_transfer/losses.png.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

from fmjax import results
from fmjax.core.errors import exits, extra

LENGTH, DEPTH, HEAD, BASE = 64, 2, 32, 128
FIGURE = Path("experiments/rate_transfer/losses.png")
TITLES = {"mup": "maximal-update", "standard": "standard"}


def main(argv: list[str] | None = None) -> int:
    """Train, find the best rates, write the row and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3 * 2**i for i in range(5)])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=16, help="of a batch")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args(argv)
    extra("matplotlib", "plot")  # missing, it is missed before the work

    from fmjax.start import start

    start()
    text, losses = _text(), {}
    for seed, name, width in itertools.product(range(args.seeds), TITLES, args.widths):
        same = losses.get((seed, "mup", width)) if width == BASE else None  # there the two are one
        losses[seed, name, width] = found = _losses(text, name, width, args, seed) if same is None else same
        said = ", ".join(f"{rate:.0e}: {loss:.3f}" for rate, loss in zip(args.rates, found))
        print(f"{name} width {width} seed {seed}: {said}", flush=True)

    def regret(seed: int, name: str) -> float:
        narrow, wide = (losses[seed, name, width] for width in (args.widths[0], args.widths[-1]))
        return float(wide[np.argmin(narrow)] - wide.min())

    _draw(losses, args)
    results.write_row(
        "rate_transfer",
        task=f"byte-level GPT of width {args.widths[-1]} at the best rate of width {args.widths[0]}",
        metric="nats a byte lost against its own best rate",
        command="python benchmarks/rate_transfer.py",
        values=[regret(seed, "mup") for seed in range(args.seeds)],
        seeds=range(args.seeds),
        baseline={
            "name": "standard parametrisation",
            "value": float(np.mean([regret(seed, "standard") for seed in range(args.seeds)])),
        },
        note=f"{DEPTH} blocks, base width {BASE}, {args.steps} steps of {args.rows * LENGTH} bytes, {len(args.rates)} "
        f"rates from {args.rates[0]:g} to {args.rates[-1]:g}; training loss of the last tenth; {FIGURE}",
    )
    return 0


def _text(size: int = 8 << 20) -> np.ndarray:
    """The first bytes of the training novels: each is seen at most about once."""
    from fmjax.data.corpora import TextFiles

    pieces, total = [], 0
    for book in TextFiles("$FMJAX_DATA/text/novels_train.jsonl.xz"):
        pieces.append(book.encode())
        total += len(pieces[-1])
        if total > size:
            break
    return np.frombuffer(b"".join(pieces)[:size], np.uint8)


def _losses(text: np.ndarray, name: str, width: int, args: argparse.Namespace, seed: int) -> np.ndarray:
    """(rates,) the mean training loss of the last tenth of the steps."""
    import jax
    import jax.numpy as jnp
    import optax

    from fmjax.models.transformer import Decoder
    from fmjax.optim import mup, optimizers, schedules

    scales = mup.multipliers(width, BASE) if name == "mup" else {}
    rates = mup.rates(width, BASE) if name == "mup" else ()
    model = Decoder(vocab=256, width=width, depth=DEPTH, heads=width // HEAD, **scales)
    starts = np.random.default_rng(seed).integers(0, len(text) - LENGTH - 1, (args.steps, args.rows))
    batches = text[starts[..., None] + np.arange(LENGTH + 1)]
    shape = schedules.warmup_cosine(peak=1.0, steps=args.steps, warmup=args.steps // 10)

    def train(rate: jax.Array) -> jax.Array:
        optimizer = optimizers.adam(lambda step: rate * shape(step), b2=0.95, rates=rates)

        def lost(params: dict, tokens: jax.Array) -> jax.Array:
            logits = model.apply({"params": params}, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        def step(carry: tuple, tokens: jax.Array) -> tuple[tuple, jax.Array]:
            params, state = carry
            loss, grads = jax.value_and_grad(lost)(params, tokens.astype(jnp.int32))
            norm = optax.tree.norm(grads)
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), grads)
            updates, state = optimizer.update({"model": grads}, state, {"model": params}, value=loss)
            return (optax.apply_updates(params, updates["model"]), state), loss

        params = model.init(jax.random.key(seed), batches[0, :, :-1].astype(np.int32))["params"]
        _, seen = jax.lax.scan(step, (params, optimizer.init({"model": params})), jnp.asarray(batches))
        return seen[-(args.steps // 10) :].mean()

    # One compilation a width: the rate is an input.
    return np.asarray(jax.jit(lambda all_rates: jax.lax.map(train, all_rates))(jnp.asarray(args.rates)))


def _draw(losses: dict, args: argparse.Namespace) -> None:
    """One panel a parametrisation, one line a width: loss over rate, mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for panel, name in zip(panels, TITLES, strict=True):
        for i, width in enumerate(args.widths):
            mean = np.mean([losses[seed, name, width] for seed in range(args.seeds)], axis=0)
            color = pyplot.colormaps["viridis"](i / max(len(args.widths) - 1, 1) * 0.9)
            panel.plot(args.rates, mean, color=color, marker="o", ms=3, lw=1.2, label=f"width {width}")
            panel.plot(args.rates[np.argmin(mean)], mean.min(), color=color, marker="o", ms=7)
        panel.set(xscale="log", xlabel="rate", title=f"{TITLES[name]} parametrisation")
        panel.grid(alpha=0.3, lw=0.5)
    panels[0].set_ylabel("loss (nats a byte)")
    panels[0].legend(fontsize=7, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=90)


if __name__ == "__main__":
    exits(main)()
