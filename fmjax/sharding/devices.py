"""What a device can do at best, from its maker's data sheet; unknown devices stay unknown."""

import re

import jax

# Dense peak FLOP/s (no sparsity), from the data sheets of A100, H100 SXM, H200, L4 and T4, and the Cloud TPU pages.
PEAKS: dict[str, dict[str, float]] = {
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "H100": {"bfloat16": 989e12, "float32": 67e12},
    "H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "H100 NVL": {"bfloat16": 835e12, "float32": 60e12},
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "L4": {"bfloat16": 121e12, "float32": 30.3e12},
    "T4": {"float16": 65e12, "float32": 8.1e12},
    "TPU v2": {"bfloat16": 45e12},
    "TPU v3": {"bfloat16": 123e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5e": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "TPU v6e": {"bfloat16": 918e12},
}


def peak_flops(dtype: str, device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of one device in this dtype; None when it is not in the table."""
    kind = (device or jax.devices()[0]).device_kind
    for name in sorted(PEAKS, key=len, reverse=True):
        if re.search(rf"\b{name}\b", kind):  # whole words: an L40S is no L4
            return PEAKS[name].get(dtype)
    return None


def memory_bytes(device: jax.Device | None = None) -> int | None:
    """Memory of one device, where it tells."""
    stats = (device or jax.devices()[0]).memory_stats()
    return stats.get("bytes_limit") if stats else None
