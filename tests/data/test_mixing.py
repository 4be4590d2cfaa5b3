"""Mixing and views: what a row becomes and what it says of itself, padding that stays out, keys of their own."""

import jax
import numpy as np
import pytest

from fmjax.core.errors import ConfigError
from fmjax.data import augment
from fmjax.data.augment_crop import center_crop
from fmjax.data.mixing import cutmix, mixup, mixup_or_cutmix
from fmjax.data.views import multi_crop, views

KEY = jax.random.key(0)
B = 200
# Row i holds the number i everywhere, so that a pixel says whose it is.
IMAGE = np.ones((B, 8, 6, 1), np.float32) * (np.arange(B, dtype=np.float32)[:, None, None, None] / B)
BATCH = {"image": IMAGE, "label": np.arange(B, dtype=np.int32), "valid": np.ones(B, np.float32)}
MIXES = {
    "mixup": mixup(0.4),
    "uniform": mixup(1.0),
    "cutmix": cutmix(),
    "either": mixup_or_cutmix(1.0, 1.0, p=0.8, switch=0.3),
}
JITTED = {name: jax.jit(mix) for name, mix in MIXES.items()}


@pytest.mark.parametrize("name", sorted(MIXES))
def test_the_mean_of_a_mixed_row_has_the_shares_that_it_says(name):
    out = JITTED[name](KEY, BATCH)
    np.testing.assert_array_equal(out["mix_with"], BATCH["label"][::-1])
    kept = np.asarray(out["mix_weight"])
    assert 0 <= kept.min() < (0.5 if name == "cutmix" else 0.2)  # a rectangle is mostly cut at an edge
    assert 0.8 < kept.max() <= 1
    own = IMAGE[:, 0, 0, 0]
    np.testing.assert_allclose(np.asarray(out["image"]).mean((1, 2, 3)), kept * own + (1 - kept) * own[::-1], atol=1e-5)
    np.testing.assert_array_equal(out["label"], BATCH["label"])


def test_weights_are_drawn_from_the_beta_distribution_and_a_part_of_the_rows_is_left_alone():
    kept = np.asarray(JITTED["mixup"](KEY, BATCH)["mix_weight"])
    assert kept.mean() == pytest.approx(0.5, abs=0.08)
    assert kept.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.25)
    alone = np.asarray(JITTED["either"](KEY, BATCH)["mix_weight"]) == 1
    assert 0.1 < alone.mean() < 0.32


def test_cutmix_takes_one_rectangle_of_the_partner():
    out = np.asarray(JITTED["cutmix"](KEY, BATCH)["image"])[..., 0]
    seen = np.zeros((8, 6), bool)
    for i, image in enumerate(out):
        theirs = image != IMAGE[i, 0, 0, 0]
        assert np.isin(image, (IMAGE[i, 0, 0, 0], IMAGE[B - 1 - i, 0, 0, 0])).all()
        assert (theirs == theirs.any(1)[:, None] * theirs.any(0)).all()
        seen |= theirs
    assert seen.all()


def test_a_row_mixes_by_pixels_or_by_a_mean_and_never_both():
    out = JITTED["either"](KEY, BATCH)
    levels = np.array([len(np.unique(image)) for image in np.asarray(out["image"])])
    mixed = np.asarray(out["mix_weight"]) < 1
    cuts = levels == 2
    assert set(levels) == {1, 2}
    assert 0.15 < (cuts & mixed).sum() / mixed.sum() < 0.45


@pytest.mark.parametrize("name", sorted(MIXES))
def test_padding_and_rows_that_count_for_nothing_mix_with_none(name):
    valid = (np.arange(B) >= 30).astype(np.float32)
    weights = (np.arange(B) != 100).astype(np.float32)
    image = np.where(valid[:, None, None, None] > 0, IMAGE, np.nan)
    label = np.where(valid > 0, BATCH["label"], -7).astype(np.int32)
    out = JITTED[name](KEY, {"image": image, "label": label, "valid": valid, "weights": weights})
    real = valid > 0
    assert np.isfinite(np.asarray(out["image"])[real]).all()
    assert (np.asarray(out["mix_with"])[real] >= 0).all()
    alone = np.r_[np.arange(B - 30, B), 100, B - 1 - 100]
    np.testing.assert_array_equal(np.asarray(out["mix_weight"])[alone], 1)
    np.testing.assert_array_equal(np.asarray(out["image"])[alone], IMAGE[alone])


@pytest.mark.parametrize("mix", [mixup(0.0), mixup(p=0.0), cutmix(0.0), mixup_or_cutmix(p=0.0)])
def test_no_mixing_is_the_identity(mix):
    out = mix(KEY, {k: v[:6] for k, v in BATCH.items()})
    np.testing.assert_array_equal(out["image"], IMAGE[:6])
    np.testing.assert_array_equal(out["mix_weight"], 1)


def test_columns_mix_too():
    batch = {"features": np.eye(4, dtype=np.float32), "label": np.arange(4), "valid": np.ones(4)}
    out = mixup(1.0, inputs_from="features")(KEY, batch)
    np.testing.assert_allclose(np.diag(out["features"]), out["mix_weight"], rtol=1e-6)
    np.testing.assert_allclose(out["features"].sum(1), 1, rtol=1e-6)


def test_views_of_an_image_are_drawn_apart_and_one_after_the_other():
    x = jax.random.uniform(KEY, (3, 8, 8, 1))
    out = views((augment.padded_crop(3), augment.noise(0.1)), 3)(KEY, x)
    assert out.shape == (3, 3, 8, 8, 1)
    assert not np.allclose(out[:, 0], out[:, 1])
    assert not np.allclose(out[:, 1], out[:, 2])
    np.testing.assert_array_equal(views((), 2)(KEY, x), np.stack([x, x], 1))


def test_crops_of_two_sizes_come_apart():
    x = jax.random.uniform(KEY, (3, 8, 8, 1))
    large, small = multi_crop((augment.noise(0.1),), (center_crop((4, 4)), augment.noise(0.1)), 2, 5)(KEY, x)
    assert (large.shape, small.shape) == ((3, 2, 8, 8, 1), (3, 5, 4, 4, 1))
    assert not np.allclose(large[:, 0, 2:6, 2:6], small[:, 0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mixup(-1), "alpha=-1"),
        (lambda: cutmix(p=2), "p=2"),
        (lambda: mixup_or_cutmix(switch=1.5), "switch=1.5"),
        (lambda: mixup()(KEY, {**BATCH, "image": np.zeros((B, 2, 2, 1), np.uint8)}), "'image' is uint8"),
        (lambda: cutmix()(KEY, {**BATCH, "image": np.zeros((B, 3), np.float32)}), "use mixup"),
        (lambda: mixup()(KEY, {**BATCH, "mix_with": BATCH["label"]}), "rows are mixed already"),
        (lambda: views((), 0), "count=0"),
        (lambda: multi_crop((), (), smalls=1.5), "smalls=1.5"),
    ],
)
def test_misuse_is_one_line_that_says_what_is_wrong(make, said):
    with pytest.raises(ConfigError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
