"""Attention on a GPU, every backend: `python benchmarks/gpu/attention.py [LENGTH_SIZE ...]`, forward and backward.

Causal, bfloat16, 16,384 tokens of width 2,048 in heads of a size, with and without segment ids (rows packed with
documents), beside PyTorch's scaled_dot_product_attention in the same run, in turns. Before a backend is timed, its
output and gradients are compared with the reference in float32 on plain, packed and padded rows; one that is further
off than 2 % of the largest number, or that does not run, is told of and not timed. The rows attention_*_gpu hold the
fastest backend of each case. Needs the extra `oracle` for the peer. That has not been run on a GPU yet.

`--verify` asks another question: whether cuDNN's kernel heeds a mask, a window or a bias when it is given one by
jax.nn.dot_product_attention, which fmjax does not do before this says so; it prints what may be allowed and exits.
`--smoke` runs all of it on a CPU at a small size, with XLA's own kernel in the place of cuDNN's, and writes nothing.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
import turns

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra
from fmjax.nn import masks
from fmjax.nn.attention import BACKENDS, attend

TOKENS, WIDTH, CALLS = 16384, 2048, 10
TOLERANCE = {"bfloat16": 2e-2, "float32": 1e-5}  # of the largest number of what is compared
KINDS = ("plain", "packed", "padded")
ABILITIES = ("mask", "window", "bias")
Given = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


class Shape(NamedTuple):
    """Rows of `length` places, `heads` of `size` numbers."""

    rows: int
    length: int
    heads: int
    size: int

    @property
    def flops(self) -> float:
        """Products of a causal forward and backward pass, of what is seen."""
        return 7 * self.rows * self.heads * self.length**2 * self.size


CASES = {f"{length}_{size}": (length, size) for length in (512, 2048, 8192) for size in (64, 128)}


def inputs(shape: Shape, kind: str, dtype: str, seed: int = 0) -> Given:
    """(queries, keys, values, what the output's gradient is, mask of packed or padded rows)."""
    rng = np.random.default_rng(seed)
    whole = (shape.rows, shape.length, shape.heads, shape.size)
    arrays = [jnp.asarray(rng.standard_normal(whole, np.float32), dtype) for _ in range(4)]
    return *arrays, None if kind == "plain" else masks.same_document(jnp.asarray(segments(shape, kind, rng)))


def segments(shape: Shape, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Segment ids (rows, length) of about four documents a row; a padded row ends with a quarter of padding."""
    ends = rng.integers(1, shape.length, (shape.rows, 3))
    ids = 1 + (np.arange(shape.length)[None, :, None] >= ends[:, None]).sum(-1)
    if kind == "padded":
        ids[:, shape.length - shape.length // 4 :] = 0
    return ids.astype(np.int32)


def both_ways(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """(output, gradients of queries, keys, values) of `function(q, k, v, mask)`, compiled."""

    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array, wanted: jax.Array, mask: Any) -> tuple[jax.Array, ...]:
        out, back = jax.vjp(lambda *qkv: function(*qkv, mask), q, k, v)
        return out, *back(wanted)

    return run


def with_backend(backend: str) -> Callable[..., tuple[jax.Array, ...]]:
    """Causal attention of fmjax, by a backend."""
    return both_ways(lambda q, k, v, mask: attend(q, k, v, mask, causal=True, backend=backend))


def error(found: tuple[jax.Array, ...], wanted: tuple[jax.Array, ...]) -> float:
    """The largest difference of output or a gradient, as a part of its largest number; infinity beside a NaN."""
    parts = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max() / np.abs(np.asarray(b)).max()
        for a, b in zip(found, wanted, strict=True)
    ]
    return float(max(parts)) if np.isfinite(parts).all() else float("inf")


def reference(given: Given, **more: Any) -> tuple[jax.Array, ...]:
    """Output and gradients in float32, products in full."""
    q, k, v, wanted, mask = given
    run = both_ways(lambda q, k, v, mask: attend(q, k, v, mask, causal=True, backend="einsum", **more))
    with jax.default_matmul_precision("highest"):
        return run(*(x.astype(jnp.float32) for x in (q, k, v, wanted)), mask)


def check(backend: str, shape: Shape, kind: str, dtype: str) -> float:
    """How far a backend is from the reference.

    Raises:
      ConfigError: it cannot do this, or is too far off.
    """
    given = inputs(shape._replace(rows=2, heads=2), kind, dtype, seed=1)
    try:
        off = error(with_backend(backend)(*given), reference(given))
    except RuntimeError as problem:
        raise ConfigError(f"{backend} does not run: {str(problem).splitlines()[0]}") from None
    if not off <= TOLERANCE[dtype]:
        raise ConfigError(f"{backend} is {off:.1%} off the reference in float32 on {kind} rows: not timed")
    return off


def usable(shape: Shape, kind: str, dtype: str) -> dict[str, float]:
    """{backend: its error} of those that are right here; the others are told of."""
    found = {}
    for backend, able in BACKENDS.items():
        if jax.default_backend() in able.platforms:
            try:
                found[backend] = check(backend, shape, kind, dtype)
            except ConfigError as problem:
                print(f"  {kind}: {problem}", flush=True)
    return found


def repeated(run: Callable[..., Any], given: Given) -> Callable[[], None]:
    """What runs it some times and waits once."""

    def many() -> None:
        for _ in range(CALLS):
            out = run(*given)
        jax.block_until_ready(out)

    return many


def torch_way(given: Given) -> Callable[[], None]:
    """PyTorch's fused attention on the same numbers, causal, with a mask where rows are packed."""
    torch = extra("torch", "oracle")
    on_gpu = jax.default_backend() == "gpu"
    q, k, v, wanted = (
        torch.from_numpy(np.array(x, np.float32).swapaxes(1, 2)).to("cuda" if on_gpu else "cpu", torch.bfloat16)
        for x in given[:4]
    )
    for x in (q, k, v):
        x.requires_grad_()
    mask = None
    if given[4] is not None:
        length = q.shape[2]
        mask = torch.from_numpy(np.array(given[4])).to(q.device)
        mask = mask & torch.ones(length, length, dtype=torch.bool, device=q.device).tril()

    def many() -> None:
        for _ in range(CALLS):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            torch.autograd.grad(out, (q, k, v), wanted)
        if on_gpu:
            torch.cuda.synchronize()

    return many


def measure(name: str, shape: Shape, dtype: str, repeats: int, peer: bool, write: bool) -> None:
    """One length and size of heads, with and without segment ids."""
    padded = usable(shape, "padded", dtype)
    for kind in ("plain", "packed"):
        errors = usable(shape, kind, dtype)
        given = inputs(shape, kind, dtype)
        ways: dict[str, Callable[[], Any]] = {}
        for backend in errors:
            if kind == "packed" and backend not in padded:
                continue
            ways[f"fmjax, {backend}"] = repeated(with_backend(backend), given)
            try:
                ways[f"fmjax, {backend}"]()
            except RuntimeError as problem:  # such as too little memory for all scores
                print(f"  {kind}: {backend} does not run: {str(problem).splitlines()[0]}", flush=True)
                del ways[f"fmjax, {backend}"]
        if not ways:
            raise ConfigError("no backend is right here")
        if peer:
            ways["PyTorch"] = torch_way(given)
        tell(name, kind, shape, turns.take(ways, repeats).per(CALLS), errors, dtype, peer and write)


def tell(
    name: str, kind: str, shape: Shape, found: turns.Turns, errors: dict[str, float], dtype: str, write: bool
) -> None:
    """Print what was measured; a row with the fastest backend."""
    ours = [way for way in found.seconds if way.startswith(turns.OURS)]
    best = min(ours, key=found.medians.__getitem__)
    rate = shape.flops / found.medians[best] / 1e12
    apart = ", ".join(f"{backend} {100 * off:.2g} %" for backend, off in errors.items())
    note = (
        f"{turns.words({way: 1e3 * s for way, s in found.medians.items()}, 'ms')}; the best makes {rate:.3g} TFLOP/s "
        f"of what is seen; off the reference in float32 by {apart} of the largest number"
    )
    print(f"{name}, {kind}: {note}", flush=True)
    if not write:
        return
    results.write_row(
        f"attention_{name}_{kind}_gpu",
        task=f"causal attention forward and backward, {shape.rows} x {shape.length}, {shape.heads} heads of "
        f"{shape.size}, {dtype}, {kind} rows, the fastest backend: {best}",
        metric="seconds",
        command=f"python benchmarks/gpu/attention.py {name}",
        values=found.seconds[best],
        repeats=len(found.seconds[best]),
        baseline=turns.baseline(found, "torch"),
        note=note,
    )


def heeds(ability: str, implementation: str, shape: Shape, dtype: str) -> tuple[bool, str]:
    """(whether a kernel of jax.nn.dot_product_attention may be given this, why)."""
    q, k, v, wanted, mask = inputs(shape, "padded", dtype)
    window = max(2, shape.length // 8) if ability == "window" else None
    bias = jax.random.normal(jax.random.key(0), (1, shape.heads, shape.length, shape.length), jnp.float32)
    bias, mask = bias if ability == "bias" else None, mask if ability == "mask" else None

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array, mask: Any) -> jax.Array:
        out = jax.nn.dot_product_attention(
            q, k, v, None if bias is None else bias.astype(q.dtype), mask, is_causal=True,
            local_window_size=None if window is None else (window - 1, 0), implementation=implementation,
        )  # fmt: skip
        if mask is None:
            return out
        seen = masks.both(mask, masks.behind(shape.length, shape.length, 0))
        return jnp.where(seen.any(-1)[:, 0, :, None, None], out, 0)  # as nn/attention.py does

    given = (q, k, v, wanted, mask)
    right = reference(given, bias=bias, window=window)
    matters = error(reference((q, k, v, wanted, None)), right)
    try:
        off = error(both_ways(kernel)(*given), right)
    except (RuntimeError, ValueError) as problem:
        return False, f"does not run: {str(problem).splitlines()[0]}"
    fits = off <= TOLERANCE[dtype] < matters
    return fits, f"{100 * off:.2g} % off the reference; without it, the reference itself is {100 * matters:.2g} % off"


def verify(implementation: str, shapes: list[Shape], dtype: str) -> int:
    """Say of every ability whether the kernel has it; 1 if it lacks one."""
    allowed = []
    for ability in ABILITIES:
        found = [(shape, *heeds(ability, implementation, shape, dtype)) for shape in shapes]
        for shape, fits, why in found:
            words = f"length {shape.length}, heads of {shape.size}"
            print(f"{implementation}, {ability}, {words}: {'heeded' if fits else 'NOT heeded'}: {why}", flush=True)
        allowed += [ability] * all(fits for _, fits, _ in found)
    print(f"BACKENDS['{implementation}'] of fmjax/nn/attention.py may have: {', '.join(allowed) or 'none of these'}")
    return int(len(allowed) < len(ABILITIES))


def main(argv: list[str] | None = None) -> int:
    """Time the backends, or verify one."""
    more = {
        "--verify": {"action": "store_true", "help": "say whether cuDNN heeds masks, windows and biases"},
        "--smoke": {"action": "store_true", "help": "small and on any machine; writes no rows"},
        "--alone": {"action": "store_true", "help": "without PyTorch, and without rows"},
    }
    args = turns.arguments(argv, main.__doc__, CASES, more=more)
    names = args.names or list(CASES)
    if args.smoke:
        names, shapes, dtype = ["smoke"], [Shape(2, 32, 2, 8)], "float32"
    else:
        shapes = [Shape(TOKENS // n, n, WIDTH // size, size) for n, size in (CASES[name] for name in names)]
        dtype = "bfloat16"
    if args.verify:
        return verify("xla" if args.smoke else "cudnn", [shape._replace(rows=2, heads=2) for shape in shapes], dtype)
    if not args.smoke and jax.default_backend() != "gpu":
        raise ConfigError(f"jax computes on {jax.default_backend()}; this is for a GPU, and --smoke for any machine")
    given = dict(zip(names, shapes, strict=True))
    return turns.each(
        names,
        lambda name: measure(name, given[name], dtype, args.repeats, not args.alone, not args.print and not args.smoke),
    )


if __name__ == "__main__":
    import os

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
    sys.exit(exits(main)())
