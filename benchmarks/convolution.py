"""Convolution on CPU: what the folded form gains over XLA's own, against the matrix-product ceiling of the same minute.

Run:      python benchmarks/convolution.py [--repeats 9] [--torch-python PYTHON] [--only layers|step]
Takes:    about two minutes on two idle cores.
Prints:   a JSON line for every measurement, then two Markdown tables.

Layers: forward and backward (both gradients) of one 3x3 convolution. Step: the ConvNet of models/convnet.py at
batch 128 x 32 x 32 x 3 with Adam, and the same network in plain linen. Contenders take turns, so that a busy
machine slows all of them; medians are quoted, with the smallest and largest beside them. `one core` is the processor
time of the busiest thread: it tells one busy thread from two, also on a machine that does other work.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# (batch, rows, columns, channels in and out); the last three are those of the ConvNet.
LAYERS = (
    (64, 32, 32, 64, 64), (64, 16, 16, 128, 128), (64, 8, 8, 256, 256), (8, 56, 56, 64, 64),
    (128, 32, 32, 3, 32), (128, 16, 16, 32, 64), (128, 8, 8, 64, 128),
)  # fmt: skip

TORCH = """
import json, sys, time, torch
for B, H, W, I, O in json.loads(sys.argv[1]):
    x = torch.randn(B, I, H, W).to(memory_format=torch.channels_last).requires_grad_()
    w = (torch.randn(O, I, 3, 3) * 0.1).to(memory_format=torch.channels_last).requires_grad_()
    dy, out = torch.randn(B, O, H, W).to(memory_format=torch.channels_last), []
    for _ in range(int(sys.argv[2]) + 2):
        x.grad = w.grad = None
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1).backward(dy)
        out.append(time.perf_counter() - start)
    print(json.dumps(out[2:]))
"""


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--torch-python", help="a Python that has torch, to compare with")
    parser.add_argument("--only", choices=("layers", "step"))
    args = parser.parse_args(argv)
    tables = []
    if args.only != "step":
        tables.append(layers(args.repeats, args.torch_python))
    if args.only != "layers":
        tables.append(step(args.repeats))
    print("\n" + "\n\n".join(tables))
    return 0


def layers(repeats: int, torch_python: str | None) -> str:
    """One convolution, forward and backward; a row for each shape."""
    import jax
    import jax.numpy as jnp

    from fmjax.nn.convolution import conv_flops, convolve

    def gradients(backend: str) -> Callable:
        def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
            out, back = jax.vjp(lambda x, w: convolve(x, w, backend=backend), x, w)
            return out, back(dy)

        return jax.jit(run)

    rows = [
        "| batch x image, channels | ceiling | folded | XLA | " + "PyTorch | " * bool(torch_python) + "folded / XLA |"
    ]
    rows.append("|" + "---|" * (rows[0].count("|") - 1))
    key = jax.random.key(0)
    a = jax.random.normal(key, (1536, 1536))
    for shape in LAYERS:
        B, H, W, I, O = shape  # noqa: E741
        x, w = jax.random.normal(key, (B, H, W, I)), jax.random.normal(key, (3, 3, I, O)) * 0.1
        dy = jax.random.normal(key, (B, H, W, O))
        work = 3 * conv_flops((B, H, W, I), O)[0]
        runs = {name: (gradients(name), (x, w, dy)) for name in ("folded", "xla")}
        runs["ceiling"] = (jax.jit(jnp.matmul), (a, a))
        seconds = take_turns(runs, repeats)
        rate = {name: work / t["median"] / 1e9 for name, t in seconds.items()}
        rate["ceiling"] = 2 * 1536**3 / seconds["ceiling"]["median"] / 1e9
        if torch_python:
            args = [torch_python, "-c", TORCH, json.dumps([shape]), str(repeats)]
            times = json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
            seconds["torch"] = spread(times)
            rate["torch"] = work / seconds["torch"]["median"] / 1e9
        for name, t in seconds.items():
            report(shape=shape, name=name, gflops=round(rate[name], 1), **t)
        peer = f"{rate['torch']:.0f} | " if torch_python else ""
        rows.append(
            f"| {B} x {H}x{W}, {I} to {O} | {rate['ceiling']:.0f} | {rate['folded']:.0f} | {rate['xla']:.0f} | {peer}"
            f"{rate['folded'] / rate['xla']:.2f} |"
        )
    return "GFLOP/s, forward and backward, float32\n\n" + "\n".join(rows)


def step(repeats: int) -> str:
    """A training step of the ConvNet, plain linen against ours; and ours without the folded convolution."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    from fmjax.models.convnet import ConvNet

    class Plain(nn.Module):
        """The same network as a reader of linen's documentation writes it."""

        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            for width in (32, 64, 128):
                x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(512)(x.reshape(x.shape[0], -1)))
            return nn.Dense(10)(nn.Dropout(0.5, deterministic=not train)(x))

    optimizer = optax.adam(1e-3)
    images = jax.random.uniform(jax.random.key(0), (128, 32, 32, 3))
    labels = jnp.arange(128) % 10

    def trainer(model: nn.Module) -> tuple[Callable, list]:
        def loss(params: Any, key: jax.Array) -> jax.Array:
            logits = model.apply(params, images, train=True, rngs={"dropout": key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def update(params: Any, moments: Any, key: jax.Array) -> tuple:
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, moments = optimizer.update(grads, moments, params)
            return optax.apply_updates(params, updates), moments, value

        params = jax.jit(model.init)(jax.random.key(1), images)
        compiled, held = jax.jit(update, donate_argnums=(0, 1)), [params, optimizer.init(params)]

        def run(key: jax.Array) -> jax.Array:
            held[0], held[1], value = compiled(*held, key)
            return value

        return run, (jax.random.key(2),)

    models = {"plain linen": Plain(), "ours": ConvNet(), "ours, XLA's convolution": ConvNet(backend="xla")}
    seconds = take_turns({name: trainer(model) for name, model in models.items()}, repeats)
    work = 3 * models["ours"].flops({"image": images.shape})
    rows = [
        "| ConvNet, batch 128 | ms a step | smallest to largest | one core | plain / this |",
        "|---|---|---|---|---|",
    ]
    for name, t in seconds.items():
        report(step=name, gflops=round(work / t["median"] / 1e9, 1), **t)
        rows.append(
            f"| {name} | {1e3 * t['median']:.0f} | {1e3 * t['smallest']:.0f} to {1e3 * t['largest']:.0f} | "
            f"{1e3 * t['one core']:.0f} | {seconds['plain linen']['median'] / t['median']:.2f} |"
        )
    return "\n".join(rows)


def take_turns(runs: dict[str, tuple[Callable, tuple]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each, one call of every contender after the other."""
    import jax

    walls, busy = {name: [] for name in runs}, {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, (fn, args) in runs.items():
            before, start = thread_seconds(), time.perf_counter()
            jax.block_until_ready(fn(*args))
            wall, after = time.perf_counter() - start, thread_seconds()
            if turn > 1:  # the first compiles, the second warms up
                walls[name].append(wall)
                busy[name].append(max(after[t] - before.get(t, 0.0) for t in after))
    return {name: {**spread(walls[name]), "one core": statistics.median(busy[name])} for name in runs}


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "smallest": min(seconds), "largest": max(seconds)}


def thread_seconds() -> dict[str, float]:
    """Processor time of each thread of this process (Linux; elsewhere the whole process as one)."""
    try:
        out = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/schedstat") as file:
                out[thread] = int(file.read().split()[0]) / 1e9
        return out
    except OSError:
        return {"process": time.process_time()}


def report(**numbers: Any) -> None:
    """One JSON line; `load` is how many processes wanted a core in the last minute, ours included."""
    print(json.dumps({**numbers, "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
