"""Images are scaled to [0, 1], and nothing else is. `scale` decides otherwise."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright import data
from loopwright.data.decoding import holds_images, resize
from loopwright.data.feed import Epochs
from loopwright.data.scaling import Scaling, scale
from loopwright.data.sequential_feed import SequentialFeed

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 4, 3, 1), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 4, 3, 1)).astype(np.uint16)
IDS = RNG.integers(0, 200, (6, 5), np.uint8)


def first(feed: Any) -> Any:
    return next(iter(feed()))["x"]


def feed_of(x: Any, **options: Any) -> Any:
    return data.array_feed(x, np.arange(6), 6, shuffle=False, **options)


@pytest.mark.parametrize(("x", "largest"), [(PIXELS, 255), (DEEP, 65535)], ids=["uint8", "uint16"])
def test_images_are_scaled_by_the_range_of_their_dtype(x: np.ndarray, largest: int) -> None:
    expected = x.astype(np.float32) * np.float32(1 / largest)
    for mode in ("auto", "unit"):
        np.testing.assert_array_equal(first(feed_of(x, scale=mode)), expected, strict=True)
    np.testing.assert_array_equal(first(feed_of(x, scale="none")), x.astype(np.float32), strict=True)
    np.testing.assert_array_equal(tf.function(scale)(tf.constant(x)), expected, strict=True)


def test_token_ids_stay_token_ids_beside_an_image() -> None:
    feed = SequentialFeed(
        lambda epoch: tf.data.Dataset.from_tensor_slices((np.arange(6), {"image": PIXELS, "ids": IDS})),
        lambda x: {"x": x, "y": tf.zeros(tf.shape(x["ids"])[:1], tf.int64)},
        Epochs(6, 6, shuffle=False),
    )
    for mode, factor in (("auto", np.float32(1 / 255)), ("unit", np.float32(1 / 255)), ("none", np.float32(1))):
        x = first(feed.scaled(mode))
        np.testing.assert_array_equal(x["ids"], IDS, strict=True)
        np.testing.assert_array_equal(x["image"], PIXELS.astype(np.float32) * factor, strict=True)


@pytest.mark.parametrize("x", [IDS, PIXELS[..., 0], DEEP[:, 0, 0]], ids=lambda x: f"{x.dtype} of rank {x.ndim}")
def test_arrays_that_may_be_images_or_not_must_say_it(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"scale=auto can't tell whether the input \[N, .*\] uint.*; give scale=unit"):
        feed_of(x)
    np.testing.assert_array_equal(first(feed_of(x, scale="none")), x, strict=True)
    assert first(feed_of(x, scale="unit")).dtype == tf.float32
    with pytest.raises(ValueError, match="scale='units': no such scale; choose from auto, unit, none"):
        feed_of(x, scale="units")


def test_other_dtypes_are_never_scaled() -> None:
    for dtype in (np.int32, np.int64, np.float32, np.bool_):
        x = PIXELS.astype(dtype)
        for mode in ("auto", "unit", "none"):
            np.testing.assert_array_equal(first(feed_of(x, scale=mode)), x, strict=True)


def test_users_augmentation_gets_images_in_unit_range_whatever_the_scale() -> None:
    seen = []

    def brighter(x: Any, index: Any, epoch: Any) -> Any:
        seen.append(x.dtype)
        return scale(x) + 0.5

    np.testing.assert_allclose(
        first(feed_of(PIXELS, augment=brighter, scale="none")), PIXELS + 127.5, rtol=1e-6, strict=False
    )
    np.testing.assert_allclose(first(feed_of(PIXELS, augment=brighter)), PIXELS / 255 + 0.5, rtol=1e-6)
    assert set(seen) == {tf.uint8}


def test_features_say_what_an_image_is() -> None:
    features = tfds.features
    assert holds_images(features.Image(shape=(4, 3, 1)))
    assert holds_images(features.Video(shape=(2, 4, 3, 1)))
    assert holds_images(features.Sequence(features.Image(shape=(4, 3, 1)), length=2))
    assert not holds_images(features.Tensor(shape=(4, 3, 1), dtype=np.uint8))
    assert not holds_images(features.Sequence(np.uint8, length=5))
    assert not holds_images(features.LabeledImage(shape=(4, 3, 1), labels=3))


class Mixed(tfds.core.GeneratorBasedBuilder):
    """Images of both depths, and ids as uint8."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        kinds = tfds.features
        return self.dataset_info_from_configs(
            features=kinds.FeaturesDict(
                {
                    "image": kinds.Image(shape=(4, 3, 1), dtype=np.uint8),
                    "deep": kinds.Image(shape=(4, 3, 1), dtype=np.uint16),
                    "ids": kinds.Tensor(shape=(5,), dtype=np.uint8),
                    "label": kinds.ClassLabel(num_classes=2),
                }
            )
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for row in range(6):
            yield row, {"image": PIXELS[row], "deep": DEEP[row], "ids": IDS[row], "label": row % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("mixed")
    Mixed(data_dir=str(folder)).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return folder


@pytest.mark.parametrize("kind", ["memory", "sequential"])
def test_datasets_scale_what_their_features_call_images(prepared: pathlib.Path, kind: str) -> None:
    dataset = data.load("mixed", data_dir=str(prepared), input_key="image,deep,ids", feed=kind)
    batch = next(iter(dataset.eval_feed(6)()))
    x, index = batch["x"], batch["index"].numpy()
    assert {name: part.dtype for name, part in x.items()} == {
        "image": tf.float32,
        "deep": tf.float32,
        "ids": tf.uint8,
    }
    labels = {name: [part[np.flatnonzero(index == row)[0]] for row in range(6)] for name, part in x.items()}
    for name, stored, largest in (("image", PIXELS, 255), ("deep", DEEP, 65535)):
        expected = {(row.astype(np.float32) * np.float32(1 / largest)).tobytes() for row in stored}
        assert {row.numpy().tobytes() for row in labels[name]} == expected
    assert {row.numpy().tobytes() for row in labels["ids"]} == {row.tobytes() for row in IDS}
    none = next(iter(dataset.eval_feed(6, scale="none")()))["x"]
    assert float(tf.reduce_max(none["deep"])) == DEEP.max()
    alone = data.load("mixed", data_dir=str(prepared), input_key="ids", feed=kind)
    assert first(alone.eval_feed(6)).dtype == tf.uint8
    assert first(alone.eval_feed(6, scale="unit")).dtype == tf.float32


def test_deep_images_are_resized_too(prepared: pathlib.Path) -> None:
    dataset = data.load("mixed", data_dir=str(prepared), input_key="deep", image_size=(8, 6))
    batch = first(dataset.eval_feed(6, scale="none"))
    assert batch.shape == (6, 8, 6, 1)
    assert float(tf.reduce_max(batch)) > 1000
    assert resize(tf.constant(DEEP[0]), (8, 6)).dtype == tf.uint16


def test_numbers_of_classes_are_not_mixed_by_resizing() -> None:
    labels = tf.constant(np.array([[0, 7], [7, 0]], np.uint8)[..., np.newaxis])
    assert set(np.unique(resize(labels, (5, 5), mix=False))) == {0, 7}
    assert set(np.unique(resize(labels, (5, 5)))) > {0, 7}


def test_scaling_knows_what_it_scales() -> None:
    stored = {"image": tf.TensorSpec([None, 4, 3, 1], tf.uint8), "ids": tf.TensorSpec([None, 5], tf.uint8)}
    assert Scaling().scaled(stored) == {"image": True, "ids": False}
    assert Scaling("unit").scaled(stored["ids"]) is True
    assert Scaling("none").scaled(stored) == {"image": False, "ids": False}
    assert Scaling().unsure(stored) is stored["ids"]
    assert Scaling(images={"image": True, "ids": False}).unsure(stored) is None


def test_ids_that_augmentation_makes_floats_keep_their_values() -> None:
    for mode in ("none", "unit"):
        x = first(feed_of(IDS, augment=lambda x, index, epoch: tf.cast(x, tf.float32), scale=mode))
        np.testing.assert_array_equal(x, IDS.astype(np.float32), strict=True)
