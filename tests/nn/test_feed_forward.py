"""Feed-forward and linear: shapes, names and what the maths says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.nn.embedding import HashedNgrams, hash_ngrams
from fmjax.nn.feed_forward import FeedForward, gelu
from fmjax.nn.linear import Linear

X = jax.random.normal(jax.random.key(0), (2, 5, 8))


def test_a_linear_map_over_several_axes_is_the_einsum():
    wide = Linear((4, 3), use_bias=True)
    v = wide.init(jax.random.key(1), X)
    y = wide.apply(v, X)
    np.testing.assert_allclose(y, jnp.einsum("btd,dhk->bthk", X, v["params"]["kernel"]), atol=1e-6)
    back = Linear((8,), contract=2)
    w = back.init(jax.random.key(2), y)
    np.testing.assert_allclose(back.apply(w, y), jnp.einsum("bthk,hkd->btd", y, w["params"]["kernel"]), atol=1e-6)


@pytest.mark.parametrize("kind", ["gelu", "relu2", "swiglu", "geglu"])
def test_feed_forward_is_what_its_formula_says(kind):
    model = FeedForward(16, kind)
    p = (v := model.init(jax.random.key(1), X))["params"]
    up = X @ p["up"]["kernel"]
    wide = {
        "gelu": lambda: jax.nn.gelu(up),
        "relu2": lambda: jax.nn.relu(up) ** 2,
        "swiglu": lambda: jax.nn.silu(X @ p["gate"]["kernel"]) * up,
        "geglu": lambda: jax.nn.gelu(X @ p["gate"]["kernel"]) * up,
    }[kind]()
    np.testing.assert_allclose(model.apply(v, X), wide @ p["down"]["kernel"], atol=1e-5)


def test_gelu_has_the_values_and_derivatives_of_jax_nn_gelu_in_every_mode():
    x = jnp.linspace(-12, 12, 201)
    for mine, reference in ((gelu, jax.nn.gelu), (jax.vmap(jax.grad(gelu)), jax.vmap(jax.grad(jax.nn.gelu)))):
        np.testing.assert_allclose(mine(x), reference(x), atol=5e-6)
        np.testing.assert_allclose(*(jax.jvp(f, (x,), (jnp.cos(x),))[1] for f in (mine, reference)), atol=5e-6)
    assert jax.grad(lambda x: gelu(x).sum())(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_weights_stay_float32_and_compute_takes_the_dtype():
    model = FeedForward(16, dtype="bfloat16")
    v = model.init(jax.random.key(1), X)
    assert {x.dtype for x in jax.tree.leaves(v)} == {jnp.dtype("float32")}
    assert model.apply(v, X).dtype == jnp.bfloat16


def test_an_unknown_activation_is_one_line():
    with pytest.raises(ConfigError, match="did you mean 'gelu'"):
        FeedForward(16, "gelo").init(jax.random.key(0), X)


def test_an_ngram_hash_depends_on_its_n_tokens_and_no_others():
    tokens = jax.random.randint(jax.random.key(0), (1, 12), 0, 50)
    hash3 = jax.jit(lambda t: hash_ngrams(t, 3))
    code = hash3(tokens)
    moved = hash3(jnp.roll(tokens, 1, axis=1))
    np.testing.assert_array_equal(code[:, 2:-1], moved[:, 3:])
    changed = hash3(tokens.at[0, 5].add(1))
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(code != changed)[0]), [5, 6, 7])


def test_an_ngram_never_reaches_into_another_document():
    tokens = jax.random.randint(jax.random.key(0), (1, 8), 0, 50)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2]])
    alone = hash_ngrams(tokens[:, 4:], 3)
    np.testing.assert_array_equal(hash_ngrams(tokens, 3, segments)[:, 4:], alone)
    model = HashedNgrams((2, 3), 64, 8)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), tokens, segments)
    assert out.shape == (1, 8, 8)
