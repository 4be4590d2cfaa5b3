"""Curves in two precisions and races to an accuracy: what is compared, and that the tools run at a small size."""

import itertools

import agreement
import cifar
import numpy as np
import pytest

from fmjax.core.errors import ConfigError


def test_curves_are_apart_by_a_part_of_what_was_learned():
    full, half = np.array([5.0, 4.0, 3.0]), np.array([5.0, 4.5, 2.9])
    np.testing.assert_allclose(agreement.differences(full, half), [0, 0.25, 0.05])
    with pytest.raises(ConfigError, match="take more steps"):
        agreement.differences(full[::-1], half)


def test_every_token_is_one_that_may_follow_the_one_before():
    rng = np.random.default_rng(0)
    following = rng.integers(0, 30, (30, 4))
    tokens = agreement.text(rng, following, 5, 20)
    assert tokens.shape == (5, 20)
    for row in tokens:
        assert all(after in following[before] for before, after in itertools.pairwise(row))


@pytest.mark.nightly
@pytest.mark.parametrize("name", agreement.CASES)
def test_half_precision_learns_as_the_full_one_does(name, capsys):
    assert agreement.main([name, "--smoke", "--repeats=1", "--steps=100"]) == 0
    assert "seed 0" in capsys.readouterr().out


class Track:
    config, steps, compiling = {"a": 1}, 200, 30.0


@pytest.mark.parametrize(("accuracy", "word"), [(0.941, "is reached"), (0.93, "is NOT reached")])
def test_a_race_counts_its_parts_and_its_row_says_whether_the_goal_is_reached(tmp_path, monkeypatch, accuracy, word):
    rows = []
    monkeypatch.setattr(cifar.results, "write_row", lambda name, **row: rows.append((name, row)))
    cifar.tell([cifar.Race(0.1, 2.0, 0.4, accuracy), cifar.Race(0.1, 3.0, 0.4, accuracy)], Track, "gpu")
    (first, seconds), (second, accuracies) = rows
    assert (first, second) == ("cifar_94_gpu", "cifar_94_accuracy_gpu")
    assert seconds["values"] == pytest.approx([2.5, 3.5])
    assert accuracies["values"] == [accuracy, accuracy]
    assert f"94% {word}; whitening 0.1 s, steps 2.5 s, evaluation 0.4 s" in seconds["note"]
