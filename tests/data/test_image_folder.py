"""Folders of images: which files are images, which folders are classes, and which images have colors."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from loopwright import data
from loopwright.data import bad_samples
from loopwright.data.errors import DataError
from loopwright.data.image_folder import ImageFolder

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Write:
    """`write(place, channels)` writes an image of 6x5 pixels: PNG, or JPEG if its name ends in `.jpg`."""

    def write_image(place: str | bytes, channels: int = 3) -> None:
        path = tmp_path / os.fsdecode(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(place)).integers(0, 256, (6, 5, channels), np.uint8)
        encode = tf.io.encode_jpeg if path.suffix == ".jpg" else tf.io.encode_png
        path.write_bytes(encode(pixels).numpy())

    return write_image


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ({"a/0.png": 1, "a/1.png": 1, "b/0.jpg": 1}, 1),
        ({"a/0.png": 1, "a/1.png": 2, "b/0.png": 1}, 1),
        ({"a/0.png": 3, "a/1.png": 1, "b/0.png": 1}, 3),
        ({"a/0.png": 1, "a/1.png": 1, "b/0.jpg": 3}, 3),
        ({"a/0.png": 4, "a/1.jpg": 3, "b/0.png": 1}, 3),
    ],
)
def test_folder_is_gray_where_all_images_are(
    tmp_path: pathlib.Path, write: Write, channels: dict[str, int], expected: int
) -> None:
    for place, count in channels.items():
        write(f"train/{place}", count)
        write(f"test/{place}", count)
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.input_shape == (6, 5, expected)
    assert next(iter(dataset.train_feed(3)()))["x"].shape == (3, 6, 5, expected)


def test_hidden_files_and_folders_that_are_called_like_images_are_none(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("train/a/0.png", "train/b/0.png"):
        write(place)
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"no picture")
    (tmp_path / "train" / "b" / "folder.png").mkdir()
    assert ImageFolder(tmp_path).split_sizes == {"train": 2}


def test_images_in_both_layouts_are_refused(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("train/a/0.png", "train/b/0.png", "train/preview.png"):
        write(place)
    with pytest.raises(DataError, match=r"images both in .*/train and in .*/train/a; .*move one of the two away"):
        _ = ImageFolder(tmp_path).files


def test_name_that_is_no_utf_8_is_read(tmp_path: pathlib.Path, write: Write) -> None:
    for place in (b"train/a/caf\xe9.png", b"train/b/0.png", b"test/a/\xe9.png", b"test/b/0.png"):
        write(place)
    dataset = data.load(f"folder:{tmp_path}")
    assert len(dataset.fingerprint) > 8
    assert sorted(next(iter(dataset.train_feed(2)()))["y"].numpy().tolist()) == [0, 1]


def test_reason_of_a_picture_that_does_not_decode_is_tensorflows(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("train/a/0.png", "train/b/0.png"):
        write(place)
    split = ImageFolder(tmp_path).open_split("train")
    pathlib.Path(split.paths[1]).write_bytes(b"no picture")
    reason = bad_samples.why_bad(split, 1)
    assert reason is not None
    assert reason.startswith(f"{split.paths[1]}: Unknown image file format")
