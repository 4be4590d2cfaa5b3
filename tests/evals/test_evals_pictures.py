"""Pictures of a run: the worst mistakes are the worst, maps are what the net computed, and a PNG is what was drawn."""

import base64
import io
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.evals import maps, pictures
from fmjax.evals.maps import Attended, Features, attention_maps, feature_maps, inside, rollout
from fmjax.evals.mistakes import mistakes
from fmjax.models.convnet import ConvNet
from fmjax.models.vit import ViT

RNG = np.random.default_rng(0)
N, BATCH = 13, 5
IMAGES = RNG.integers(0, 256, (N, 8, 8, 1)).astype(np.uint8)
LABELS = (np.arange(N) % 3).astype(np.int32)
LOGITS = RNG.normal(size=(N, 3)).astype(np.float32) * 2


class Data:
    """Three batches, the last one padded; `classes` are found where a pipeline has them."""

    endless, examples, batch_size = False, N, BATCH

    class source:
        classes = ("ant", "bee", "cow")

    def __iter__(self):
        whole = {"image": IMAGES, "label": LABELS, "features": LOGITS, "valid": np.ones(N, np.float32)}
        for start in range(0, N, BATCH):
            part = {k: v[start : start + BATCH] for k, v in whole.items()}
            short = BATCH - len(part["valid"])
            yield {k: np.concatenate([v, np.zeros((short, *v.shape[1:]), v.dtype)]) for k, v in part.items()}


DATA = Data()


def told(state, batch):
    return {"logits": batch["features"], "targets": batch["label"], "weights": batch["valid"]}


def opened(row):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(row["picture"]))))


def test_the_mistakes_are_the_most_confident_ones_of_all_batches():
    found = mistakes(DATA, count=4).evaluate(told, None, iter)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    called = LOGITS.argmax(1)
    wrong = [i for i in np.argsort(-p.max(1)) if called[i] != LABELS[i]]
    assert found.numbers == {"errors": len(wrong)}
    names = Data.source.classes
    captions = [f"{names[LABELS[i]]}, called {names[called[i]]} ({p[i].max():.1%}), row {i}" for i in wrong[:4]]
    assert [row["caption"] for row in found.artifacts["mistakes"]] == captions
    for row, i in zip(found.artifacts["mistakes"], wrong):
        np.testing.assert_array_equal(opened(row)[::9, ::9, 0], IMAGES[i, ..., 0])  # enlarged nine times


def test_a_model_without_mistakes_shows_none_and_one_that_diverged_is_no_crash():
    right = lambda state, batch: {**told(state, batch), "logits": jax.nn.one_hot(batch["label"], 3)}  # noqa: E731
    assert mistakes(DATA).evaluate(right, None, iter).artifacts == {"mistakes": []}
    broken = lambda state, batch: {**told(state, batch), "logits": batch["features"] * jnp.nan}  # noqa: E731
    assert mistakes(DATA, count=3).evaluate(broken, None, iter).numbers["errors"] > 0


def net_of(module):
    return Net(module, jax.jit(module.init)(jax.random.key(0), IMAGES[:2] / 255.0)["params"])


@pytest.fixture(scope="module")
def vit():
    return net_of(ViT(patch=(4, 2), image_size=8, width=8, depth=2, heads=2, classes=3, registers=1))


@pytest.fixture(scope="module")
def convnet():
    return net_of(ConvNet(widths=(3, 4), dense=8, classes=3))


def test_maps_are_what_the_module_at_the_address_gives(convnet):
    x = IMAGES[:2] / np.float32(255)
    found = Features("conv_1")({"model": convnet}, {"image": x})["maps"]
    # The head reads relu of the last maps: the rest of the network from them must give the network's own logits.
    flat = nn.relu(found).reshape(2, -1)
    p = convnet.params
    hidden = nn.relu(flat @ p["dense"]["kernel"] + p["dense"]["bias"])
    np.testing.assert_allclose(hidden @ p["head"]["kernel"] + p["head"]["bias"], convnet(x), atol=1e-5)
    with pytest.raises(ConfigError, match=r"no module 'conv1' .*did you mean 'conv_"):
        Features("conv1")({"model": convnet}, {"image": x})
    with pytest.raises(ConfigError, match="gives maps"):
        Features("dense")({"model": convnet}, {"image": x})


def test_attention_of_every_block_is_sown_whether_scanned_or_not(vit):
    x = IMAGES[:2] / np.float32(255)
    sown = inside(vit, x, calls=False)
    assert sorted(sown) == [f"encoder/block_{i}/attention/weights" for i in range(2)]
    for weights in sown.values():
        assert weights.shape == (2, 2, 10, 10)  # a class token, a register, 2 x 4 patches
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    scanned = Net(vit.module.clone(scan=True), vit.params)
    for name, weights in inside(scanned, x, calls=False).items():
        np.testing.assert_allclose(weights, sown[name], atol=1e-6)


def test_heads_and_rollout_are_the_class_tokens_rows_over_the_patches(vit):
    x = IMAGES[:2] / np.float32(255)
    first, last = inside(vit, x, calls=False).values()
    found = Attended()({"model": vit}, {"image": x})
    np.testing.assert_allclose(found["heads"], last[:, :, 0, 2:].reshape(2, 2, 2, 4), atol=1e-6)
    layers = [np.asarray(w, np.float64).mean(1) / 2 + np.eye(10) / 2 for w in (first, last)]
    np.testing.assert_allclose(found["rollout"], (layers[1] @ layers[0])[:, 0, 2:].reshape(2, 2, 4), atol=1e-6)
    earlier = Attended(block=0)({"model": vit}, {"image": x})
    np.testing.assert_allclose(earlier["heads"], first[:, :, 0, 2:].reshape(2, 2, 2, 4), atol=1e-6)
    with pytest.raises(ConfigError, match="there is no block 2: the net has 2"):
        Attended(block=2)({"model": vit}, {"image": x})


def test_a_rollout_of_attention_that_stays_stays_and_rows_sum_to_one():
    stays = jnp.broadcast_to(jnp.eye(4), (3, 1, 4, 4))
    np.testing.assert_allclose(rollout(stays)[0], np.eye(4), atol=1e-6)
    some = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 2, 4, 4)))
    np.testing.assert_allclose(rollout(some).sum(-1), 1, atol=1e-6)


def test_a_network_without_attention_over_patches_is_refused(convnet):
    with pytest.raises(ConfigError, match="ConvNet shows no attention over patches"):
        Attended()({"model": convnet}, {"image": IMAGES[:2] / np.float32(255)})


def test_evaluators_draw_each_image_and_then_its_maps(vit, convnet):
    def seen(net, what, state, batch):
        return what({"model": net}, {**batch, "image": batch["image"] / jnp.float32(255)})

    attended = attention_maps(DATA, images=2)
    rows = attended.evaluate(partial(seen, vit, attended.predict), None, iter).artifacts["maps"]
    assert [row["caption"] for row in rows] == ["image", "head 0", "head 1", "rollout"] * 2
    assert [row["group"] for row in rows[::4]] == ["image 0 (ant)", "image 1 (bee)"]
    features = feature_maps(DATA, "conv_0", images=1, most=2)
    rows = features.evaluate(partial(seen, convnet, features.predict), None, iter).artifacts["maps"]
    values = Features("conv_0")({"model": convnet}, {"image": IMAGES[:1] / np.float32(255)})["maps"]
    busiest = sorted(np.argsort(-np.asarray(values).std((0, 1, 2)))[:2].tolist())
    assert [row["caption"].split(":")[0] for row in rows] == ["image", *(f"channel {c}" for c in busiest)]
    drawn = opened(rows[1])[::18, ::18, 0]
    np.testing.assert_allclose(drawn, pictures.levels(values[0, ..., busiest[0]]) * 255, atol=0.51)


def test_what_shows_nothing_is_refused():
    class Endless(Data):
        endless = True

    for make in (mistakes, attention_maps, partial(feature_maps, address="conv_0")):
        with pytest.raises(ConfigError, match="use one_pass"):
            make(Endless())
    with pytest.raises(ConfigError, match="count=0"):
        mistakes(DATA, count=0)
    with pytest.raises(ConfigError, match="at least 1"):
        attention_maps(DATA, images=0)
    with pytest.raises(ConfigError, match="shown as images"):
        mistakes(DATA).check(told, None, {"features": LOGITS, "label": LABELS, "valid": np.ones(N)})
    questions = lambda state, batch: {"logits": batch["features"], "targets": batch["features"]}  # noqa: E731
    with pytest.raises(ConfigError, match="one class for each"):
        mistakes(DATA).check(questions, None, next(iter(DATA)))


@pytest.mark.parametrize("shape", [(8, 8, 1), (500, 20, 3), (100, 90, 4), (3, 80, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_image_is_shown_in_a_size_for_the_eye(shape, dtype):
    image = RNG.random(shape)
    image = image.astype(dtype) if dtype != np.uint8 else (image * 255).astype(np.uint8)
    out = pictures.shown(image)
    assert out.dtype == np.uint8
    assert out.shape[-1] == 3
    assert pictures.SMALLEST <= max(out.shape[:2]) <= pictures.LARGEST
    assert pictures.over(image, RNG.random((2, 3))).shape == out.shape


def test_levels_survive_what_is_not_finite_and_heat_only_gets_lighter():
    np.testing.assert_array_equal(pictures.levels(np.array([1.0, 3.0, np.nan, 2.0, np.inf])), [0, 1, 0, 0.5, 0])
    assert (pictures.levels(np.full(3, 7.0)) == 0).all()
    assert (pictures.levels(np.full(3, np.nan)) == 0).all()
    light = pictures.coloured(np.linspace(0, 1, 50)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()
    assert maps._natural("block_10") > maps._natural("block_2")
