"""Attention: what must hold whatever the weights, for every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn import attention, masks
from fmjax.nn.attention import BACKENDS, Attention, attend, choose

KEYS = jax.random.split(jax.random.key(0), 4)
Q_BTHK = jax.random.normal(KEYS[0], (2, 7, 4, 8))
HERE = [name for name, backend in BACKENDS.items() if "cpu" in backend.platforms]
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 0, 0]])
BIAS = jax.random.normal(KEYS[3], (1, 4, 7, 7))
CASES = {  # what `attend` is asked for
    "plain": {},
    "causal": dict(causal=True),
    "packed": dict(mask=True),
    "packed causal": dict(mask=True, causal=True),
    "window": dict(window=3),
    "packed causal window": dict(mask=True, causal=True, window=2),
    "biased": dict(bias=BIAS, scale=1.0, causal=True),
    "softcap": dict(softcap=0.5, mask=True),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 3)
    monkeypatch.setattr(attention, "BLOCK", 2)


def by_hand(q, k, v, mask=False, causal=False, window=None, bias=None, softcap=None, scale=None):
    """softmax(q k / sqrt(K)) v, head by head, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, n = np.zeros(q.shape), q.shape[1]
    distance = np.arange(n)[:, None] - np.arange(n)
    for b in range(q.shape[0]):
        seen = np.ones((n, n), bool)
        if mask:
            seen &= (SEGMENTS[b][:, None] == SEGMENTS[b][None]) & (SEGMENTS[b] > 0)[:, None]
        seen &= (distance >= 0) | (not causal)
        seen &= np.abs(distance) < (window or n)
        for h in range(q.shape[2]):
            g = h // (q.shape[2] // k.shape[2])
            scores = q[b, :, h] @ k[b, :, g].T * (q.shape[-1] ** -0.5 if scale is None else scale)
            scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
            scores = scores if bias is None else scores + np.asarray(bias, np.float64)[0, h]
            weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen
            total = weights.sum(-1, keepdims=True)
            out[b, :, h] = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ v[b, :, g]
    return out


def inputs(groups):
    return jax.random.normal(KEYS[1], (2, 7, groups, 8)), jax.random.normal(KEYS[2], (2, 7, groups, 8))


def asked(options):
    return {**options, "mask": masks.same_document(SEGMENTS) if options.get("mask") else None}


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", HERE)
def test_every_backend_equals_attention_written_by_hand_or_refuses(backend, case, groups):
    options, (k, v) = CASES[case], inputs(groups)
    if set(options) - {"causal", "scale"} - BACKENDS[backend].abilities:
        with pytest.raises(ConfigError, match="cannot do"):
            attend(Q_BTHK, k, v, backend=backend, **asked(options))
        return
    out = jax.jit(lambda *x: attend(*x, backend=backend, **asked(options)))(Q_BTHK, k, v)
    np.testing.assert_allclose(out, by_hand(Q_BTHK, k, v, **options), atol=3e-6)


@pytest.mark.parametrize("backend", [name for name in HERE if name != "einsum"])
def test_gradients_of_every_backend_agree_and_a_blind_row_has_none(backend):
    k, v = inputs(2)

    def loss(q, k, v, backend):
        return jnp.sin(attend(q, k, v, masks.same_document(SEGMENTS), True, backend, bias=BIAS)).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    mine, reference = gradient(Q_BTHK, k, v, backend), gradient(Q_BTHK, k, v, "einsum")
    for a, b in zip(mine, reference, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.isfinite(a).all()
    np.testing.assert_array_equal(mine[0][1, -2:], 0)


@pytest.mark.parametrize("backend", ["einsum", "blocks", "chunked"])
def test_fewer_queries_than_keys_stand_at_the_end(backend):
    k, v = inputs(4)
    attended = jax.jit(lambda q: attend(q, k, v, causal=True, window=4, backend=backend))
    np.testing.assert_allclose(attended(Q_BTHK[:, 2:]), attended(Q_BTHK)[:, 2:], atol=2e-6)


def test_the_chunked_backend_never_holds_all_scores(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 32)
    q = jax.ShapeDtypeStruct((1, 512, 2, 8), jnp.float32)

    def memory(backend):
        gradient = jax.grad(lambda q: attend(q, q, q, causal=True, backend=backend).sum())
        return jax.jit(gradient).lower(q).compile().memory_analysis().temp_size_in_bytes

    assert memory("chunked") < memory("einsum") / 4


def test_a_backend_that_cannot_is_refused():
    for name, needs, says in (("cudnn", set(), "runs on gpu"), ("flash", set(), "no attention backend")):
        with pytest.raises(ConfigError, match=says):
            choose(name, needs, "cpu")
    with pytest.raises(ConfigError, match=r"cannot do mask.* use einsum or blocks or chunked or xla"):
        choose("cudnn", {"mask"}, "gpu")
    assert choose("auto", {"mask"}, "gpu") == "xla"
    assert choose("auto", {"mask", "softcap"}, "gpu") == "einsum"


@pytest.mark.parametrize(("causal", "off", "spread"), [(False, 0.08, 0.05), (True, 0.1, 0.01)])
def test_dropped_weights_keep_the_mean(causal, off, spread):
    k, v = inputs(4)
    once = jax.jit(lambda key: attend(Q_BTHK, k, v, causal=causal, dropout=0.5, key=key))
    outs = jax.vmap(once)(jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose(outs.mean(0), attend(Q_BTHK, k, v, causal=causal), atol=off)
    assert outs.std(0).min() > spread


def test_blocks_of_a_causal_sequence_leave_out_the_keys_that_they_do_not_see(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 16)
    q = jax.ShapeDtypeStruct((1, 256, 2, 8), jnp.float32)

    def work(backend, **options):
        attended = jax.jit(lambda q: attend(q, q, q, causal=True, backend=backend, **options))
        return attended.lower(q).compile().cost_analysis()["flops"]

    assert work("blocks") < 0.65 * work("einsum")  # 10 of 16 blocks of scores
    assert work("blocks", window=64) < 0.5 * work("einsum")  # 7 of 16


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_keys_are_shared_by_group_and_the_shape_is_kept(groups):
    x = jax.random.normal(KEYS[0], (2, 7, 16))
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    model = Attention(heads=4, groups=groups)
    (out, _), variables = jax.eval_shape(model.init_with_output, jax.random.key(1), x, positions)
    assert variables["params"]["key"]["kernel"].shape == (16, groups, 4)
    assert out.shape == x.shape
    with pytest.raises(ConfigError, match="does not divide"):
        Attention(heads=3).init(jax.random.key(1), x, positions)


def test_attention_over_a_memory_has_its_length_and_width_and_no_positions():
    x, memory = jax.random.normal(KEYS[0], (2, 7, 16)), jax.random.normal(KEYS[1], (2, 5, 12))
    model = Attention(heads=4)
    (out, _), variables = jax.jit(model.init_with_output)(jax.random.key(1), x, memory=memory)
    assert (out.shape, variables["params"]["value"]["kernel"].shape) == ((2, 7, 16), (12, 4, 4))
    swapped, _ = model.apply(variables, x, memory=memory[:, ::-1])
    np.testing.assert_allclose(out, swapped, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("groups", [4, 2])
def test_attention_weights_are_what_the_values_are_weighed_with_and_rows_sum_to_one(case, groups):
    k, v = inputs(groups)
    options = asked(CASES[case])
    weights = attention.attention_weights(Q_BTHK, k, **options)
    total = np.asarray(weights.sum(-1))
    blind = np.asarray(attend(Q_BTHK, k, jnp.ones_like(v), **options))[..., 0].transpose(0, 2, 1) == 0
    np.testing.assert_allclose(total, ~blind, atol=1e-6)
    out = jnp.einsum("bhts,bshk->bthk", weights, jnp.repeat(v, 4 // groups, axis=2))
    np.testing.assert_allclose(out, by_hand(Q_BTHK, k, v, **CASES[case]), atol=1e-5)


def test_weights_are_sown_when_asked_for_and_cost_nothing_otherwise():
    model, x = Attention(heads=2, rotary=None, dropout=0.5, backend="xla"), jax.random.normal(KEYS[0], (2, 5, 8))
    variables = jax.jit(model.init)(KEYS[1], x)
    assert variables.keys() == {"params"}
    (out, _), seen = model.apply(variables, x, mutable=["intermediates"])
    (weights,) = seen["intermediates"]["weights"]
    assert weights.shape == (2, 2, 5, 5)
    np.testing.assert_array_equal(out, model.apply(variables, x)[0])
    plain = str(jax.make_jaxpr(lambda v, x: model.apply(v, x)[0])(variables, x))
    asked_for = str(jax.make_jaxpr(lambda v, x: model.apply(v, x, mutable=["intermediates"])[0][0])(variables, x))
    assert plain.count("dot_general") < asked_for.count("dot_general")
