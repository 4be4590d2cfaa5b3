"""What `call`, `build` and `--config.a.b=` promise."""

import config_lib as lib
import jax.nn
import pytest
from ml_collections import ConfigDict

from fmjax.core.config import build, call, parse
from fmjax.core.errors import ConfigError


def fresh() -> ConfigDict:
    config = ConfigDict({"steps": 300, "mesh": {"data": -1}})
    config.model = call(lib.Decoder, vocab=64)
    rate = call(lib.warmup_cosine, peak=3, steps=config.get_oneway_ref("steps"))
    config.optimizer = call(lib.adamw, rate=rate)
    config.data = call(lib.data, source=call(lib.source), batch=8, transforms=(call(lib.crop), call(lib.flip)))
    return config


def over(*overrides):
    config = fresh()
    return config, parse(config, [f"--config.{o}" for o in overrides])


def test_defaults_are_written_down_typed_without_linens_own():
    model = fresh().model
    assert set(model.keys()) == {
        "call",
        "vocab",
        "width",
        "depth",
        "dropout",
        "causal",
        "window",
        "scale",
        "stages",
        "norm",
    }
    assert type(model.dropout) is float
    assert model.window is None
    assert model.stages == (2, 2)
    assert model.get_type("window") is int
    assert model.get_type("scale") is float
    assert type(fresh().optimizer.rate.peak) is float  # an int written for a float field


def test_a_plain_class_gives_types_from_its_constructor():
    node = call(lib.Written, size=3)
    assert type(node.size) is float
    assert node.get_type("path") is str


def test_overrides_of_every_kind():
    config, seen = over(
        "model.width=256", "model.dropout=1", "model.causal=false", "model.window=128", "model.scale=0.5",
        "model.stages=(3,4,6)", "optimizer.betas=(0.9,0.95)", "optimizer.rate.peak=3e-4", "mesh.data=4",
    )  # fmt: skip
    model = config.model
    assert (model.width, model.dropout, model.causal, model.window, model.scale) == (256, 1.0, False, 128, 0.5)
    assert (model.stages, config.optimizer.betas, config.mesh.data) == ((3, 4, 6), (0.9, 0.95), 4)
    assert seen["optimizer.rate.peak"] == 3e-4
    assert build(config.model).stages == (3, 4, 6)
    assert build(config.model).act is lib.nn.relu
    assert over("model.stages=5")[0].model.stages == (5,)
    config = fresh()
    parse(config, ["--noconfig.model.causal"])
    assert config.model.causal is False
    assert over("model.causal")[0].model.causal is True


def test_none_both_ways():
    config, _ = over("optimizer.clip=None", "data.epochs=None")
    assert config.optimizer.clip is None
    assert build(config.data)[2] is None
    assert over("data.epochs=None", "data.epochs=3")[0].data.epochs == 3
    with pytest.raises(ConfigError, match="may not be None"):
        over("model.width=None")


def test_references_follow_one_way():
    assert build(over("steps=10")[0].optimizer)[1][2] == 10
    config, _ = over("optimizer.rate.steps=50")
    assert (config.steps, build(config.optimizer)[1][2]) == (300, 50)


def test_a_duration_may_stand_where_an_integer_stood_and_back():
    config, seen = over("steps=5epochs", "optimizer.rate.steps=10%")
    assert (config.steps, config.optimizer.rate.steps) == ("5epochs", "10%")
    assert seen["steps"] == "5epochs"
    assert parse(config, ["--config.steps=7"]) == {"steps": "7"}
    assert config.steps == 7
    with pytest.raises(ConfigError):
        over("optimizer.rate.peak=5epochs")


def test_a_nested_call_is_replaced_and_its_fields_overridden_in_one_command():
    config, seen = over("model=config_lib:Other", "model.experts=8")
    assert build(config.model) == lib.Other(experts=8)
    assert seen["model"] == "config_lib:Other"
    config, _ = over("model.norm=config_lib:rms", "model.norm.eps=0.5", "optimizer.rate=config_lib:crop")
    assert build(config.model.norm) == ("rms", 0.5)
    assert build(config.optimizer.rate) == ("crop", 2)
    config, _ = over("model=config_lib:small", "model.vocab=9")  # what it requires is taken over by name
    assert (config.model.vocab, config.model.width, config.model.stages) == (9, 16, (1, 1))


def test_what_a_new_callable_requires_and_the_old_one_lacks_is_a_field_to_fill():
    config, _ = over("model.norm=config_lib:warmup_cosine", "model.norm.peak=0.5", "model.norm.steps=7")
    assert build(config.model.norm) == ("rate", 0.5, 7, 0.1)
    config, _ = over("model.norm=config_lib:warmup_cosine", "model.norm.peak=0.5")
    with pytest.raises(ConfigError, match=r"config\.norm\.steps has no value"):
        build(config.model)


def test_a_partial_is_a_variant_with_every_field_on_record():
    model = call(lib.small, vocab=9)
    assert model.call == "config_lib:Decoder"
    assert (model.width, model.depth, model.stages) == (16, 2, (1, 1))


def test_a_number_is_replaced_by_a_call():
    config = ConfigDict({"steps": 300, "optimizer": call(lib.adamw, rate=1e-3)})
    parse(config, [f"--config.optimizer.rate{x}" for x in ("=config_lib:warmup_cosine", ".peak=0.5", ".steps=10%")])
    assert (config.optimizer.rate.peak, config.optimizer.rate.steps) == (0.5, "10%")


def test_one_element_of_a_tuple_of_calls():
    config, _ = over("data.transforms[0].pad=4")
    assert build(config.data)[3] == (("crop", 4), ("flip", 0.5))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--config.model.widht=3", "width"),
        ("--config.modle.width=3", "model"),
        ("--config.modle.width=None", "did you mean 'model'"),
        ("--config.model.width=1e4", "width"),
        ("--config.model.width=abc", "width"),
        ("--config.model.causal=3", "causal"),
        ("--config.model=config_lib:Othr", "did you mean 'Other'"),
        ("--config.model=no_such_module:Thing", "no module"),
        ("--confg.model.width=3", "confg"),
        ("stray", "'stray' is no override"),
        ("--config.data.transforms[7].pad=1", ""),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(override, says):
    with pytest.raises(ConfigError) as error:
        parse(fresh(), [override])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_call_refuses_what_its_callable_does_not_take_and_what_cannot_be_named():
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        call(lib.Decoder, widht=3)
    for unnamed in (lambda: call(lambda: 0), lambda: call(lib.Decoder, act=jax.nn.gelu)):
        with pytest.raises(ConfigError, match="cannot name"):
            unnamed()


def test_build_says_where():
    with pytest.raises(ConfigError, match=r"--config\.m .*vocab"):
        build(ConfigDict({"m": call(lib.Decoder)}))


def test_regular_expressions_cannot_be_keys():
    with pytest.raises(ConfigError, match="dots"):
        call(lib.data, source={"a.*": 1}, batch=1)
