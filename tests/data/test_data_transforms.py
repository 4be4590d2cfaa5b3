"""Host transforms: the same key gives the same example, and the pixels are the ones that were asked for."""

import numpy as np
import pytest

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import transforms
from fmjax.data.source import identity

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
ALL = [
    transforms.Resize((6, 5)),
    transforms.ResizeSmaller(5),
    transforms.CenterCrop((6, 4)),
    transforms.RandomCrop((8, 8), padding=2),
    transforms.Flip(),
    transforms.ToFloat(),
    transforms.Select(("image",)),
    transforms.Rename((("label", "targets"),)),
]


def rng(seed=0):
    return np.random.Generator(np.random.Philox(key=seed))


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_the_same_key_gives_the_same_example_and_the_input_is_untouched(transform):
    before = IMAGE.copy()
    a, b = (transform({"image": IMAGE, "label": 3}, rng()) for _ in range(2))
    np.testing.assert_array_equal(a["image"], b["image"])
    np.testing.assert_array_equal(IMAGE, before)
    assert len({str(identity(t)) for t in ALL}) == len(ALL)


def apply(transform, seed=0):
    return transform({"image": IMAGE, "label": 3}, rng(seed))["image"]


def test_shapes_and_pixels():
    assert apply(transforms.Resize((6, 5))).shape == (6, 5, 3)
    assert apply(transforms.ResizeSmaller(5)).shape == (6, 5, 3)
    np.testing.assert_array_equal(apply(transforms.Resize((12, 10))), IMAGE)
    np.testing.assert_array_equal(apply(transforms.CenterCrop((6, 4))), IMAGE[3:9, 3:7])
    np.testing.assert_array_equal(apply(transforms.Flip(1.0)), IMAGE[:, ::-1])
    np.testing.assert_array_equal(apply(transforms.Flip(0.0)), IMAGE)
    np.testing.assert_allclose(apply(transforms.ToFloat()), IMAGE / 255.0, rtol=1e-6)
    flat = {"image": np.full((9, 9, 1), 77, np.uint8)}
    np.testing.assert_array_equal(transforms.Resize((4, 4))(flat, rng())["image"], np.full((4, 4, 1), 77))


def test_random_crops_reach_every_corner_and_stay_inside():
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[t : t + 12, x : x + 10].tobytes() for t in range(5) for x in range(5)}
    crops = {np.ascontiguousarray(apply(transforms.RandomCrop((12, 10), padding=2), s)).tobytes() for s in range(300)}
    assert crops == windows


def test_words_are_selected_and_renamed():
    example = {"image": IMAGE, "label": 3, "text": "x"}
    assert transforms.Select(("label", "text"))(example, rng()) == {"label": 3, "text": "x"}
    assert transforms.Rename((("label", "targets"),))(example, rng()).keys() == {"image", "targets", "text"}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (transforms.CenterCrop((13, 4)), "an image of 12x10 has no crop of 13x4"),
        (transforms.RandomCrop((4, 11)), "has no crop of 4x11"),
        (transforms.Select(("lable",)), "no 'lable' in an example; did you mean 'label'"),
        (transforms.ToFloat("label"), "wants uint8"),
    ],
)
def test_what_cannot_be_done_is_said(transform, message):
    with pytest.raises(DataError, match=message):
        transform({"image": IMAGE, "label": 3}, rng())


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="height, width"):
        transforms.Resize((3,))
    with pytest.raises(ConfigError, match="probability"):
        transforms.Flip(1.5)
    with pytest.raises(DataError, match="wanted \\(H, W, C\\)"):
        transforms.Flip()({"image": np.zeros((3, 3))}, rng())
