"""Image folders: the folder names the class, and every wrong file is named."""

import logging

import numpy as np
import pytest
from PIL import Image

from fmjax.core.errors import ConfigError, DataError
from fmjax.data import cache, images, pipeline
from fmjax.data.sources import ImageFolder

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
    cache._live.clear()
    for split, names in {"train": COLOURS, "val": ("green", "red")}.items():
        for name in names:
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (6, 4), COLOURS[name]).save(folder / f"{i}.png")
    (tmp_path / "images" / "train" / "red" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_class_is_the_folder_and_has_one_number_in_every_split(root, in_memory):
    train, val = (ImageFolder(str(root), split, in_memory=in_memory) for split in ("train", "val"))
    assert train.classes == val.classes == ("blue", "green", "red")
    assert (len(train), len(val)) == (9, 6)
    batch = pipeline.one_pass(val, 6).batch(0)
    assert batch["label"].tolist() == [1, 1, 1, 2, 2, 2]
    assert batch["image"].shape == (6, 4, 6, 3)
    for image, label in zip(batch["image"], batch["label"]):
        assert (image == COLOURS[val.classes[label]]).all()


def test_memory_disk_and_cache_agree(root):
    sources = [ImageFolder(str(root), "train", in_memory=m) for m in (True, False, True)]
    cache._live.clear()
    sources.append(ImageFolder(str(root), "train"))
    batches = [pipeline.stream(s, 5) for s in sources]
    assert len({b.fingerprint for b in batches}) == 1
    for b in batches[1:]:
        np.testing.assert_array_equal(b.batch(1)["image"], batches[0].batch(1)["image"])
    assert len(list(cache.folder().iterdir())) == 1


def test_size_and_channels_are_those_asked_for(root):
    source = ImageFolder(str(root), "train", size=(8, 5), channels=1)
    assert source[0]["image"].shape == (8, 5, 1)
    assert source.fingerprint != ImageFolder(str(root), "train", size=(8, 5)).fingerprint


def test_the_fingerprint_changes_with_pixels_and_names(root):
    first = ImageFolder(str(root), "train").fingerprint
    Image.new("RGB", (6, 4), (1, 2, 3)).save(root / "train" / "red" / "0.png")
    second = ImageFolder(str(root), "train").fingerprint
    (root / "train" / "red" / "0.png").rename(root / "train" / "blue" / "9.png")
    assert len({first, second, ImageFolder(str(root), "train").fingerprint}) == 3


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_of_another_size_is_refused_whatever_the_policy(root, in_memory):
    Image.new("RGB", (7, 4)).save(root / "train" / "green" / "1.png")
    with pytest.raises(DataError, match=r"green/1.png is 4x7, .*blue/0.png is 4x6: give size=\(height, width\)"):
        pipeline.one_pass(ImageFolder(str(root), "train", in_memory=in_memory), 9, corrupt="skip").batch(0)
    assert ImageFolder(str(root), "train", size=(4, 6), in_memory=in_memory)[4]["image"].shape == (4, 6, 3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_fails_by_name_or_is_skipped(root, in_memory, caplog):
    file = root / "train" / "green" / "1.png"
    file.write_bytes(file.read_bytes()[:50])
    for _ in range(2):  # decoded, then from the cache
        cache._live.clear()
        source = ImageFolder(str(root), "train", in_memory=in_memory)
        with pytest.raises(
            DataError, match=r"example 4 of ImageFolder.* cannot be read: .*green/1.png cannot be decoded"
        ):
            pipeline.one_pass(source, 9).batch(0)
        with caplog.at_level(logging.WARNING):
            batch = pipeline.one_pass(source, 9, corrupt="skip").batch(0)
        assert "green/1.png" in caplog.text
        assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert (batch["image"][4] == COLOURS["green"]).all()


def test_images_are_upright_whole_in_16_bits_and_cropped_where_asked(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (root / "train" / "red").glob("*.png"):
        Image.new("RGB", (4, 6), (9, 9, 9)).save(file, exif=exif)
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(root / "train" / "blue" / "0.png")
    source = ImageFolder(str(root), "train")
    assert source[8]["image"].shape == (4, 6, 3)
    assert (source[0]["image"] == 40_000 >> 8).all()
    cut = ImageFolder(str(root), "train", decode=images.Decode((3, 3), shorter=4))
    assert cut[4]["image"].shape == (3, 3, 3)
    assert cut.fingerprint != source.fingerprint
    with pytest.raises(ConfigError, match="size and channels, or a decode"):
        ImageFolder(str(root), "train", size=(3, 3), decode=images.Decode((3, 3)))


def test_a_first_image_that_is_damaged_is_skipped_too(root, caplog):
    (root / "train" / "blue" / "0.png").write_bytes(b"")
    batches = pipeline.one_pass(ImageFolder(str(root), "train"), 9, corrupt="skip")
    with caplog.at_level(logging.WARNING):
        assert batches.batch(0)["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "blue/0.png cannot be decoded" in caplog.text


def test_wrong_folders_are_named(root):
    (root / "train" / "yellow").mkdir()
    for make, message in [
        (lambda: ImageFolder(str(root / "nothing")), "there is no folder"),
        (lambda: ImageFolder(str(root), "trian"), "has no split 'trian'; did you mean 'train'"),
        (lambda: ImageFolder(str(root), "train"), "class folder .*yellow holds no image: fill it or remove it"),
        (lambda: ImageFolder(str(root / "val" / "red")), "has no class folders"),
    ]:
        with pytest.raises(DataError, match=message):
            make()
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        ImageFolder(str(root), "val", channels=2)
    for file in (root / "val").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of 6 examples can be decoded"):
        ImageFolder(str(root), "val", size=(4, 6))
