"""Features: distances are what they say, bridges learn, and a student like its teacher has nothing to learn."""

import jax
import numpy as np
import pytest
from stand_ins import BATCH, KEY, MLP, Plain, same, setup

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.models import transformer
from fmjax.nn.bridge import Bridge
from fmjax.objectives.distillation import DistillTokens
from fmjax.objectives.features import MatchFeatures
from fmjax.objectives.language import NextToken

WIDE = MLP(width=12)
TEACHER = {"teacher": WIDE.init(jax.random.key(7), BATCH["features"])["params"]}
UP = (("up", "up"),)


def test_the_distance_is_what_it_says_after_a_bridge_that_learns():
    objective = MatchFeatures(Plain(), UP, weight=0.5, bridge=True)
    modules = {"model": MLP(), "teacher": WIDE, "bridge": Bridge(((8, 12),))}
    (state, step), (_, micro) = (setup(objective, modules, frozen=TEACHER, accumulate=n) for n in (1, 4))
    params, (after, seen) = jax.device_get(state.params), step(state, BATCH)
    same(after.params, micro(state, BATCH)[0].params, 1e-5)
    assert not np.allclose(after.params["bridge"]["kernel_0"], params["bridge"]["kernel_0"])
    up = lambda p: BATCH["features"] @ np.asarray(p["up"]["kernel"]) + np.asarray(p["up"]["bias"])  # noqa: E731
    a, b = up(params["model"]) @ np.asarray(params["bridge"]["kernel_0"]), up(TEACHER["teacher"])
    far = ((a - b) ** 2).mean(-1)
    np.testing.assert_allclose(seen["features"].value(), (far * BATCH["valid"]).sum() / 13, rtol=1e-4)

    nets = {name: Net(module, {**params, **TEACHER}[name]) for name, module in modules.items()}
    cosine = MatchFeatures(Plain(), UP, "cosine", bridge=True)
    _, seen = jax.jit(lambda: cosine.loss("model", nets, BATCH, {}, KEY))()
    far = 1 - (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    np.testing.assert_allclose(seen["features"].value(), (far * BATCH["valid"]).sum() / 13, rtol=1e-4)


def test_a_student_like_its_teacher_has_the_loss_of_its_objective_alone():
    net = Net(WIDE, TEACHER["teacher"])
    nets = {"model": net, "teacher": Net(WIDE, TEACHER["teacher"])}
    loss, metrics = MatchFeatures(Plain(), (("up", "up"), ("down", "down"))).loss("model", nets, BATCH, {}, KEY)
    alone, _ = Plain().loss("model", {"model": Net(WIDE, TEACHER["teacher"])}, BATCH, {}, KEY)
    np.testing.assert_allclose(loss.sum, alone.sum, rtol=1e-6)
    assert metrics["features"].sum == 0


def test_attention_and_hidden_states_of_a_decoder_where_padding_counts_nothing():
    def decoder(**kw):
        return transformer.Decoder(vocab=13, width=8, depth=1, **kw)

    tokens = np.random.default_rng(0).integers(0, 13, (2, 6)).astype(np.int32)
    segments = np.array([[1, 1, 1, 0, 0, 0]] * 2, np.int32)
    batch = {"tokens": tokens, "segment_ids": segments, "valid": np.ones(2, np.float32)}
    objective = MatchFeatures(
        MatchFeatures(DistillTokens(NextToken()), (("block_0", "block_0"),)),
        (("block_0/attention/weights", "block_0/attention/weights"),), "attention",
    )  # fmt: skip
    student, teacher = decoder(heads=2), decoder(heads=4)

    @jax.jit
    def run(batch):
        nets = {
            name: Net(model, model.init(KEY, tokens[:, :-1])["params"])
            for name, model in (("model", student), ("teacher", teacher))
        }
        return objective.loss("model", nets, batch, {}, KEY)

    loss, metrics = run(batch)
    assert metrics["features"].weight == loss.weight == 4
    assert 0 < metrics["features"].value() < 1
    other = np.where(segments > 0, tokens, 1 + tokens // 2)
    np.testing.assert_allclose(run({**batch, "tokens": other})[0].sum, loss.sum, rtol=1e-5)


def test_what_does_not_fit_is_one_line():
    nets = {"model": Net(MLP(), MLP().init(KEY, BATCH["features"])["params"]), "teacher": Net(WIDE, TEACHER["teacher"])}
    with pytest.raises(ConfigError, match="did you mean 'up'"):
        MatchFeatures(Plain(), (("upp", "up"),)).loss("model", nets, BATCH, {}, KEY)
    nets["model"].inside = {}
    nets["model"].watch = ()
    with pytest.raises(ConfigError, match=r"a net 'bridge' .* maps widths"):
        MatchFeatures(Plain(), UP).loss("model", nets, BATCH, {}, KEY)
    with pytest.raises(ConfigError, match="there is no kind 'l1'"):
        MatchFeatures(Plain(), UP, "l1")
    with pytest.raises(ConfigError, match="pairs are"):
        MatchFeatures(Plain())
