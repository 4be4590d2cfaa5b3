"""Test-time augmentation: nothing for a model that does not see it, the mean over views for one that does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.core.nets import Net
from fmjax.evals import tta

X_BHWC = np.float32(np.random.default_rng(0).normal(size=(3, 5, 6, 2)))
BATCH = {"image": X_BHWC, "label": np.arange(3), "valid": np.array([1.0, 1.0, 0.0])}


class Reads(nn.Module):
    """A linear reading of all pixels; of the image and its mirror image alike with `symmetric`."""

    symmetric: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (*x.shape[1:], 4))
        if self.symmetric:
            kernel = kernel + kernel[:, ::-1]
        return jnp.tensordot(x, kernel, 3)


def nets(module):
    return {"model": Net(module, module.init(jax.random.key(0), X_BHWC)["params"])}


def test_a_flip_changes_nothing_for_a_model_that_cannot_see_it():
    net = nets(Reads(symmetric=True))
    out = jax.jit(lambda batch: tta.averaged(flip=True)(net, batch))(BATCH)
    np.testing.assert_allclose(out["logits"], net["model"](X_BHWC), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out["weights"], BATCH["valid"])
    np.testing.assert_array_equal(out["targets"], BATCH["label"])


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_it_is_the_mean_over_flips_and_shifts_as_in_the_fast_cifar_recipes(of):
    net = nets(Reads())
    padded = np.pad(X_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")

    def say(x):
        logits = net["model"](x)
        return jax.nn.softmax(logits) if of == "probabilities" else logits

    def both(x):
        return (say(x) + say(x[:, :, ::-1])) / 2

    wanted = both(X_BHWC) / 2 + (both(padded[:, :-2, :-2]) + both(padded[:, 2:, 2:])) / 4
    wanted = jnp.log(wanted) if of == "probabilities" else wanted
    np.testing.assert_allclose(tta.averaged(True, 1, of)(net, BATCH)["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_no_views_are_the_plain_prediction_and_a_batch_needs_no_labels():
    net = nets(Reads())
    unlabelled = {k: v for k, v in BATCH.items() if k != "label"}
    out = tta.averaged(flip=False)(net, unlabelled)
    np.testing.assert_allclose(out["logits"], net["model"](X_BHWC), rtol=1e-5, atol=1e-6)
    assert out.keys() == {"logits", "weights"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tta.averaged(of="votes"), "of='votes'"),
        (lambda: tta.averaged(shift=-1), "shift=-1"),
        (lambda: tta.averaged(shift=5)({}, BATCH), "shift=5 is more than images of 5 x 6"),
        (lambda: tta.averaged()({}, {"image": X_BHWC[0], "valid": np.ones(5)}), "takes images"),
    ],
)
def test_misuse_is_one_line_that_says_what_is_wrong(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
