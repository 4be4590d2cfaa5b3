"""Recurrent layers: Flax's cells with their gradients, documents apart, padding without effect, states that go on."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmjax.core.errors import ConfigError
from fmjax.core.trees import count, flatten
from fmjax.nn.linear_recurrence import LinearRecurrence, last_real, linear_scan
from fmjax.nn.recurrent import GRU, LSTM, Bidirectional, Elman, starts

B, T, D, H = 2, 9, 5, 6
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)  # numpy: nothing to compile
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 3, 3, 3], [1, 1, 1, 2, 2, 2, 0, 0, 0]])
LAYERS = {"elman": Elman, "lstm": LSTM, "gru": GRU, "linear": LinearRecurrence}
GATED = ("elman", "lstm", "gru")
STARTS, LAST = jax.jit(starts), jax.jit(partial(last_real, n=3))


def fresh_and_noisy(model):
    """Fresh weights, and weights with nothing at 0, so that a forgotten bias shows."""

    def noise(w):
        return w + 0.1 * jax.random.normal(jax.random.key(w.size), w.shape)

    @jax.jit
    def both():
        fresh = model.init(jax.random.key(1), X)
        return fresh, jax.tree.map(noise, fresh)

    return both()


@cache
def build(name):
    model = LAYERS[name](H)
    fresh, variables = fresh_and_noisy(model)
    return model, variables, jax.jit(model.apply), fresh["params"]


@pytest.fixture(scope="module", params=LAYERS)
def made(request):
    return build(request.param)[:3]


def to_flax(name, params):
    """Our weights in the places of Flax's cells."""
    w, u, b = params["input"]["kernel"], params["recurrent"]["kernel"], params["bias"]
    if name == "elman":
        return {"i": {"kernel": w, "bias": b}, "h": {"kernel": u}}
    gates = "ifgo" if name == "lstm" else "rzn"
    cut = partial(jnp.split, indices_or_sections=len(gates), axis=-1)
    out = {}
    for gate, wg, ug, bg in zip(gates, cut(w), cut(u), cut(b), strict=True):
        on_input = name == "gru"
        out[f"i{gate}"] = {"kernel": wg} | ({"bias": bg} if on_input else {})
        out[f"h{gate}"] = {"kernel": ug} | ({} if on_input else {"bias": bg})
    if name == "gru":
        out["hn"]["bias"] = params["candidate_bias"]
    return out


@pytest.mark.parametrize("name", GATED)
def test_outputs_and_gradients_are_those_of_flax(name):
    model, variables, *_ = build(name)
    cell = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[name](H)
    theirs = nn.RNN(cell)

    def mine(params, x):
        y, state = model.apply({"params": params}, x)
        return jnp.sin(y).sum() + jnp.cos(state["hidden"]).sum(), y

    def flax(params, x):
        y = theirs.apply({"params": {"cell": to_flax(name, params)}}, x)
        return jnp.sin(y).sum() + jnp.cos(y[:, -1]).sum(), y

    both = [jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(variables["params"], X) for f in (mine, flax)]
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6, rtol=1e-5), *both)


def test_the_associative_scan_is_the_loop_and_so_is_its_gradient():
    a, b = 1 / (1 + np.exp(-3 * X)), X[::-1]
    a[:, 4] = 0.0  # a border

    def loop(a, b):
        step = lambda h, now: (now[0] * h + now[1],) * 2  # noqa: E731
        return jax.lax.scan(step, jnp.zeros((B, D)), (a.swapaxes(0, 1), b.swapaxes(0, 1)))[1].swapaxes(0, 1)

    def of(scan):
        return jax.jit(jax.value_and_grad(lambda a, b: jnp.sin(3 * scan(a, b)).sum(), (0, 1)))(a, b)

    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6, rtol=1e-5), of(linear_scan), of(loop))


def test_a_linear_recurrence_is_its_formulas_token_by_token():
    _model, variables, apply, _ = build("linear")
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), variables["params"])
    x = np.asarray(X, np.float64)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    gelu = lambda v: v * sigmoid(2 * np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))  # noqa: E731
    wide, h, want = np.pad(x @ p["input"]["kernel"], ((0, 0), (3, 0), (0, 0))), np.zeros((B, H)), []
    for t in range(T):
        u = (wide[:, t : t + 4] * p["conv_kernel"][:, 0]).sum(1) + p["conv_bias"]
        r, i = (sigmoid(u @ p[g]["kernel"] + p[g]["bias"]) for g in ("recurrence_gate", "input_gate"))
        a = np.exp(-8 * np.log1p(np.exp(p["decay"])) * r)
        h = a * h + np.sqrt(1 - a**2) * i * u
        gate = gelu(x[:, t] @ p["gate"]["kernel"])
        want.append((gate * h) @ p["out"]["kernel"])
    np.testing.assert_allclose(apply(variables, X)[0], np.stack(want, 1), atol=2e-6)


def test_nothing_comes_from_the_future(made):
    _model, variables, apply = made
    before, after = apply(variables, X)[0], apply(variables, np.concatenate([X[:, :5], X[:, 5:] + 1], 1))[0]
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_packed_documents_are_as_if_alone_gradients_too(made):
    model, variables, _apply = made

    def packed(v, x):
        return model.apply(v, x, SEGMENTS)[0].reshape(6, 3, -1)[:5]

    def alone(v, x):
        return model.apply(v, x.reshape(6, 3, D))[0][:5]

    def of(f):
        def loss(v, x):
            y = f(v, x)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables, X)

    jax.tree.map(partial(np.testing.assert_allclose, atol=5e-6, rtol=1e-5), of(packed), of(alone))


def test_padding_leaves_the_state_alone(made):
    model, variables, apply = made
    state = apply(variables, X[:, :3], None, model.init_state(B))[1]
    padded = np.concatenate([X[:, :3], 9 * X[:, :6]], 1)
    after = apply(variables, padded, np.array([[1] * 3 + [0] * 6] * 2))[1]
    before = apply(variables, np.roll(padded, 6, 1), np.array([[0] * 6 + [1] * 3] * 2))[1]
    for name, leaf in state.items():
        np.testing.assert_allclose(after[name], leaf, atol=1e-6)
        np.testing.assert_allclose(before[name], leaf, atol=1e-6)
    nothing = apply(variables, X, np.zeros((B, T), int))[1]
    jax.tree.map(np.testing.assert_array_equal, nothing, model.init_state(B))


@pytest.mark.parametrize("packed", [False, True])
def test_step_by_step_equals_all_at_once(made, packed):
    model, variables, apply = made
    segments = np.array([[0, 1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 3, 0]])
    whole, last = apply(variables, X, *([segments] if packed else []))
    state, pieces = model.init_state(B), []
    for i in (0, 3, 6):
        y, state = apply(variables, X[:, i : i + 3], segments[:, i : i + 3] if packed else None, state)
        pieces.append(y)
    real = np.asarray(segments > 0) if packed else np.ones((B, T), bool)
    np.testing.assert_allclose(np.concatenate(pieces, 1)[real], np.asarray(whole)[real], atol=2e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6), state, last)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_both_directions_read_each_document_whole_and_padding_changes_nothing(name):
    model = Bidirectional(LAYERS[name], H)
    _, variables = fresh_and_noisy(model)
    apply = jax.jit(model.apply)
    alone = apply(variables, X[1:, 3:6])
    np.testing.assert_allclose(np.asarray(apply(variables, X, SEGMENTS))[1:, 3:6], alone, atol=1e-6)
    junk = np.where((SEGMENTS > 0)[..., None], X, np.float32(1e3))
    np.testing.assert_allclose(np.asarray(apply(variables, junk, SEGMENTS))[1:, 3:6], alone, atol=1e-6)
    half = jax.jit(LAYERS[name](H // 2).apply)
    forward = half({"params": variables["params"]["forward"]}, X[1:, 3:6])[0]
    backward = half({"params": variables["params"]["backward"]}, X[1:, 3:6][:, ::-1])[0]
    np.testing.assert_allclose(alone, np.concatenate([forward, np.asarray(backward)[:, ::-1]], -1), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 3))
def test_borders_and_the_last_tokens_are_those_of_a_loop(ids, before):
    held, want, real = before, [], []
    for i, segment in enumerate(ids):
        want.append(segment > 0 and segment != held)
        held = segment or held
        real += [i] * (segment > 0)
    start, last = STARTS(np.array([ids]), np.array([before]))
    np.testing.assert_array_equal(start[0], want)
    assert last[0] == held
    values, segments = LAST(np.arange(8)[None, :, None], np.array([ids]))
    kept = real[-3:]
    assert np.asarray(values[0, 3 - len(kept) :, 0]).tolist() == kept
    assert np.asarray(segments[0]).tolist() == [0] * (3 - len(kept)) + [ids[i] for i in kept]


def test_fresh_weights_are_orthogonal_and_remember():
    params = {name: build(name)[3] for name in LAYERS}
    for name, gates in (("elman", 1), ("lstm", 4), ("gru", 3)):
        for block in np.split(np.asarray(params[name]["recurrent"]["kernel"]), gates, axis=1):
            np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-5)
        bias = np.asarray(params[name]["bias"]).reshape(gates, H)
        np.testing.assert_array_equal(bias.sum(1), [0] if gates == 1 else [0, H, *[0] * (gates - 2)])
    decay = np.exp(-8 * np.log1p(np.exp(params["linear"]["decay"])))
    assert (decay > 0.9).all()
    assert (decay < 0.999).all()


def test_weights_have_addresses_and_are_counted_by_hand():
    sizes = {"elman": 1, "lstm": 4, "gru": 3}
    for name, gates in sizes.items():
        params = flatten(jax.eval_shape(LAYERS[name](H).init, jax.random.key(1), X)["params"])
        assert {"input/kernel", "recurrent/kernel", "bias"} <= set(params)
        assert count(params) == gates * (D * H + H * H + H) + (H if name == "gru" else 0)
        assert LAYERS[name](H).flops(D) == 2 * gates * (D * H + H * H)
    params = jax.eval_shape(LinearRecurrence(H).init, jax.random.key(1), X)["params"]
    assert count(params) == 2 * D * H + 4 * H + H + 2 * (H * H + H) + H + H * D
    assert LinearRecurrence(H).flops(D) == 2 * (3 * D * H + 2 * H * H + 4 * H)


def test_bfloat16_computes_and_float32_remembers(made):
    model, variables, apply = made
    half = type(model)(H, dtype="bfloat16")

    def loss(v):
        y, state = half.apply(v, X)
        return y.astype(jnp.float32).sum(), (y, state)

    gradient, (y, state) = jax.jit(jax.grad(loss, has_aux=True))(variables)
    assert y.dtype == jnp.bfloat16
    assert state["hidden"].dtype == jnp.float32
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.asarray(y, np.float32), apply(variables, X)[0], atol=0.1)


def test_turns_of_the_loop_change_nothing():
    _model, variables, apply, _ = build("lstm")
    unrolled = jax.jit(LSTM(H, unroll=4).apply)(variables, X)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), unrolled, apply(variables, X))


def test_wrong_options_are_one_line():
    for model, says in (
        (LSTM(0), "features=0"),
        (GRU(H, unroll=0), "unroll=0"),
        (LinearRecurrence(H, taps=1), "taps=1"),
        (Bidirectional(LSTM, 5), "even number"),
    ):
        with pytest.raises(ConfigError, match=says):
            jax.eval_shape(model.init, jax.random.key(0), X)
