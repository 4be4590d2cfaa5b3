"""The mesh: sizes multiply to the devices, and what does not fit is said in one line."""

import jax
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.sharding.devices import PEAKS, memory_bytes, peak_flops
from fmjax.sharding.mesh import AXES, make_mesh, put_rows, replicated, row_sharding, row_shards

ONE = jax.devices()[:1]


def test_every_axis_is_there_and_one_fills_up():
    mesh = make_mesh({"data": -1}, ONE)
    assert mesh.axis_names == AXES
    assert set(mesh.shape.values()) == {1}
    assert row_shards(mesh) == 1
    assert row_sharding(mesh).spec == jax.sharding.PartitionSpec(("data", "fsdp"))
    assert replicated(mesh).is_fully_replicated
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_batch_on_the_device_is_what_it_was_whatever_becomes_of_the_arrays_it_came_from():
    room = np.zeros(4096 + 64, np.uint8)
    aligned = room[-room.ctypes.data % 64 :][:4096].view(np.float32).reshape(32, 32)  # which jax could use in place
    batch = {"x": aligned, "label": np.arange(32, dtype=np.int32)}
    there = put_rows(make_mesh({"data": 1}, ONE), batch)
    aligned += 1
    np.testing.assert_array_equal(there["x"], aligned - 1)
    np.testing.assert_array_equal(there["label"], batch["label"])
    assert {x.sharding.spec for x in there.values()} == {row_sharding(make_mesh({"data": 1}, ONE)).spec}


@pytest.mark.parametrize(("shape", "said"), [
    ({"date": 1}, "there is no axis 'date'; did you mean 'data'?"),
    ({"data": 2}, "data=2 does not make 1 devices; one axis may be -1"),
    ({"data": -1, "fsdp": 2}, "does not make 1 devices"),
    ({"data": -1, "fsdp": -1}, "does not make 1 devices"),
    ({"data": 0}, "does not make 1 devices"),
    ({"data": -2}, "does not make 1 devices"),
    ({"data": -1, "fsdp": -1, "tensor": -1}, "does not make 1 devices"),
    ({"data": -2, "fsdp": -2}, "does not make 1 devices"),
])  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(shape, said):
    with pytest.raises(ConfigError) as caught:
        make_mesh(shape, ONE)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class Device:
    def __init__(self, kind):
        self.device_kind = kind


@pytest.mark.parametrize(("kind", "dtype", "wanted"), [
    ("NVIDIA H200", "bfloat16", 989e12),
    ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v5p", "bfloat16", 459e12),
    ("TPU v5e", "bfloat16", 197e12),
    ("Tesla T4", "bfloat16", None),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA GH200 480GB", "bfloat16", None),
    ("cpu", "float32", None),
    ("NVIDIA L40S", "bfloat16", None),
])  # fmt: skip
def test_a_peak_is_known_or_none_but_never_guessed(kind, dtype, wanted):
    assert peak_flops(dtype, Device(kind)) == wanted


def test_the_table_holds_numbers_and_the_cpu_is_not_in_it():
    assert all(x > 1e12 for row in PEAKS.values() for x in row.values())
    assert peak_flops("float32", ONE[0]) is None
    assert memory_bytes(ONE[0]) is None or memory_bytes(ONE[0]) > 0
