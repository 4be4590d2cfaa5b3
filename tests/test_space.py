"""Search spaces: what is written down is what is drawn from, and a range that holds nothing is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax import space as spaces
from fmjax.core.errors import ConfigError
from fmjax.models import mlp
from fmjax.space import Search, choice, integer, log, uniform
from fmjax.study import Study, Trial

NUMBERS, COUNTS = st.floats(1e-6, 1e6), st.integers(1, 99)
RANGES = (
    st.builds(uniform, NUMBERS.map(lambda x: -x), NUMBERS)
    | st.builds(lambda low, times: log(low, low * (1 + times)), NUMBERS, st.floats(0.1, 100))
    | st.builds(lambda low, more, by: integer(low, low + more, by), COUNTS, COUNTS, st.booleans())
)


class Highest:
    """In place of a trial of Optuna: the highest number, the last choice."""

    def suggest_float(self, name, low, high, *, log=False):
        return high

    def suggest_int(self, name, low, high, *, log=False):
        return high

    def suggest_categorical(self, name, choices):
        assert all(isinstance(word, str) for word in choices)  # what a store can hold
        return choices[-1]


@settings(max_examples=40)
@given(RANGES)
def test_a_range_is_written_as_the_call_that_makes_it(values):
    assert eval(str(values), vars(spaces)) == values


@settings(max_examples=20)
@given(RANGES)
def test_a_draw_is_a_number_of_the_range_and_of_its_kind(values):
    drawn = values.draw(Highest(), "x")
    assert drawn == values.ends()[1]
    assert type(drawn) is (int if values.whole else float)


def test_a_choice_is_kept_as_words_and_drawn_as_the_value_itself():
    values = choice(None, 0.5, (64, 64), mlp.MLP)
    assert values.words == ["None", "0.5", "(64, 64)", "fmjax.models.mlp:MLP"]
    assert values.draw(Highest(), "x") is mlp.MLP


def test_every_end_of_every_range_is_tried_beside_the_first_of_the_others():
    space = {"a": uniform(0, 1), "b": choice("x", "y", "z")}
    made = [tuple(change.values()) for change in spaces.ends(space).values()]
    assert made == [(0.0, "x"), (1.0, "x"), (0.0, "y"), (0.0, "z")]


@pytest.mark.parametrize(("make", "said"), [
    (lambda: uniform(1, 1), r"uniform\(1, 1\) is empty"),
    (lambda: uniform(0.0, float("nan")), "wants two finite numbers"),
    (lambda: log(0, 1), r"log\(0, 1\) has no logarithm: start above 0"),
    (lambda: integer(1, 2.5), "wants two whole numbers"),
    (lambda: choice("a"), r"choice\(a\) leaves nothing to choose"),
    (lambda: choice(1, "1"), r"choice\(1, 1\) has 1 twice"),
    (lambda: choice({}, 1), "a change sets scalars, tuples, None and callables"),
    (lambda: Search(sampler="grid"), "sampler is tpe or random, not 'grid'"),
    (lambda: Search(prune="mean"), "prune is None, median or hyperband, not 'mean'"),
    (lambda: Search(startup=0), "a startup of 1 or more"),
    (lambda: study({"seed": integer(0, 9)}), "seeds are the study's own"),
    (lambda: study({"rate": (0.1, 0.2)}), r"space, rate: \(0.1, 0.2\) is no range: write log\(low, high\)"),
    (lambda: study({"rate": log(1, 2)}, changes={"x": {"clip": 1.0}}), "either changes or a space"),
    (lambda: study({"rate": log(1, 2)}, search=Search(prune="median")), "give the study one seed, not 3"),
])  # fmt: skip
def test_what_cannot_be_searched_is_one_line(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def study(space, **more):
    return Study(config="c", metric="validation/loss", space=space, **more)


def test_what_is_searched_for_is_the_number_that_chooses_and_its_name_says_which_way():
    space = {"config.rate": log(1, 2)}
    assert study(space).objective == "validation/loss"
    assert study(space).minimizes
    other = study(space, choose="validation/accuracy")
    assert (other.objective, other.minimizes) == ("validation/accuracy", False)
    assert study(space, choose="validation/accuracy", mode="min").minimizes
    assert list(other.space) == ["rate"]
    assert other.trials() == []


def test_a_drawn_number_reaches_the_command_line_exactly():
    value = 0.1 + 0.2
    (flag,) = Trial("x", 0, {"rate": value}).flags
    assert float(flag.partition("=")[2]) == value
