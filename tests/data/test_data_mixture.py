"""A mixture: everyone gets their share at every prefix, and gives their examples in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import pipeline
from fmjax.data.source import InMemory
from fmjax.data.sources import Counting, Mixture


def member(number, count):
    return InMemory(f"m{number}", {"features": np.full((count, 1), number, np.float32), "label": np.arange(count)})


@settings(max_examples=12, deadline=None)
@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_every_prefix_holds_every_share_to_within_one_example(weights):
    mixture = Mixture(tuple(member(i, 7) for i in range(len(weights))), tuple(weights), length=3000)
    who, _ = mixture.plan(np.arange(3000))
    share = np.array(weights) / sum(weights)
    held = np.cumsum(who[:, None] == np.arange(len(weights)), axis=0)
    # the weights are met to 1e-4 by the fractions, and to within one example by the turns
    assert (np.abs(held - share * np.arange(1, 3001)[:, None]) <= 1 + 3000 * 1e-4).all()


def test_round_weights_are_met_exactly_every_period():
    mixture = Mixture((member(0, 50), member(1, 50)), (0.7, 0.3))
    who, _ = mixture.plan(np.arange(200))
    assert (who.reshape(-1, 10) == 0).sum(axis=1).tolist() == [7] * 20


def test_each_member_gives_its_examples_in_order_and_starts_again():
    mixture = Mixture((member(0, 6), member(1, 4)), (2.0, 1.0), length=40)
    rows = mixture.rows(np.arange(40))
    for number, count in ((0, 6), (1, 4)):
        mine = rows["label"][rows["features"][:, 0] == number]
        np.testing.assert_array_equal(mine, np.arange(len(mine)) % count)
    for i in (0, 7, 39):
        assert mixture[i]["label"] == rows["label"][i]
        assert mixture[i]["features"] == rows["features"][i]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), data=st.data())
def test_by_default_it_is_as_long_as_it_takes_to_see_every_member_whole(sizes, data):
    weights = tuple(data.draw(st.integers(1, 5)) for _ in sizes)
    mixture = Mixture(tuple(member(i, n) for i, n in enumerate(sizes)), tuple(map(float, weights)))

    def seen(length):
        who, index = mixture.plan(np.arange(length))
        return all(set(index[who == i]) == set(range(n)) for i, n in enumerate(sizes))

    assert seen(len(mixture))
    assert not seen(len(mixture) - 1)


def test_a_stream_of_a_mixture_visits_each_of_its_examples_once():
    mixture = Mixture((Counting(8, 3), Counting(4, 3)), (1.0, 3.0))
    batch = pipeline.stream(mixture, len(mixture)).batch(0)
    wanted = mixture.rows(np.arange(len(mixture)))["tokens"]
    assert sorted(batch["tokens"].tolist()) == sorted(wanted.tolist())
    assert mixture.decode(batch["tokens"][0])


def test_the_fingerprint_changes_with_members_and_weights():
    a, b = member(0, 5), member(1, 5)
    mixtures = [Mixture((a, b), (1.0, 1.0)), Mixture((b, a), (1.0, 1.0)), Mixture((a, b), (1.0, 2.0))]
    mixtures += [Mixture((a, member(1, 6)), (1.0, 1.0)), Mixture((a, b), (1.0, 1.0), length=3)]
    assert len({m.fingerprint for m in mixtures}) == 5
    assert Mixture((a, b), (2.0, 2.0)).fingerprint == mixtures[0].fingerprint


def test_members_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 sources want as many positive weights"):
        Mixture((member(0, 3), member(1, 3)), (1.0,))
    with pytest.raises(ConfigError, match="positive"):
        Mixture((member(0, 3), member(1, 3)), (1.0, 0.0))
    with pytest.raises(ConfigError, match="below the smallest share"):
        Mixture((member(0, 3), member(1, 3)), (1.0, 1e-9))
    with pytest.raises(DataError, match="members of one kind"):
        Mixture((member(0, 3), Counting(4, 3)), (1.0, 1.0))
