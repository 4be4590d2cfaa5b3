"""The shuffle: a bijection for every size, another one for every key, and no order left in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.data import order


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 1000))
def test_every_size_is_permuted_without_a_gap(n, seed, epoch):
    np.testing.assert_array_equal(np.sort(order.permute(np.arange(n), n, seed, epoch)), np.arange(n))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 2**40), data=st.data())
def test_a_rank_goes_to_the_same_place_whoever_else_is_asked(n, data):
    ranks = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = order.permute(ranks, n, 5, 1)
    assert (together >= 0).all()
    assert (together < n).all()
    np.testing.assert_array_equal(together, [order.permute(ranks[i : i + 1], n, 5, 1)[0] for i in range(len(ranks))])


@pytest.mark.parametrize("n", [2, 5, 7, 16])
def test_every_element_comes_first_equally_often(n):
    trials = 3000
    first = np.array([order.permute(np.array([0]), n, 0, epoch)[0] for epoch in range(trials)])
    counts = np.bincount(first, minlength=n)
    chi_squared = ((counts - trials / n) ** 2 / (trials / n)).sum()
    assert chi_squared < n - 1 + 5 * np.sqrt(2 * (n - 1))


def test_a_shuffle_leaves_no_order_and_differs_by_seed_and_by_epoch():
    n = 10_000
    base = order.permute(np.arange(n), n, 0, 0)
    for other in (np.arange(n), order.permute(np.arange(n), n, 1, 0), order.permute(np.arange(n), n, 0, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(base[:-1], base[1:])[0, 1]) < 0.05


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 9000), start=st.integers(0, 40_000), length=st.integers(0, 5000))
def test_a_window_is_the_stream_cut_out(n, start, length):
    length = min(length, 4 * n)
    positions = np.arange(start, start + length)
    wanted = [order.permute(positions[positions // n == e] % n, n, 3, int(e)) for e in np.unique(positions // n)]
    np.testing.assert_array_equal(order.window(start, start + length, n, 3), np.concatenate([*wanted, []]))


def test_the_shuffle_is_the_one_that_old_runs_were_made_with():
    assert order.permute(np.arange(8), 8, seed=0, epoch=0).tolist() == [4, 1, 5, 0, 2, 7, 3, 6]
    assert order.permute(np.arange(4), 54_000, seed=7, epoch=3).tolist() == [22928, 1607, 5764, 162]
