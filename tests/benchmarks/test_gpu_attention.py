"""Attention is compared with its reference before it is timed, and what ignores a mask is found out."""

import attention
import jax
import numpy as np
import pytest
from attention import Shape

from fmjax.core.errors import ConfigError

SHAPE = Shape(2, 16, 2, 8)


def test_a_kernel_that_ignores_what_it_is_given_is_found_out(monkeypatch):
    assert attention.heeds("mask", "xla", SHAPE, "float32")[0]
    real = jax.nn.dot_product_attention

    def deaf(q, k, v, bias=None, mask=None, **more):
        return real(q, k, v, **more)

    monkeypatch.setattr(jax.nn, "dot_product_attention", deaf)
    heeded, why = attention.heeds("mask", "xla", SHAPE, "float32")
    assert not heeded
    assert "off the reference" in why


def test_a_number_that_is_none_is_infinitely_far_off():
    right = (np.ones(3), np.full(2, 4.0))
    assert attention.error((np.ones(3), np.array([4.0, 3.0])), right) == 0.25
    assert attention.error((np.array([1, np.nan, 1]), np.full(2, 4.0)), right) == float("inf")


def test_documents_fill_packed_rows_and_padding_ends_padded_ones():
    rng = np.random.default_rng(0)
    packed, padded = (attention.segments(Shape(8, 64, 1, 8), kind, rng) for kind in ("packed", "padded"))
    assert (np.diff(packed) >= 0).all()
    assert packed.min() == 1
    assert packed.max() == 4
    assert (padded[:, 48:] == 0).all()
    assert (padded[:, :48] > 0).all()


def test_what_is_too_far_off_is_not_timed(monkeypatch, capsys):
    monkeypatch.setitem(attention.TOLERANCE, "float32", -1.0)
    with pytest.raises(ConfigError, match=r"einsum is .* off the reference in float32 on plain rows"):
        attention.check("einsum", SHAPE, "plain", "float32")


def test_every_backend_of_this_machine_is_timed_at_a_small_size(capsys):
    assert attention.main(["--smoke", "--alone", "--repeats=1"]) == 0
    plain, packed = capsys.readouterr().out.splitlines()
    for line in (plain, packed):
        assert all(f"fmjax, {name} " in line for name in ("einsum", "blocks", "chunked", "xla"))
