"""Supervised objectives: losses against numpy and scikit-learn, padding that counts for nothing, checks by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.metrics import log_loss, mean_squared_error

from fmjax.core.errors import ConfigError, DataError
from fmjax.core.nets import Net
from fmjax.objectives.supervised import Classify, MultiLabel, Regress, Shrink, Supervised

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3)).astype(np.float32) * 3
LABEL = np.array([0, 2, 1, 1, 0, 2], np.int32)
VALID = np.array([1, 1, 1, 1, 0, 0], np.float32)


class Echo(nn.Module):
    """Gives back what it gets, so that logits are what the test says; has a weight, and sows what it is told."""

    sown: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        one = self.param("one", nn.initializers.ones, ())
        self.sow("losses", "extra", jnp.asarray(self.sown))
        return x * one


ECHO = Echo()


def net(module=ECHO, train=True):
    return {"model": Net(module, {"one": jnp.ones(())}, {}, KEY, train)}


def loss_of(objective, batch, module=ECHO):
    return objective.loss("model", net(module), batch, {}, KEY)


def batch_of(**more):
    return {"features": LOGITS, "label": LABEL, "valid": VALID, **more}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


CLASSIFY = Classify(inputs_from="features")


def test_cross_entropy_is_scikit_learns_on_the_real_rows():
    loss, metrics = loss_of(CLASSIFY, batch_of())
    assert float(loss.value()) == pytest.approx(log_loss(LABEL[:4], softmax(LOGITS[:4]), labels=[0, 1, 2]), rel=1e-5)
    assert loss.weight == 4
    assert float(metrics["accuracy"].value()) == (LOGITS.argmax(-1) == LABEL)[:4].mean()


def test_padding_may_hold_anything_and_gives_no_gradient():
    rubbish = np.where(VALID[:, None] > 0, LOGITS, np.nan)
    wrong = np.where(VALID > 0, LABEL, -7).astype(np.int32)

    def by_weight(one, batch):
        nets = {"model": Net(Echo(), {"one": one}, {}, KEY, True)}
        return CLASSIFY.loss("model", nets, batch, {}, KEY)[0].sum

    clean = jax.value_and_grad(by_weight)(1.0, batch_of())
    finite = jax.value_and_grad(by_weight)(
        1.0, batch_of(features=np.where(VALID[:, None] > 0, LOGITS, 1e3), label=wrong)
    )
    assert finite == clean
    assert by_weight(1.0, batch_of(features=rubbish)) == clean[0]


def test_smoothing_is_the_mixture_with_the_uniform_distribution():
    loss, _ = loss_of(Classify(inputs_from="features", smoothing=0.1), batch_of())
    log_p = np.log(softmax(LOGITS))[:4]
    wanted = -(0.9 * log_p[np.arange(4), LABEL[:4]] + 0.1 * log_p.mean(-1)).mean()
    assert float(loss.value()) == pytest.approx(wanted, rel=1e-5)


def test_class_weights_and_row_weights_count_in_sum_and_weight():
    weights = np.array([1, 2, 3, 0, 5, 6], np.float32)
    objective = Classify(inputs_from="features", class_weights=(1.0, 0.5, 4.0))
    loss, _ = loss_of(objective, batch_of(weights=weights))
    w = (VALID * weights * np.array([1, 0.5, 4])[LABEL])[:4]
    wanted = log_loss(LABEL[:4], softmax(LOGITS[:4]), sample_weight=w, labels=[0, 1, 2])
    assert float(loss.value()) == pytest.approx(wanted, rel=1e-5)
    assert float(loss.weight) == pytest.approx(w.sum())


def test_what_a_net_sows_is_added_once_to_the_mean_and_not_reported_as_loss():
    plain, _ = loss_of(CLASSIFY, batch_of())
    more, metrics = loss_of(CLASSIFY, batch_of(), Echo(sown=0.25))
    assert float(more.value()) == pytest.approx(float(plain.value()) + 0.25, rel=1e-5)
    assert metrics["loss"].sum == plain.sum


def test_several_labels_are_scikit_learns_log_loss_averaged_over_classes():
    label = RNG.integers(0, 2, (6, 3)).astype(np.int32)
    loss, _ = loss_of(MultiLabel(inputs_from="features"), batch_of(label=label))
    p = 1 / (1 + np.exp(-LOGITS[:4]))
    wanted = np.mean([log_loss(label[:4, k], p[:, k], labels=[0, 1]) for k in range(3)])
    assert float(loss.value()) == pytest.approx(wanted, rel=1e-4)


def test_one_logit_takes_labels_without_an_axis():
    label = np.array([0, 1, 1, 0, 1, 1], np.int32)
    a, _ = loss_of(MultiLabel(inputs_from="features"), batch_of(features=LOGITS[:, :1], label=label))
    b, _ = loss_of(MultiLabel(inputs_from="features"), batch_of(features=LOGITS[:, :1], label=label[:, None]))
    assert a == b


def test_regression_is_scikit_learns_mean_squared_error():
    targets = RNG.normal(size=(6, 3)).astype(np.float32)
    objective = Regress(inputs_from="features")
    loss, _ = loss_of(objective, batch_of(targets=targets))
    assert float(loss.value()) == pytest.approx(mean_squared_error(targets[:4], LOGITS[:4]), rel=1e-5)
    out = objective.predict("predict", net(train=False), batch_of(targets=targets))
    assert out.keys() == {"values", "targets", "weights"}


def test_a_regression_of_one_number_takes_targets_without_an_axis():
    objective = Regress(inputs_from="features")
    one = batch_of(features=LOGITS[:, :1], targets=np.ones(6, np.float32))
    two = batch_of(features=LOGITS[:, :1], targets=np.ones((6, 1), np.float32))
    assert loss_of(objective, one)[0] == loss_of(objective, two)[0]


def test_predictions_have_the_words_of_evaluators():
    out = CLASSIFY.predict("predict", net(train=False), batch_of())
    np.testing.assert_array_equal(out["weights"], VALID)
    np.testing.assert_array_equal(out["targets"], LABEL)
    np.testing.assert_allclose(out["logits"], LOGITS)
    unlabelled = {k: v for k, v in batch_of().items() if k != "label"}
    assert "targets" not in CLASSIFY.predict("predict", net(train=False), unlabelled)
    with pytest.raises(KeyError, match="predicts nothing called 'embed'"):
        CLASSIFY.predict("embed", net(train=False), batch_of())


def shift(key, x):
    return x + jax.random.uniform(key, (len(x), 1, 1, 1))


IMAGES = {
    "image": RNG.integers(0, 256, (4, 2, 2, 3)).astype(np.uint8),
    "label": np.zeros(4, np.int32),
    "valid": np.ones(4),
}


def prepare(objective, train, key=KEY):
    return objective.prepare({}, IMAGES, {}, 0, key, train)[0]["image"]


def test_images_are_scaled_then_augmented_in_training_only_then_normalised():
    plain = IMAGES["image"] / np.float32(255)
    np.testing.assert_allclose(prepare(Classify(), True), plain, rtol=1e-6)
    objective = Classify(augment=(shift,), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    np.testing.assert_allclose(
        prepare(objective, False), (plain - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1], rtol=1e-4, atol=1e-5
    )
    moved = prepare(objective, True) - prepare(objective, False)
    assert (np.abs(moved) > 0).all()
    assert not np.allclose(moved[0], moved[1])  # an example has randomness of its own
    assert not np.allclose(prepare(objective, True, jax.random.key(1)), prepare(objective, True))


def test_two_augmentations_draw_from_two_keys():
    twice = prepare(Classify(augment=(shift, shift)), True) - prepare(Classify(), True)
    once = prepare(Classify(augment=(shift,)), True) - prepare(Classify(), True)
    assert not np.allclose(twice, 2 * once)


SHAPES = {"logits": jax.ShapeDtypeStruct((6, 3), np.float32)}
VALUES = {"values": jax.ShapeDtypeStruct((6, 3), np.float32)}


@pytest.mark.parametrize(("objective", "change", "outputs", "said"), [
    (CLASSIFY, {"label": np.array([0, 1, 2, 3, 0, 0])}, SHAPES, "label 3 is out of range: the model has 3 classes"),
    (CLASSIFY, {"label": np.array([0, -1, 2, 1, 0, 0])}, SHAPES, "label -1 is out of range"),
    (CLASSIFY, {"label": np.zeros((6, 3), np.int32)}, SHAPES, "must be one integer an example, and is int32"),
    (CLASSIFY, {"label": np.zeros(6, np.float32)}, SHAPES, "must be one integer an example, and is float32"),
    (CLASSIFY, {"label": None}, SHAPES, "reads 'label', and the batch holds features, valid"),
    (Classify(), {}, SHAPES, "reads 'image', and the batch holds features, label, valid"),
    (MultiLabel(inputs_from="features"), {"label": np.full((6, 3), 2)}, SHAPES, "must be 0 or 1, and holds 2"),
    (MultiLabel(inputs_from="features"), {"label": np.zeros((6, 4))}, SHAPES, "they must agree"),
    (Regress(inputs_from="features"), {"targets": np.zeros((6, 2))}, VALUES, "the model gives"),
    (Regress(inputs_from="features"), {}, VALUES, "reads 'targets'"),
])  # fmt: skip
def test_a_batch_that_cannot_be_used_is_refused(objective, change, outputs, said):
    batch = {k: v for k, v in batch_of(**change).items() if v is not None}
    with pytest.raises(DataError, match=said):
        objective.check(batch, outputs)


def test_padding_is_not_checked():
    CLASSIFY.check(batch_of(label=np.array([0, 1, 2, 1, -5, 99])), SHAPES)


def test_an_objective_without_losses_says_what_is_missing():
    with pytest.raises(TypeError, match="Supervised must define losses"):
        Supervised(inputs_from="features").loss("model", net(), batch_of(), {}, KEY)


def test_losses_are_float32_whatever_the_net_computes_in():
    out, _ = loss_of(CLASSIFY, batch_of(features=jnp.asarray(LOGITS, jnp.bfloat16)))
    assert out.sum.dtype == jnp.float32
    np.testing.assert_allclose(
        out.value(), optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABEL)[:4].mean(), rtol=0.02
    )


def test_pixels_that_are_not_finite_are_found_in_real_rows_only():
    image = np.zeros((6, 2, 2, 1), np.float32)
    image[4, 1, 0] = np.nan  # a row of padding
    batch = {"image": image, "label": LABEL, "valid": VALID}
    outputs = {"logits": jax.ShapeDtypeStruct((6, 3), jnp.float32)}
    Classify().check(batch, outputs)
    image[2, 0, 1], image[3, 0, 0] = -np.inf, np.inf
    with pytest.raises(DataError, match=r"the image in row 2 holds -inf at \(0, 1, 0\), and 1 more: clean the data"):
        Classify().check(batch, outputs)


def mixed_batch():
    kept = np.array([1.0, 0.3, 0.8, 0.5, 1.0, 0.2], np.float32)
    return batch_of(mix_with=LABEL[::-1], mix_weight=kept), kept


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [(), (1.0, 0.5, 4.0)])
def test_a_mixed_row_counts_as_two_rows_that_share_its_weight(smoothing, class_weights):
    objective = Classify(inputs_from="features", smoothing=smoothing, class_weights=class_weights)
    batch, kept = mixed_batch()
    both = {
        "features": np.concatenate([LOGITS, LOGITS]),
        "label": np.concatenate([LABEL, LABEL[::-1]]),
        "valid": np.concatenate([VALID, VALID]),
        "weights": np.concatenate([kept, 1 - kept]),
    }
    ours, wanted = loss_of(objective, batch)[0], loss_of(objective, both)[0]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def test_accuracy_of_a_mixed_row_is_against_the_label_with_the_larger_share():
    batch, kept = mixed_batch()
    labels = np.where(kept < 0.5, LABEL[::-1], LABEL)
    accuracy = loss_of(CLASSIFY, batch)[1]["accuracy"]
    assert float(accuracy.value()) == (LOGITS.argmax(-1) == labels)[:4].mean()


def test_rows_are_mixed_after_augmentation_in_training_only_and_then_coupled():
    seen = []

    def mix(key, batch):
        seen.append(batch["image"])
        return {**batch, "mix_with": batch["label"][::-1], "mix_weight": jnp.full(4, 0.7)}

    objective = Classify(augment=(shift,), mix=(mix,))
    batch = objective.prepare({}, IMAGES, {}, 0, KEY, True)[0]
    np.testing.assert_array_equal(seen[0], prepare(Classify(augment=(shift,)), True))
    assert {"mix_with", "mix_weight"} < batch.keys()
    assert objective.prepare({}, IMAGES, {}, 0, KEY, False)[0].keys() == IMAGES.keys()
    assert (objective.couples_batch, Classify().couples_batch) == (True, False)


def test_shrunk_images_are_those_that_pillow_gives():
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3)).astype(np.uint8)
    batch = {"image": image, "label": LABEL[:1], "valid": VALID[:1]}
    for size in (12, 8, 5):
        objective = Classify(shrink=(Shrink(size, 10),))
        shrunk = objective.prepare({}, batch, {}, 0, KEY, True)[0]["image"]
        wanted = np.asarray(Image.fromarray(image[0]).resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(255 * shrunk[0], wanted, atol=1.01)  # Pillow rounds twice
        assert objective.prepare({}, batch, {}, 0, KEY, False)[0]["image"].shape == (1, 12, 12, 3)
    assert objective.at(9) is objective
    assert objective.at(10).shrink == ()


def test_focal_loss_is_that_of_the_paper_and_off_at_zero():
    p = np.asarray(jax.nn.softmax(LOGITS))[np.arange(6), LABEL]
    for gamma in (0.5, 2.0):
        out, _ = loss_of(Classify(inputs_from="features", focal=gamma), batch_of())
        np.testing.assert_allclose(out.value(), (-np.log(p) * (1 - p) ** gamma)[:4].mean(), rtol=1e-5)
    sure = jnp.asarray(np.where(np.eye(3)[LABEL] > 0, 200.0, 0.0), jnp.float32)
    grads = jax.grad(lambda x: loss_of(Classify(inputs_from="features", focal=0.5), batch_of(features=x))[0].sum)(sure)
    assert np.isfinite(grads).all()


def test_logit_adjustment_learns_from_shares_and_predicts_without():
    shares = (0.7, 0.2, 0.1)
    adjusted, plain = Classify(inputs_from="features", priors=shares), CLASSIFY
    shifted = batch_of(features=LOGITS + np.log(np.array(shares, np.float32)))
    np.testing.assert_allclose(loss_of(adjusted, batch_of())[0], loss_of(plain, shifted)[0], rtol=1e-5)
    model = net()
    np.testing.assert_array_equal(
        adjusted.predict("predict", model, batch_of())["logits"], plain.predict("predict", model, batch_of())["logits"]
    )


@pytest.mark.parametrize("word", ["class_weights", "priors"])
def test_numbers_a_class_must_be_as_many_as_classes(word):
    outputs = {"logits": jax.ShapeDtypeStruct((6, 3), jnp.float32)}
    with pytest.raises(DataError, match=f"the objective's {word} are 2, and the model has 3 classes"):
        Classify(inputs_from="features", **{word: (1.0, 2.0)}).check(batch_of(), outputs)
    with pytest.raises(ConfigError, match="priors are above 0"):
        Classify(priors=(0.0, 1.0))
