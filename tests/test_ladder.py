"""The ladder: one dial sets everything, and what it does not know is one line."""

from pathlib import Path

import pytest

from fmjax.core.configfile import read
from fmjax.core.errors import ConfigError
from fmjax.optim import mup

LADDER = str(Path(__file__).parents[1] / "configs/language/ladder.py")


def rung(variant):
    return read(f"{LADDER}:{variant}")


def test_the_depth_sets_width_heads_batch_rate_and_horizon():
    low, high = rung("depth=2"), rung("depth=8")
    assert read(LADDER) == low
    for config, depth in ((low, 2), (high, 8)):
        model = config.model
        assert (model.depth, model.width, model.heads) == (depth, 64 * depth, depth)
        weights = 12 * depth * model.width**2 + model.vocab * model.width
        tokens = config.steps * config.data.batch_size * config.data.source.length
        assert tokens == pytest.approx(20 * weights, rel=1e-2)
    assert high.data.batch_size > low.data.batch_size
    assert high.optimizer.rate.peak > low.optimizer.rate.peak


def test_width_is_carried_by_the_parametrisation():
    config = rung("depth=8")
    assert (config.model.logit_scale, config.optimizer.rates) == (0.25, ((mup.HIDDEN, 0.25),))
    assert config.optimizer.decay * 0.25 == rung("depth=2").optimizer.decay


def test_the_ratio_moves_the_horizon_and_the_schedule_follows_the_steps():
    long, short = rung("depth=4"), rung("depth=4,ratio=5")
    assert rung("ratio=5,depth=4") == short
    seen = [c.steps * c.data.batch_size for c in (long, short)]
    assert seen[0] == pytest.approx(4 * seen[1], rel=1e-2)
    assert short.optimizer.rate.steps == short.steps


@pytest.mark.parametrize(("variant", "says"), [
    ("deep=4", "has no variant 'deep=4'; write depth=4, depth=4,ratio=5 or smoke"),
    ("full", "has no variant 'full'"),
    ("depth=four", "depth is a number such as 2, not 'four'"),
    ("depth=2.5", "depth is a number such as 2, not '2.5'"),
    ("depth", "depth is a number such as 2, not ''"),
    ("depth=0", "give a depth from 1 to 64"),
    ("depth=2,ratio=nan", "a ratio above 0"),
])  # fmt: skip
def test_a_variant_that_it_does_not_know_is_one_line(variant, says):
    with pytest.raises(ConfigError, match=says):
        rung(variant)
