"""Every weight has a place or a reason: what is missing, misshapen or left over without one is listed and refused."""

import numpy as np
import pytest

from fmjax.core.errors import CheckpointError, ConfigError
from fmjax.interop.matching import Rules, match, renamed

MODEL = {"embed/embedding": np.ones((5, 2)), "block_0/kernel": np.ones((2, 2)), "head/kernel": np.ones((2, 5))}
HEADED = {"backbone/embed/embedding": np.ones((5, 2)), "backbone/block_0/kernel": np.ones((2, 2)),
          "head/kernel": np.zeros((2, 3))}  # fmt: skip


def met(there, here, **rules):
    return match("PATH", "model", there, here, Rules(**rules))


def test_the_same_addresses_meet_and_nothing_is_left():
    found = met(MODEL, MODEL)
    assert found.taken.keys() == MODEL.keys()
    assert not any((found.resized, found.fresh, found.ignored, found.heads))


def test_under_another_head_the_old_one_stays_behind_and_the_new_one_is_fresh():
    found = met({**MODEL, "head_norm/scale": np.ones(2), "pooler/kernel": np.ones(2)}, HEADED)
    assert found.taken.keys() == HEADED.keys() - {"head/kernel"}
    assert found.fresh == ["head/kernel"]
    assert found.heads == ["head/kernel", "head_norm/scale", "pooler/kernel"]


def test_what_a_head_stood_on_is_found_without_it():
    bare = {name: x for name, x in MODEL.items() if name != "head/kernel"}
    found = met(HEADED, bare)
    assert found.taken.keys() == bare.keys()
    assert found.heads == ["head/kernel"]


def test_what_has_no_place_is_refused_unless_it_is_said():
    more = {**MODEL, "block_1/kernel": np.ones((2, 2))}
    with pytest.raises(CheckpointError, match=r"it has block_1/kernel, which have no place here; .*name in ignore"):
        met(more, MODEL)
    assert met(more, MODEL, ignore=("^block_1/",)).ignored == ["block_1/kernel"]
    with pytest.raises(CheckpointError, match="it has backbone/block_1/kernel, which"):
        met({**HEADED, "backbone/block_1/kernel": np.ones((2, 2))}, HEADED)


def test_a_model_that_lost_its_output_weights_is_told_so():
    """The same model with tied output weights says something else: its head must not vanish by itself."""
    tied = {name: x for name, x in MODEL.items() if name != "head/kernel"}
    with pytest.raises(CheckpointError, match="it has head/kernel, which have no place here"):
        met(MODEL, tied)


def test_what_is_missing_or_of_another_shape_is_refused_unless_it_is_said():
    deeper = {**MODEL, "block_1/kernel": np.ones((2, 2))}
    with pytest.raises(CheckpointError, match=r"it lacks model/block_1/kernel; .*name in fresh"):
        met(MODEL, deeper)
    assert met(MODEL, deeper, fresh=("block_1/",)).fresh == ["block_1/kernel"]
    wider = {**MODEL, "block_0/kernel": np.ones((3, 2))}
    with pytest.raises(CheckpointError, match=r"model/block_0/kernel is \(2, 2\) there and \(3, 2\) here") as told:
        met(MODEL, wider)
    assert "resize" not in str(told.value)  # it would not help


def test_tables_are_resized_where_that_is_said_and_named_where_it_is_not():
    larger = {**MODEL, "embed/embedding": np.ones((7, 2)), "head/kernel": np.ones((2, 7))}
    with pytest.raises(CheckpointError, match="set resize=True for another vocabulary"):
        met(MODEL, larger)
    found = met(MODEL, larger, resize=True)
    assert found.resized == {"embed/embedding": ((5, 2), (7, 2)), "head/kernel": ((2, 5), (2, 7))}
    assert {name: x.shape for name, x in found.taken.items()} == {name: x.shape for name, x in larger.items()}
    with pytest.raises(CheckpointError, match="head/kernel is"):
        met(MODEL, larger, resize=("embedding$",))
    assert met(MODEL, larger, fresh=("head/",), resize=True).fresh == ["head/kernel"]


def test_nothing_in_common_says_what_both_have():
    with pytest.raises(CheckpointError, match=r"nothing in PATH fits this model: it has up\.kernel, the model block_0"):
        met({"up.kernel": np.ones(1)}, MODEL)


def test_every_match_in_an_address_is_replaced():
    found = renamed({"layers.0.w": 1, "layers.1.w": 2}, r"layers\.(\d+)\.", r"block_\1/")
    assert found == {"block_0/w": 1, "block_1/w": 2}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (("(", "x"), "is no substitution"),
        (("a", r"\1"), "is no substitution"),
        (("[ab]", "c"), "rename: a and b would both be c"),
    ],
)
def test_a_substitution_that_does_not_work_is_one_line(rename, message):
    with pytest.raises(ConfigError, match=message):
        renamed({"a": 1, "b": 2}, *rename)
