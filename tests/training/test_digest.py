"""Digests of leaves: blind to sharding, never to a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.training import digest

DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int4",
    "int16",
    "bfloat16",
    "float16",
    "int32",
    "uint32",
    "float32",
    "float8_e4m3fn",
]
WIDE = ["int64", "float64", "complex64", "complex128"]


def leaf(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    dtype = jnp.dtype(getattr(jnp, dtype))
    numbers = np.random.default_rng(seed).integers(0, 2 if dtype.name == "bool" else 7, shape)
    return numbers.astype(dtype)


def of(x) -> str:
    return digest.digests({"x": x})["x"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_changes_both_halves(data):
    dtype = data.draw(st.sampled_from([d for d in DTYPES + WIDE if d not in ("bool", "int4")]))
    x = leaf(dtype, data.draw(st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4)])), data.draw(st.integers(0, 99)))
    raw = bytearray(x.tobytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    before, after = of(x), of(np.frombuffer(bytes(raw), x.dtype).reshape(x.shape))
    assert before[:8] != after[:8]
    assert before[8:] != after[8:]


@pytest.mark.parametrize("size", [digest.BLOCK - 1, digest.BLOCK, 2 * digest.BLOCK + 3])
def test_a_change_beyond_the_first_block_is_seen(size):
    x = leaf("float32", (size,))
    y = x.copy()
    y[-1] += 1
    assert of(x) != of(y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_device_and_host_agree(dtype):
    x = leaf(dtype, (3, 4))
    assert digest._hex(*map(int, digest.on_device(jnp.asarray(x)))) == of(x) == of(jnp.asarray(x))


@pytest.mark.parametrize("dtype", WIDE)
def test_device_and_host_agree_on_wide_types(dtype):
    with jax.enable_x64(True):
        x = leaf(dtype, (2, 3)) + np.asarray(0.5).astype(leaf(dtype, (1,)).dtype)
        assert digest._hex(*map(int, digest.on_device(jnp.asarray(x)))) == of(x) == of(jnp.asarray(x))


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 99), data=st.data())
def test_pieces_add_up_to_the_whole(shape, seed, data):
    x = leaf(data.draw(st.sampled_from(["float32", "float64", "bfloat16"])), tuple(shape), seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    cut = data.draw(st.integers(0, shape[axis]))
    whole, first, second = (slice(None),) * axis, slice(0, cut), slice(cut, shape[axis])
    rest = (slice(None),) * (len(shape) - axis - 1)
    sums = [digest.on_host(x[at], at, x.shape) for at in ((*whole, first, *rest), (*whole, second, *rest))]
    assert digest._hex(sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]) == of(x)


def test_order_counts():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert of(x) != of(x.T)
    assert of(x) != of(x[::-1])


def test_a_view_is_digested_as_what_it_shows():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert of(x.T) == of(np.ascontiguousarray(x.T))


def test_a_typed_key_is_digested_as_its_words():
    key = jax.random.key(3)
    assert of(key) == of(np.asarray(jax.random.key_data(key)))


def test_empty_leaves_and_scalars_have_digests():
    assert of(np.zeros((0, 3))) == "0" * 16
    assert of(jnp.asarray(1.0)) != of(jnp.asarray(2.0))


def test_the_digest_of_a_format_never_changes():
    # Checkpoints on disk hold these: a change here needs a new format number and a way to read the old one.
    x = np.arange(5, dtype=np.float32)
    assert of(x) == GOLDEN["float32"]
    assert of(x.astype(jnp.bfloat16)) == GOLDEN["bfloat16"]
    leaves = {
        "b": {"shape": [5], "dtype": "float32", "digest": of(x)},
        "a": {"shape": [], "dtype": "bool", "digest": "0"},
    }
    assert digest.combine(leaves) == digest.combine(dict(sorted(leaves.items()))) == GOLDEN["tree"]


GOLDEN = {"float32": "171ae68386424099", "bfloat16": "6c21e9e942b29ab6", "tree": "f4ddfb12b707ef3ead8988eeeefe16cd"}


def test_arrays_may_be_donated_once_they_are_held():
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = step(jnp.arange(1000.0))
    want = of(np.array(x))
    later = digest.start({"x": x})
    for _ in range(3):
        x = step(x)
    x.block_until_ready()
    assert later() == {"x": want}
