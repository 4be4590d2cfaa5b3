"""Turns: who goes when, who the peer is, and which losses are the same."""

import pytest
import turns

from fmjax.core.errors import ConfigError

MEASURED = turns.Turns(
    first={"fmjax": 9.0, "PyTorch": 1.0, "torch.compile": 60.0},
    seconds={"fmjax": [2.0, 4.0, 3.0], "PyTorch": [4.0, 5.0, 6.0], "torch.compile": [4.0, 4.0, 4.0]},
    said={},
)


def test_every_way_goes_once_before_the_turns_and_once_in_each_with_the_order_turned():
    seen = []
    ways = {way: lambda way=way: seen.append(way) or len(seen) for way in "abc"}
    found = turns.take(ways, 3)
    assert "".join(seen) == "abc" + "abc" + "cba" + "abc"
    assert found.said == {"a": [1, 4, 9, 10], "b": [2, 5, 8, 11], "c": [3, 6, 7, 12]}
    assert {way: len(x) for way, x in found.seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_peer_is_the_fastest_of_the_others_and_ratios_are_those_of_a_turn():
    assert MEASURED.peer == "torch.compile"
    assert MEASURED.ratios == [0.5, 1.0, 0.75]
    assert MEASURED.per(2).medians == {"fmjax": 1.5, "PyTorch": 2.5, "torch.compile": 2.0}
    ours_too = MEASURED._replace(seconds={**MEASURED.seconds, "fmjax, no cache": [1.0, 1.0, 1.0]})
    assert ours_too.peer == "torch.compile"
    assert "median 0.75, from 0.50 to 1.00" in turns.told(MEASURED)


def test_the_baseline_of_a_row_is_the_peer_in_the_units_of_the_row():
    found = turns.baseline(MEASURED, "numpy", scale=lambda seconds: 100 / seconds)
    assert found["value"] == 25.0
    assert found["values"] == [25.0, 25.0, 25.0]
    assert found["name"].startswith("torch.compile: numpy ")


def test_losses_that_agree_and_move_are_told():
    told = turns.compare_losses("gpt", {"fmjax": [4.0, 3.0], "PyTorch": [4.0, 3.001]}, 1e-2)
    assert told == "losses of 2 steps, from 4.000 to 3.000, within 1e-03"


def test_one_that_fails_does_not_stop_the_others(capsys):
    done = []

    def measure(name):
        if name == "b":
            raise ConfigError("no such data")
        done.append(name)

    assert turns.each("abc", measure) == 1
    assert done == ["a", "c"]
    assert "error: b: no such data" in capsys.readouterr().err
    assert turns.each("ac", measure) == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([4.0, 3.0], [4.0, 3.1], "differ by 0.1"),
        ([4.0, 3.0], [4.0, float("nan")], "not the same computation"),
        ([4.0, 4.001], [4.0, 4.001], "moved by 0.001 only"),
    ],
)
def test_other_losses_or_none_that_moved_are_refused(ours, theirs, message):
    with pytest.raises(ConfigError, match=message):
        turns.compare_losses("gpt", {"fmjax": ours, "PyTorch": theirs}, 1e-2)
