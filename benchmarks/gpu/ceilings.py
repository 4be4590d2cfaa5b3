"""An honest floor of a step's seconds: `python benchmarks/gpu/ceilings.py [NAME ...]`, on the device that jax has.

First the device: how fast its square matrix products are (in bfloat16, and in float32 as JAX does them by default,
which is TF32 on a GPU), and how many bytes a second a copy moves. Then, for cases of benchmarks/steps.py, the compiled
step: the FLOPs of its matrix products over that rate, and the bytes that it must move at least (the state is read and
written, the batch is read) over that bandwidth. The larger is the floor: no step is faster than it. The bytes that
XLA's cost analysis says the step accesses give a second bound, of the program as it was compiled, which a better one
could beat; its FLOPs count the body of a loop once. The gap is the measured step over the floor. Prints; writes no
rows. Not run on a GPU yet; `--smoke` takes the cases' small sizes.
"""

import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

sys.path.append(str(Path(__file__).resolve().parents[1]))
import step_cases
import step_ours
import turns

from fmjax.core.errors import exits
from fmjax.core.trees import nbytes
from fmjax.plan import matmul_rate
from fmjax.sharding.devices import peak_flops

DEFAULT = ("llama_05b_2048",)


class Device(NamedTuple):
    """FLOP/s of matrix products by precision, and bytes a second of a copy (read and written)."""

    rates: dict[str, float]
    bandwidth: float


class Floor(NamedTuple):
    """Seconds that a step needs at least: for its products, and for its state and batch."""

    products: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self)


def copy_rate(size: int, seconds: float = 1.0) -> float:
    """Measured bytes a second, read and written, of adding one to `size` numbers: the best of several."""
    x = jnp.zeros(size, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def once() -> None:
        nonlocal x
        x = jax.block_until_ready(add(x))

    once()  # compiles
    return 2 * x.nbytes / turns.quickest(once, seconds)


def measured(product: int, copied: int, seconds: float = 1.0) -> Device:
    """The device's ceilings."""
    rates = {dtype: matmul_rate(dtype, product, seconds) for dtype in ("bfloat16", "float32")}
    return Device(rates, copy_rate(copied, seconds))


def held_bytes(tree: Any) -> int:
    """Bytes of all arrays, or of their shapes."""
    return nbytes([x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)])


def floor_of(flops: float, program: Any, device: Device, precision: str) -> Floor:
    """What a step cannot be faster than here."""
    return Floor(flops / device.rates[precision], moved_bytes(program) / device.bandwidth)


def moved_bytes(program: Any) -> int:
    """What any step must move: its state is read and written, its batch is read."""
    return 2 * held_bytes(program.abstract) + held_bytes(program.device_example)


def accessed(step: Any) -> dict[str, float]:
    """FLOPs and bytes of a compiled step, as XLA counts them; what it does not tell is left out."""
    found = step.executable.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    return {name: float(found[name]) for name in ("flops", "bytes accessed") if name in found}


def seconds_of(step: Any, program: Any, batch: Any, repeats: int) -> list[float]:
    """Seconds of each step, after two that are not told."""
    state, on_device = program.begin(), program.put(batch)

    def one() -> None:
        nonlocal state
        state, told = step(state, on_device)
        jax.block_until_ready(told)

    return [turns.timed(one)[0] for _ in range(2 + repeats)][2:]


def measure(name: str, device: Device, precision: str, smoke: bool, repeats: int) -> None:
    """The floor of a case, and how far its step is from it."""
    case = step_cases.changed(name, smoke)
    (batch,) = step_cases.batches(case, 1)
    program = step_ours.program(case, batch, dtype=precision if precision != "float32" else None)
    step = program.compile()
    half = step_ours.flops(case, program, causal=True)
    floor = floor_of(half, program, device, precision)
    taken = statistics.median(seconds_of(step, program, batch, repeats))
    print(
        f"{name}, {precision}: {half / 1e12:.4g} TFLOP of products (causal) need {1e3 * floor.products:.4g} ms, "
        f"{moved_bytes(program) / 2**30:.4g} GiB of state and batch {1e3 * floor.memory:.4g} ms; "
        f"the step takes {1e3 * taken:.4g} ms, {taken / floor.seconds:.2f} times the floor"
    )
    if "bytes accessed" in (counted := accessed(step)):
        moved = counted["bytes accessed"]
        print(
            f"{name}: as compiled it accesses {moved / 2**30:.4g} GiB, {1e3 * moved / device.bandwidth:.4g} ms at the "
            f"bandwidth of a copy; what is fetched twice from a cache is counted twice",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Measure the ceilings, then the cases."""
    more = {
        "--precision": {"choices": ("float32", "bfloat16"), "default": "bfloat16"},
        "--smoke": {"action": "store_true", "help": "small sizes, on any machine"},
    }
    args = turns.arguments(argv, main.__doc__, step_cases.CASES, 5, "steps", ", ".join(DEFAULT), more)
    large = jax.default_backend() != "cpu" and not args.smoke
    device = measured(*((8192, 2**28) if large else (512, 2**22)), seconds=1.0 if large else 0.2)
    for precision, rate in device.rates.items():
        peak = peak_flops(precision)
        told = f", {rate / peak:.1%} of the data sheet's {peak / 1e12:,.0f}" if peak else ""
        print(f"square matrix products, {precision}: {rate / 1e12:.4g} TFLOP/s{told}")
    print(f"copy: {device.bandwidth / 1e9:,.4g} GB/s read and written", flush=True)
    return turns.each(
        args.names or DEFAULT, lambda name: measure(name, device, args.precision, args.smoke, args.repeats)
    )


if __name__ == "__main__":
    sys.exit(exits(main)())
