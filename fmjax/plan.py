"""Plan: `python -m fmjax.plan --config=FILE` says what a run will cost before anything is compiled."""

import argparse
import dataclasses
from typing import Any

from fmjax.core.errors import exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, count, print."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.plan", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a config file, with ':variant' where it has several")
    parser.add_argument("--memory_gb", type=float, help="memory of one device (default: what it tells)")
    args, overrides = parser.parse_known_args(argv)

    from fmjax.start import start

    start()
    from fmjax.assembly import assemble, prepare

    config, _ = prepare(args.config, overrides)
    parts = assemble(config)
    plan = make_plan(parts, int(args.memory_gb * 2**30) if args.memory_gb else None)
    print(text(plan))
    return 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run costs; bytes are of the fullest device.

    Attributes:
      parameters: {net: how many}.
      flops: of a training step, all devices; None when a model cannot tell.
      memory: {part: bytes}.
      available: bytes of one device, None when unknown.
      rate: measured matrix-product FLOP/s of one device in the run's dtype.
      seconds: of a step, at that rate.
      largest: [(address, shape, bytes)] of the largest weights.
      split: {address: axes} of the weights that are split.
      adapted: what moves, in words, where config.adapt says it.
    """

    steps: int
    devices: int
    parameters: dict[str, int]
    flops: float | None
    memory: dict[str, int]
    available: int | None
    rate: float
    seconds: float | None
    largest: list[tuple[str, tuple[int, ...], int]]
    split: dict[str, str]
    adapted: str = ""


def make_plan(parts: Any, available: int | None = None) -> Plan:
    """Count parameters, FLOPs and memory from shapes alone, and measure one matrix product."""
    import jax

    from fmjax import adaptation
    from fmjax.assembly import flops_per_step
    from fmjax.core.trees import count, flatten
    from fmjax.sharding.devices import memory_bytes
    from fmjax.training.program import describe

    program, config = parts.program, parts.config
    state = program.abstract
    rows = sum(v.nbytes for k, v in program.example.items() if k != "text")
    memory = {
        "weights": _held(state.params) + _held(state.frozen),
        "gradients": _held(state.params),
        "optimizer": _held(state.opt_state),
        "averages": _held(state.ema),
        "batch statistics and carry": _held(state.mutable) + _held(state.carry),
        "batches (two in flight)": 2 * rows // jax.device_count(),
        "activations (at most)": residual_bytes(program) // jax.device_count(),
    }
    if getattr(parts.data, "resident", False):
        row = sum(v.nbytes for k, v in program.example.items() if k != "text") // parts.data.batch_size
        memory["examples on the device"] = row * parts.data.examples
    flops, rate = flops_per_step(program), matmul_rate(config.dtype)
    weights = flatten(state.params)
    largest = sorted(((k, v.shape, v.size * v.dtype.itemsize) for k, v in weights.items()), key=lambda x: -x[2])
    return Plan(
        steps=config.steps,
        devices=jax.device_count(),
        parameters={
            net: count([state.params.get(net), state.frozen.get(net)]) for net in {**state.params, **state.frozen}
        },
        adapted=adaptation.line(adaptation.summary(program)) if parts.adapter else "",
        flops=flops,
        memory=memory,
        available=available or memory_bytes() or _host_memory(),
        rate=rate,
        seconds=flops / rate / jax.device_count() if flops else None,
        largest=largest[:5],
        split=describe(jax.tree.map(lambda x: x.sharding, state.params)),
    )


def _held(tree: Any) -> int:
    """Bytes of a tree on one device."""
    import jax
    import numpy as np

    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else 8
        total += int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * size
    return total


def residual_bytes(program: Any) -> int:
    """Bytes that the backward pass of one microbatch keeps, weights left out, before the compiler saves any."""
    import jax

    from fmjax.training.state import bind

    program = program.stages()[-1][1]  # images only grow
    state, n = program.abstract, program.accumulation.steps
    shapes = {
        k: jax.ShapeDtypeStruct((v.shape[0] // n, *v.shape[1:]), v.dtype) for k, v in program.device_example.items()
    }

    def kept(state: Any, batch: Any) -> list:
        player = program.objective.players[0]
        nets = bind(program.modules, program.merge, state)
        batch, carry = program.objective.prepare(nets, batch, state.carry, state.step, state.rng, True)

        def lost(own: dict) -> jax.Array:
            now = state.replace(params={**state.params, **own})
            nets = bind(program.modules, program.merge, now, state.rng, True)
            return program.objective.loss(player.name, nets, batch, carry, state.rng)[0].sum

        return jax.tree.leaves(jax.vjp(lost, {n: state.params[n] for n in player.nets})[1])

    weights = {(x.shape, str(x.dtype)) for x in jax.tree.leaves((state.params, state.frozen))}
    leaves = jax.eval_shape(kept, state, shapes)
    return sum(x.size * x.dtype.itemsize for x in leaves if (x.shape, str(x.dtype)) not in weights)


def matmul_rate(dtype: str, size: int = 1024, seconds: float = 0.3) -> float:
    """Measured FLOP/s of square matrix products on one device: the best of several."""
    import time

    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(x, x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _host_memory() -> int | None:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def advice(plan: Plan) -> str:
    """Which knob to turn when it does not fit."""
    total = sum(plan.memory.values())
    if plan.available is None:
        return "the device does not tell its memory: give --memory_gb=N to see whether it fits"
    if total <= 0.9 * plan.available:
        return f"fits: {total / plan.available:.1%} of {_bytes(plan.available)} a device"
    heaviest = max(plan.memory, key=plan.memory.__getitem__)
    knobs = {
        "activations (at most)": "--config.accumulation.steps=N, --config.model.remat=full or --config.dtype=bfloat16",
        "optimizer": "split it: --config.mesh.fsdp=N --config.sharding=fsdp, or a lighter optimizer (lion, adafactor)",
        "weights": "split them: --config.mesh.fsdp=N --config.sharding=fsdp (or tensor)",
        "gradients": "split them: --config.mesh.fsdp=N --config.sharding=fsdp",
    }
    knob = knobs.get(heaviest, "lower --config.data.batch_size")
    return f"does NOT fit: {_bytes(total)} of {_bytes(plan.available)} a device; most is {heaviest}: {knob}"


def text(plan: Plan) -> str:
    """The plan as a page."""
    lines = [f"parameters   {sum(plan.parameters.values()):,}"]
    if len(plan.parameters) > 1:
        lines += [f"  {net:<12} {n:,}" for net, n in plan.parameters.items()]
    lines += [f"adapted      {plan.adapted}"] if plan.adapted else []
    lines += [f"  {name}  {shape}  {_bytes(size)}" for name, shape, size in plan.largest]
    lines.append(f"memory       {_bytes(sum(plan.memory.values()))} a device, {plan.devices} device(s)")
    lines += [f"  {part:<28} {_bytes(size)}" for part, size in plan.memory.items() if size]
    lines.append(f"             {advice(plan)}")
    lines.append(f"matmul rate  {plan.rate / 1e9:.1f} GFLOP/s a device, measured now")
    if plan.flops is None:
        why = "only a part of the weights moves" if plan.adapted else "the model has no flops(shapes)"
        lines.append(f"FLOPs        unknown: {why}")
    else:
        lines.append(f"FLOPs        {plan.flops / 1e9:.3f} G a step (forward and backward)")
        whole = f"{_time(plan.seconds * plan.steps)} for {plan.steps} steps"
        lines.append(f"time         at least {_time(plan.seconds)} a step, {whole}")
    if plan.split:
        lines.append(f"split        {len(plan.split)} weights over the mesh:")
        lines += [f"  {name}  {spec}" for name, spec in list(plan.split.items())[:8]]
    return "\n".join(lines)


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return (
        f"{seconds:.3g} s"
        if seconds < 120
        else f"{seconds / 60:.3g} min"
        if seconds < 7200
        else f"{seconds / 3600:.3g} h"
    )


if __name__ == "__main__":
    exits(main)()
