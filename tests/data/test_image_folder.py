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

SUFFIXES = (".jpg", ".JPEG", ".png", ".gif", ".bmp", ".webp", ".tif", ".ppm")


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


def test_images_of_every_format_and_depth_are_used(tmp_path: pathlib.Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)).quantize(8)
    names = [f"{label}/{inside}0{suffix}" for label in "ab" for inside in ("", "x/", "x/y/") for suffix in SUFFIXES]
    for place in (f"{split}/{name}" for split in ("train", "val") for name in names):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        (image if path.suffix in (".png", ".bmp", ".gif") else image.convert("RGB")).save(path)
    said: list[str] = []
    dataset = data.load(f"folder:{tmp_path}", say=said.append)
    assert dataset.split_sizes == {"train": len(names), "val": len(names)}
    assert (dataset.eval_split, dataset.class_names, said) == ("val", ("a", "b"), [])
    stored = dataset.split("train")
    for path, pixels, label in zip(stored.paths, *dataset.arrays("train"), strict=True):
        with Image.open(path) as opened:
            if opened.format != "JPEG":  # Two decoders may differ by a little.
                np.testing.assert_array_equal(pixels, np.asarray(opened.convert("RGB")))
        assert pathlib.Path(path).relative_to(tmp_path / "train").parts[0] == dataset.class_names[label]


def test_files_that_are_left_out_are_counted_by_kind(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png", "cover.png"):
        write(place)
    for name in ("a/1.txt", "a/x/2.TXT", "b/1.pdf", "b/README", ".DS_Store", "b/Thumbs.db", "a/.hidden.txt"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"text")
    (tmp_path / "train" / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / "train")
    said: list[str] = []
    data.load(f"folder:{tmp_path}", say=said.append)
    (line,) = said
    assert line.startswith(f"folder:{tmp_path}: skipped 6 files: .txt 2, ")
    for part in (".pdf 1", "without a suffix 1", ".png outside a class folder 1", ".png that links to nothing 1"):
        assert part in line


def test_classes_are_those_of_all_splits(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/b/0.png", "test/d/0.png"):
        write(place)
    said: list[str] = []
    dataset = data.load(f"folder:{tmp_path}", say=said.append)
    assert dataset.class_names == ("a", "b", "c", "d")
    assert sorted(dataset.labels("test")) == [1, 3]
    assert sorted(line.partition(": ")[2] for line in said) == [
        "the split 'test' holds no image of 2 of the 4 classes: a, c",
        "the split 'train' holds no image of 1 of the 4 classes: d",
    ]


def test_class_folder_may_hold_folders_where_there_is_one_split(tmp_path: pathlib.Path, write: Write) -> None:
    for place in ("a/0.png", "a/x/1.png", "b/0.png", "b/1.png"):
        write(place)
    assert ImageFolder(tmp_path).split_sizes == {"train": 4}


def test_bad_first_image_is_named_and_can_be_left_out(tmp_path: pathlib.Path, write: Write) -> None:
    for place in (f"{split}/{label}/{number}.png" for split in ("train", "test") for label in "ab" for number in "012"):
        write(place)
    first = pathlib.Path(ImageFolder(tmp_path).files["train"][0][0])
    first.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"sample 0 is bad: {first}.*max_bad_records=N"):
        data.load(f"folder:{tmp_path}").train_feed(2)
    feed = data.load(f"folder:{tmp_path}", max_bad_records=1).train_feed(2)
    assert feed.examples_per_epoch == 5
