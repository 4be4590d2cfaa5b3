"""Cross-entropy in chunks against all logits at once: `python benchmarks/chunked_loss.py` times forward and backward.

Writes the rows chunked_loss_seconds and chunked_loss_memory: vocabulary 50,000, length 1024, batch 8, width 256. Memory
is what XLA sets aside for temporaries. Prints a third way too, which recomputes each chunk's logits in the backward
pass: what fmjax/objectives/chunked.py would be without gradients formed on the way forward.

On a GPU, where it has not been run yet, the rows end in _gpu; give sizes that fill it, such as
`--batch=16 --length=2048 --width=1536 --chunk=4096 --precision=bfloat16` (the logits; losses stay in float32).
"""

import argparse
import time

import jax
import jax.numpy as jnp

from fmjax import results
from fmjax.core.errors import exits
from fmjax.core.types import Mean
from fmjax.objectives.chunked import score, score_chunked


def main(argv: list[str] | None = None) -> int:
    """Time each several times, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in (("vocab", 50_000), ("length", 1024), ("batch", 8), ("width", 256), ("chunk", 512)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the logits")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    flags = [
        f"--{k}={v}" for k, v in vars(args).items() if v != parser.get_default(k) and k not in ("repeats", "print")
    ]
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[0], (args.width, args.vocab)) * args.width**-0.5
    hidden = jax.random.normal(keys[1], (args.batch, args.length, args.width))
    targets = jax.random.randint(keys[2], hidden.shape[:2], 0, args.vocab)
    weights = jnp.ones(targets.shape)

    def logits(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return x.astype(args.precision) @ kernel.astype(args.precision)

    def plain(kernel: jax.Array, hidden: jax.Array) -> jax.Array:
        return Mean.of(score(logits(hidden, kernel), targets).loss, weights).sum

    def chunked(kernel: jax.Array, hidden: jax.Array) -> jax.Array:
        return score_chunked(lambda x: logits(x, kernel), hidden, targets, weights, args.chunk)[0]

    def recomputed(kernel: jax.Array, hidden: jax.Array) -> jax.Array:
        rows = (hidden.reshape(-1, args.chunk, args.width), targets.reshape(-1, args.chunk))
        losses = jax.lax.map(jax.checkpoint(lambda row: score(logits(row[0], kernel), row[1]).loss.sum()), rows)
        return losses.sum()

    seconds, memory = {}, {}
    for loss in (plain, chunked, recomputed):
        step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(kernel, hidden).compile()
        name = loss.__name__
        memory[name] = step.memory_analysis().temp_size_in_bytes / 2**20
        jax.block_until_ready(step(kernel, hidden))
        seconds[name] = [_seconds(step, kernel, hidden) for _ in range(args.repeats)]
        print(f"{name}: {sorted(seconds[name])} s, {memory[name]:.0f} MiB", flush=True)
    shared = {
        "task": f"cross-entropy and its gradients, vocabulary {args.vocab:,}, length {args.length}, batch "
        f"{args.batch}, width {args.width}, chunks of {args.chunk} tokens, {args.precision}",
        "command": " ".join(["python benchmarks/chunked_loss.py", *flags]),
    }
    if args.print:
        return 0
    place = "_gpu" * (jax.default_backend() == "gpu")
    middle = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    results.write_row(
        f"chunked_loss_seconds{place}", metric="seconds", values=seconds["chunked"], repeats=args.repeats,
        baseline={"name": "all logits at once", "value": middle["plain"]},
        note=f"medians: chunks {middle['chunked']:.3g}, all logits {middle['plain']:.3g}, chunks recomputed in the "
        f"backward pass {middle['recomputed']:.3g}", **shared,
    )  # fmt: skip
    results.write_row(
        f"chunked_loss_memory{place}", metric="MiB of temporaries", values=[memory["chunked"]], repeats=1,
        baseline={"name": "all logits at once", "value": memory["plain"]},
        note=f"as XLA plans them; recomputed in the backward pass: {memory['recomputed']:.0f} MiB", **shared,
    )  # fmt: skip
    return 0


def _seconds(step: jax.stages.Compiled, *args: jax.Array) -> float:
    began = time.perf_counter()
    jax.block_until_ready(step(*args))
    return time.perf_counter() - began


if __name__ == "__main__":
    exits(main)()
