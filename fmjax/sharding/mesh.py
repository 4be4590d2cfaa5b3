"""The mesh: which devices work on what, by named axes."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fmjax.core.config import did_you_mean
from fmjax.core.errors import ConfigError

AXES = ("data", "fsdp", "tensor", "sequence", "expert", "stage")
ROWS = ("data", "fsdp")  # the axes over which the rows of a batch are split


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave.

    Raises:
      ConfigError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = list(devices or jax.devices())
    for name in shape:
        if name not in AXES:
            raise ConfigError(f"--config.mesh: there is no axis {name!r}; {did_you_mean(name, AXES)}")
    sizes = {name: int(shape.get(name, 1)) for name in AXES}
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wrong = len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values())
    if wrong or len(devices) % fixed or (not free and fixed != len(devices)):
        given = " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "data=1"
        raise ConfigError(f"--config.mesh: {given} does not make {len(devices)} devices; one axis may be -1 to fill up")
    if free:
        sizes[free[0]] = len(devices) // fixed
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch, split over the data-parallel axes."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def put_rows(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch of host arrays (this process's rows) on the devices, rows split over the mesh."""
    rows = row_sharding(mesh)
    if mesh.size == 1:
        return _whole(rows)(dict(batch))
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), rows)
    return {k: jax.make_array_from_process_local_data(rows, v) for k, v in batch.items()}


@functools.cache
def _whole(place: NamedSharding) -> Callable[[dict[str, Any]], dict[str, jax.Array]]:
    # Four arrays arrive as arguments of a program that returns them in a sixth of the time that jax.device_put takes.
    return jax.jit(lambda batch: batch, out_shardings=place)


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[name] for name in ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())
