"""The floor of a step: what it must compute and what it must move, over what the device can do."""

import ceilings
import jax
import jax.numpy as jnp
import pytest
import step_cases
import step_ours
from ceilings import Device


def test_a_step_reads_and_writes_its_weights_and_moments_and_reads_its_batch():
    case = step_cases.CASES["mlp"]
    (batch,) = step_cases.batches(case, 1)
    program = step_ours.program(case, batch)
    weights = 784 * 128 + 128 + 128 * 10 + 10
    least = 2 * 3 * 4 * weights + sum(x.nbytes for x in batch.values())
    assert least <= ceilings.moved_bytes(program) <= least + 100  # and a few counters
    device = Device({"float32": 1e9}, 1e6)
    floor = ceilings.floor_of(5e9, program, device, "float32")
    assert floor.products == 5
    assert floor.memory == pytest.approx(least / 1e6, rel=1e-3)
    assert floor.seconds == floor.products
    assert ceilings.floor_of(0, program, device, "float32").seconds == floor.memory


def test_keys_are_no_bytes_and_all_else_is():
    tree = {"a": jnp.zeros((3, 2), jnp.bfloat16), "b": jax.ShapeDtypeStruct((5,), jnp.float32), "c": jax.random.key(0)}
    assert ceilings.held_bytes(tree) == 12 + 20


def test_the_device_is_measured():
    device = ceilings.measured(64, 2**12, seconds=0.01)
    assert min(*device.rates.values(), device.bandwidth) > 0
    assert device.rates.keys() == {"bfloat16", "float32"}
