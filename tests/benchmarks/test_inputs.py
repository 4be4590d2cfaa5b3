"""What inputs are compared with: the crops and windows of the others are crops and windows."""

import input_peers
import numpy as np
import pytest

IMAGES = np.arange(1, 1 + 5 * 6 * 6 * 3).reshape(5, 6, 6, 3).astype(np.uint8)  # all different, none 0
LABELS = np.arange(5)


def test_a_crop_is_cut_out_of_the_padded_image_and_flipped_in_some_cases():
    crop, flips = input_peers.Crop(IMAGES, LABELS), set()
    padded = np.pad(IMAGES[3], ((4, 4), (4, 4), (0, 0)))
    places = {}
    for top in range(9):
        for left in range(9):
            cut = padded[top : top + 6, left : left + 6]
            places[cut.tobytes()] = False
            places[cut[:, ::-1].tobytes()] = True
    for seed in range(20):
        example = crop(3, np.random.default_rng(seed))
        assert example["label"] == 3
        assert example["image"].dtype == np.float32
        flips.add(places[np.round(example["image"] * 255).astype(np.uint8).tobytes()])
    assert flips == {False, True}


def test_plain_grain_gives_every_example_once_a_pass_and_windows_of_the_stream():
    batches = input_peers.grain_images(IMAGES, LABELS, 5)
    assert sorted(next(batches)["label"]) == [0, 1, 2, 3, 4]
    tokens = np.arange(100, 140)
    rows = next(input_peers.grain_windows(tokens, 8, 5))
    assert rows.shape == (8, 6)
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(6))
    assert len(set(rows[:, 0])) == 8


def test_a_window_and_the_same_one_token_on():
    data = input_peers.Crops(np.arange(20), 4)
    assert len(data) == 16
    x, y = data[15]
    np.testing.assert_array_equal(x, [15, 16, 17, 18])
    np.testing.assert_array_equal(y, x + 1)


def test_windows_drawn_at_random_and_the_loader_go_on_without_end():
    torch = pytest.importorskip("torch")
    x, y = next(input_peers.random_windows(np.arange(50), 3, 7))
    assert torch.equal(x + 1, y)
    assert x.shape == (3, 7)
    batches = input_peers.loader(input_peers.Crops(np.arange(10), 4), 4, workers=0)
    assert [tuple(next(batches)[0].shape) for _ in range(4)] == [(4, 4)] * 4  # one a pass
