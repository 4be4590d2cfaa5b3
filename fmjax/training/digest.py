"""A digest of every leaf: the same on any mesh, and changed for certain by any single flipped bit.

Each 32-bit word of a leaf is mixed with its index by a function that is one-to-one in the word, and the results are
added modulo 2^32. Addition forgets the order, so shards can be summed anywhere; and since one changed word changes
exactly one summand, the sum must change. Two sums by two mixings make 64 bits. It guards against damage, not malice.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.core.trees import flatten

BLOCK = 1 << 15  # words at a time on the host, so that the intermediates stay in cache


def start(arrays: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """Take hold of `arrays` now; the function returned gives {name: 16 hex digits}, once, from any thread.

    The arrays may be donated or deleted as soon as this returns. What lies in the memory of this process is digested
    by numpy, when asked (about 1 GB/s a core, nothing to compile); the rest on its devices, one small program a shape.
    """
    held = {name: _hold(x) for name, x in arrays.items()}
    return lambda: {name: _hex(*_sums(held.pop(name))) for name in list(held)}  # let each go as soon as it is done


def digests(arrays: Mapping[str, Any]) -> dict[str, str]:
    """{name: 16 hex digits} of numpy or jax arrays, typed keys included."""
    return start(arrays)()


def combine(leaves: Mapping[str, Mapping[str, Any]]) -> str:
    """One digest of a whole tree from {address: {"shape", "dtype", "digest"}}; 32 hex digits."""
    lines = (f"{name} {leaf['dtype']} {list(leaf['shape'])} {leaf['digest']}\n" for name, leaf in leaves.items())
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:32]


def of(tree: Any) -> str:
    """One digest of a tree of arrays; 32 hex digits."""
    flat = flatten(tree)
    found = digests(flat)
    return combine({k: {"dtype": str(x.dtype), "shape": x.shape, "digest": found[k]} for k, x in flat.items()})


def _hold(x: Any) -> Any:
    """Views of what this process holds as [(data, index, shape)], or the two sums underway on the devices."""
    if not isinstance(x, jax.Array):
        return [(np.asarray(x), None, np.shape(x))]
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    on_host = x.is_fully_addressable and all(d.platform == "cpu" for d in x.devices())
    if not on_host:  # a program over all processes, in the order of the names, so that none waits for another
        sums = on_device(x)
        sums.copy_to_host_async()
        return sums
    return [(np.asarray(s.data), s.index, x.shape) for s in x.addressable_shards if s.replica_id == 0]


def _sums(held: Any) -> tuple[int, int]:
    if not isinstance(held, list):
        return tuple(int(s) for s in np.asarray(held))
    first, second = zip(*(on_host(*part) for part in held), strict=True)
    return sum(first), sum(second)


def _hex(first: int, second: int) -> str:
    return f"{first & 0xFFFFFFFF:08x}{second & 0xFFFFFFFF:08x}"


def on_host(data: np.ndarray, index: tuple[slice, ...] | None = None, shape: tuple[int, ...] = ()) -> tuple[int, int]:
    """Both sums of a piece of a leaf; `index` is where the piece lies in a leaf of `shape` (None: it is all of it)."""
    words = _host_words(data)
    per_element = words.size // max(data.size, 1)
    places = None
    if index is not None and data.shape != tuple(shape):
        places = (_places(data.shape, index, shape)[:, None] * per_element + np.arange(per_element)).ravel()
    first = second = 0
    for at in range(0, words.size, BLOCK):
        block = words[at : at + BLOCK].astype(np.uint32)
        where = np.arange(at, at + block.size) if places is None else places[at : at + BLOCK]
        a, b = _mix(block, where.astype(np.uint32))
        first += int(a.sum(dtype=np.uint64))
        second += int(b.sum(dtype=np.uint64))
    return first, second


@jax.jit
def on_device(x: jax.Array) -> jax.Array:
    """Both sums as uint32 (2,), wherever the shards of `x` lie; replicated."""
    words = _device_words(x)  # x.shape, or (*x.shape, words of an element)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # no reshape: it would gather the shards
        index = index + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    a, b = _mix(words, index)
    return jnp.stack([a.sum(dtype=jnp.uint32), b.sum(dtype=jnp.uint32)])


def _mix(words: Any, index: Any) -> tuple[Any, Any]:
    """Two uint32 a word, each one-to-one in the word: xor-shifts and odd multipliers (Wang, Appleby, Wellons)."""
    x = words ^ (index * np.uint32(0x9E3779B9))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x = x ^ (x >> np.uint32(16))
    y = (x * np.uint32(0xCC9E2D51)) ^ index
    y = (y ^ (y >> np.uint32(15))) * np.uint32(0x1B873593)
    return x, y ^ (y >> np.uint32(13))


def _host_words(data: np.ndarray) -> np.ndarray:
    """The bits in row-major order: one word an element up to four bytes, two or four words above."""
    data = np.ascontiguousarray(data).reshape(-1)
    if _is_narrow(data.dtype):
        data = data.astype(np.int8)
    return data.view({1: np.uint8, 2: np.uint16}.get(data.dtype.itemsize, np.uint32))


def _device_words(x: jax.Array) -> jax.Array:
    """The same on a device; elements above four bytes give a last axis of words."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        parts = [_device_words(part) for part in (x.real, x.imag)]
        return jnp.stack(parts, -1) if x.dtype.itemsize == 8 else jnp.concatenate(parts, -1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    elif _is_narrow(x.dtype):
        x = x.astype(jnp.int8)
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)


def _is_narrow(dtype: Any) -> bool:
    """Whether it is int4 or its kin, which lie in a byte whose upper bits are nobody's."""
    return jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits < 8


def _places(piece: tuple[int, ...], index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The row-major place in the whole leaf of every element of a piece of it."""
    places, stride = np.zeros((1,) * len(piece), np.int64), 1
    for axis in reversed(range(len(piece))):
        along = (np.arange(piece[axis]) + (index[axis].start or 0)) * stride
        places = places + along.reshape([-1 if i == axis else 1 for i in range(len(piece))])
        stride *= shape[axis]
    return np.broadcast_to(places, piece).reshape(-1)
