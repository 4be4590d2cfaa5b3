"""Adapters that add nothing: which addresses move."""

import jax
import jax.numpy as jnp
import pytest

from fmjax.adapters import parts
from fmjax.core.errors import ConfigError
from fmjax.core.trees import flatten
from fmjax.models.heads import Classifier
from fmjax.models.transformer import Decoder, Encoder

KEY, TOKENS = jax.random.key(0), jnp.arange(10).reshape(2, 5)
MODEL = Decoder(vocab=11, width=8, depth=3, heads=2, use_bias=True, tied=False)
HEADED = Classifier(Encoder(vocab=11, width=8, depth=1, heads=2, output="none"), classes=3)


def addresses(model):
    return flatten({"model": jax.eval_shape(model.init, KEY, TOKENS)["params"]})


def split(adapter, model=MODEL):
    """The addresses that move; with the frozen ones they are all there are, each once."""
    flat = addresses(model)
    params = {"model": jax.eval_shape(model.init, KEY, TOKENS)["params"]}
    own, frozen = (flatten(tree) for tree in jax.eval_shape(adapter.split, params, KEY))
    assert own.keys() | frozen.keys() == flat.keys()
    assert not own.keys() & frozen.keys()
    return set(own)


def test_full_moves_everything():
    assert split(parts.full()) == set(addresses(MODEL))


def test_bias_only_moves_every_bias_and_nothing_else():
    assert split(parts.bias_only()) == {name for name in addresses(MODEL) if name.endswith("/bias")}


def test_a_probe_moves_the_head():
    assert split(parts.probe()) == {"model/head/kernel"}
    assert split(parts.probe(), HEADED) == {name for name in addresses(HEADED) if "/backbone/" not in name}
    assert split(parts.probe(head="embed/")) == {"model/embed/embedding"}


def test_the_last_layers_move_with_what_follows_them():
    moves = split(parts.last_layers(1))
    assert {name.split("/")[1] for name in moves} == {"block_2", "final_norm", "head"}
    assert {name.split("/")[1] for name in split(parts.last_layers(2))} == {"block_1", "block_2", "final_norm", "head"}


def test_blocks_are_counted_and_not_spelled():
    deep = {f"model/block_{i}/kernel": jnp.ones(1) for i in range(11)} | {"model/head/kernel": jnp.ones(1)}
    assert {name.split("/")[1] for name in parts.last_layers(2).whole(deep)} == {"block_9", "block_10", "head"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parts.last_layers(0), "at least one block"),
        (lambda: parts.last_layers(4), "n=4: model has 3 blocks"),
        (lambda: parts.last_layers(1, block="block"), "in parentheses"),
        (lambda: parts.last_layers(1, block="layre_(\\d+)"), "block: .* matches no weight"),
        (lambda: parts.only(()), "targets is empty"),
        (lambda: parts.only(("hed/",)), "targets: 'hed/' matches no weight; nearest: model/head/kernel"),
        (lambda: parts.probe(head="hed/"), "head: 'hed/' matches no weight"),
    ],
)
def test_what_picks_nothing_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        split(make())


def test_a_model_without_a_head_is_told_to_name_one():
    with pytest.raises(ConfigError, match="no weights that are called a head"):
        split(parts.probe(), Encoder(vocab=11, width=8, depth=1, heads=2, output="none"))
