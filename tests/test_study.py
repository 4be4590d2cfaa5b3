"""Studies: sets of changes follow the laws of their names, and what no run could do is refused before any."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax import study as studies
from fmjax.core.errors import ConfigError
from fmjax.models import mlp
from fmjax.space import ends
from fmjax.study import Study, chain, grid, one_at_a_time, zip_

ROOT = Path(__file__).resolve().parents[1]
TINY = "tests/tiny_study.py"
VALUES = st.lists(st.integers(0, 99) | st.booleans() | st.floats(0, 1), min_size=1, max_size=4, unique_by=str)
AXES = st.dictionaries(st.sampled_from(["a.rate", "b.rate", "a.width", "clip"]), VALUES, min_size=1, max_size=3)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def study(changes, **more):
    return Study(**{"config": TINY, "metric": "validation/loss", "changes": changes, **more})


# ---- sets of changes ----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(AXES)
def test_a_grid_holds_every_combination_once(axes):
    made = grid(axes)
    assert len(made) == math.prod(len(values) for values in axes.values())
    assert {tuple(map(str, change.values())) for change in made.values()} == {
        tuple(map(str, values))
        for values in np.array(np.meshgrid(*map(_objects, axes.values()))).T.reshape(-1, len(axes))
    }
    assert all(set(change) == set(axes) for change in made.values())


def _objects(values):
    return np.array([*values, None], object)[:-1]


@settings(max_examples=30)
@given(AXES)
def test_a_grid_of_grids_is_their_grid(axes):
    if len({key.rpartition(".")[2] for key in axes}) == len(axes):  # else names are longer together
        assert grid(*(grid({key: values}) for key, values in axes.items())) == grid(axes)


@settings(max_examples=30)
@given(AXES)
def test_zip_takes_values_in_step(axes):
    short = min(map(len, axes.values()))
    made = list(zip_({key: values[:short] for key, values in axes.items()}).values())
    assert [[change[key] for change in made] for key in axes] == [values[:short] for values in axes.values()]


@settings(max_examples=30)
@given(AXES)
def test_one_at_a_time_sets_one_key_and_every_value(axes):
    made = one_at_a_time(axes)
    assert [(key, value) for change in made.values() for key, value in change.items()] == [
        (key, value) for key, values in axes.items() for value in values
    ]


@settings(max_examples=30)
@given(AXES, AXES)
def test_chain_keeps_order_and_refuses_two_meanings_of_a_name(one, two):
    left, right = one_at_a_time(one), one_at_a_time(two)
    if any(name in left and left[name] != right[name] for name in right):
        with pytest.raises(ConfigError, match="two changes are called"):
            chain(left, right)
    else:
        assert list(chain(left, right)) == [*left, *(name for name in right if name not in left)]


def test_names_say_the_last_word_or_all_of_a_key_where_two_end_alike():
    assert list(grid({"optimizer.rate": (0.1,), "model": (mlp.MLP,)})) == ["rate=0.1, model=MLP"]
    assert list(grid({"a.rate": (1,), "b.rate": (2,)})) == ["a.rate=1, b.rate=2"]


@pytest.mark.parametrize(("make", "said"), [
    (lambda: grid(), "of nothing"),
    (lambda: grid({"a": ()}), "'a' has no values"),
    (lambda: grid({"a": 3}), "'a' has 3: give a list"),
    (lambda: grid({"a": "abc"}), "'a' has 'abc': give a list"),
    (lambda: grid({"x": {"a": 1}}, {"a": (1, 2)}), "'a' is set twice"),
    (lambda: zip_({"a": (1,), "b": (1, 2)}), "a has 1, b has 2"),
    (lambda: study({"x": 3}), "change 'x' is 3"),
    (lambda: study({"x": {"seed": 3}}), "seeds are the study's own"),
    (lambda: study({"x": {"model": object()}}), "change 'x', model: a change sets scalars"),
    (lambda: study({"a b": {}, "a/b": {"clip": 1.0}}), "would share the folder a_b"),
    (lambda: study({}, seeds=(1, 1)), "different whole numbers"),
    (lambda: study({}, mode="most"), "'min', 'max' or None"),
    (lambda: study({"x": {}}, against={"x": "bas"}), "against: there is no change 'bas'; did you mean 'base'"),
    (lambda: study({"adam, rate=1": {}}, choose="validation/loss", base="adm"), "did you mean 'adam'"),
])  # fmt: skip
def test_what_is_no_set_of_changes_is_refused_in_one_line(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


# ---- studies ------------------------------------------------------------------------------------------


def test_the_base_is_the_config_as_it_is_and_every_change_meets_every_seed():
    made = study({"x": {"config.clip": 1.0}}, seeds=(3, 5), overrides={"steps": 2}).trials()
    assert [(t.change, t.seed) for t in made] == [("base", 3), ("x", 3), ("base", 5), ("x", 5)]
    assert made[1].flags == ["--config.steps=2", "--config.clip=1.0", "--config.seed=3"]
    assert made[1].folder == "x/seed_3"
    assert list(study({"x": {}, "y": {"clip": 1.0}}, base="x").changes) == ["x", "y"]


@pytest.mark.parametrize(("change", "said"), [
    ({"optimizer.rat": 0.1}, "^change 'x': --config.optimizer.rat: there is no 'rat'; did you mean 'rate'"),
    ({"optimiser.rate": 0.1}, "^change 'x': --config.optimiser.rate: .*did you mean 'optimizer'"),
    ({"optimizer.rate": "big"}, "change 'x': .*optimizer.rate=big"),
    ({}, "'base' and 'x' make the same config"),
])  # fmt: skip
def test_a_change_that_no_run_could_make_is_refused_before_any(change, said):
    with pytest.raises(ConfigError, match=said):
        study({"x": change}).configs()


def test_a_metric_that_no_evaluator_gives_is_refused():
    with pytest.raises(ConfigError, match="no evaluator gives 'validatoin/loss'; did you mean 'validation'"):
        study({}, metric="validatoin/loss").configs()


def test_better_follows_the_metrics_name_unless_it_is_said():
    assert study({}).lower_is_better
    assert not study({}, metric="test/accuracy").lower_is_better
    assert study({}, metric="test/accuracy", mode="min").lower_is_better


def test_a_study_file_is_read_with_its_variant(tmp_path):
    assert "sick" in studies.read(f"{TINY}:sick").changes
    with pytest.raises(ConfigError, match="no variant 'ill'"):
        studies.read(f"{TINY}:ill")
    with pytest.raises(ConfigError, match=r"defines no get_study\(\)"):
        studies.read("tests/tiny_config.py")
    with pytest.raises(ConfigError, match="there is no config file"):
        studies.read("tests/no_study.py")


def test_the_studies_that_are_here_can_be_run():
    for path in sorted(ROOT.glob("experiments/*/study.py")):
        found = studies.read(f"{path.relative_to(ROOT)}:smoke")
        assert len(found.configs()) == len(found.changes or ends(found.space)) > 1
