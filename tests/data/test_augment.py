"""Augmentation depends only on (seed, sample index, epoch)."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright.data import augment, stateless_random
from loopwright.data.errors import DataError

SAMPLES = 61  # as many as the fixtures hold
PLACES = tf.range(32, dtype=tf.int64)


def epochs(epoch: int) -> tf.Tensor:
    return tf.fill([32], tf.constant(epoch, tf.int64))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Pictures of nine rows and seven columns. The value of a pixel says where it was; none is zero."""
    numbers = np.arange(1, 9 * 7 * 2 + 1, dtype=np.uint8).reshape(9, 7, 2)
    return np.broadcast_to(numbers, (32, 9, 7, 2))


def changed(text: str, x: Any, epoch: int = 0, seed: int = 0, index: Any = PLACES) -> np.ndarray:
    change = augment.parse(text, seed=seed)
    assert change is not None
    return change(tf.constant(x), index, epochs(epoch)).numpy()


@pytest.mark.parametrize("kind", ["memory", "streaming", "sequential"])
def test_picture_is_the_same_whatever_feed_batch_and_shard(make: Callable[..., Any], kind: str) -> None:
    def second_epoch(feed: Any) -> dict[int, np.ndarray]:
        batches = feed(feed.steps_per_epoch).take(feed.steps_per_epoch)
        return {int(i): x for batch in batches for i, x in zip(batch["index"].numpy(), batch["x"].numpy(), strict=True)}

    text = "flip,translate:1,crop:2,cutout:2"
    expected = second_epoch(make("memory", SAMPLES, 7, seed=4, augment=text))
    assert len(expected) == SAMPLES
    feed = make(kind, SAMPLES, 20, seed=4, augment=text)
    for part in (feed, feed.shard(1, 3)):
        for index, picture in second_epoch(part).items():
            np.testing.assert_array_equal(picture, expected[index])


def test_pictures_differ_by_sample_epoch_seed_and_operation(pictures: np.ndarray) -> None:
    first = changed("translate:3", pictures)
    assert len(np.unique(first.reshape(32, -1), axis=0)) > 15
    for other in (
        changed("translate:3", pictures, epoch=1),
        changed("translate:3", pictures, seed=1),
        changed("translate:3", pictures, index=PLACES + 32),
        changed("flip,translate:3", pictures),
    ):
        assert not np.array_equal(first, other)


def test_flip_mirrors_about_half(pictures: np.ndarray) -> None:
    result = changed("flip", pictures)
    flipped = np.array([np.array_equal(new, old[:, ::-1]) for new, old in zip(result, pictures, strict=True)])
    same = np.array([np.array_equal(new, old) for new, old in zip(result, pictures, strict=True)])
    assert (flipped ^ same).all()
    assert 8 < flipped.sum() < 24


def test_translate_moves_within_bounds_and_fills_with_zeros(pictures: np.ndarray) -> None:
    padded = np.pad(pictures[0], ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 9, x : x + 7].tobytes(): (y, x) for y in range(5) for x in range(5)}
    places = {windows[picture.tobytes()] for picture in changed("translate:2", pictures)}
    assert len(places) > 12


@pytest.mark.parametrize("amount", [2, 20])
def test_crop_mirrors_at_the_border(pictures: np.ndarray, amount: int) -> None:
    padded = np.pad(pictures[0], ((amount, amount), (amount, amount), (0, 0)), mode="reflect")
    spots = range(2 * amount + 1)
    windows = {padded[y : y + 9, x : x + 7].tobytes() for y in spots for x in spots}
    assert all(picture.tobytes() in windows for picture in changed(f"crop:{amount}", pictures))


def test_cutout_empties_one_square(pictures: np.ndarray) -> None:
    for picture in changed("cutout:4", pictures):
        rows, columns = np.nonzero((picture == 0).all(axis=-1))
        assert 2 <= len(set(rows)) <= 4
        assert 2 <= len(set(columns)) <= 4
        assert len(rows) == len(set(rows)) * len(set(columns))
        kept = picture != 0
        np.testing.assert_array_equal(picture[kept], pictures[0][kept])


def test_composed_operations_equal_one_after_the_other(pictures: np.ndarray) -> None:
    """Composing the maps and moving the pixels once gives the same as moving the pixels at every operation."""
    names = "flip,cutout:3,translate:2,crop:3,cutout:2"
    steps = augment.parse(names, seed=9).steps  # type: ignore[union-attr]
    keys = stateless_random.sample_keys(9, epochs(2), PLACES)
    x = tf.constant(pictures)
    for number, (operation, amount) in enumerate(steps):  # type: ignore[misc]
        x = augment._move(x, keys, [(number, operation, amount)])
    np.testing.assert_array_equal(changed(names, pictures, epoch=2, seed=9), x)


def test_floats_and_several_inputs_move_together(pictures: np.ndarray) -> None:
    change = augment.parse("crop:2,cutout:2", seed=1)
    x = {"bytes": tf.constant(pictures), "floats": tf.constant(pictures, tf.float32), "flat": tf.ones([32, 3])}
    result = change(x, PLACES, epochs(0))  # type: ignore[misc]
    np.testing.assert_array_equal(result["bytes"], result["floats"])
    np.testing.assert_array_equal(result["flat"], x["flat"])


def test_users_function_gets_scaled_inputs_and_keys(monkeypatch: pytest.MonkeyPatch, pictures: np.ndarray) -> None:
    def noise(x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        return x + stateless_random.uniform(stateless_random.draw(keys, 0))[:, None, None, None]

    monkeypatch.setitem(sys.modules, "my_changes", types.SimpleNamespace(noise=noise))
    result = changed("my_changes:noise", pictures)
    assert result.dtype == np.float32
    added = result - pictures * np.float32(1 / 255)
    assert len(np.unique(added[:, 0, 0, 0].round(4))) > 20
    np.testing.assert_array_equal(changed("my_changes:noise", pictures, index=PLACES), result)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("translate", "translate:PIXELS"),
        ("translate:0", "translate:PIXELS"),
        ("crop:x", "crop:PIXELS"),
        ("flip:2", "flip alone"),
        ("flop", "flip, translate, crop, cutout"),
        ("no_such_module:f", "no_such_module"),
        ("math:pi", "not a function"),
    ],
)
def test_mistakes_are_told(text: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        augment.parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"augment='{text}': ")


def test_nothing_is_no_augmentation() -> None:
    assert augment.parse("") is None


def test_mixing_is_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 0, as its authors' reference prints them."""
    golden = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    zero = tf.zeros([1], tf.uint64)
    assert [int(stateless_random.draw(zero, number)[0]) for number in range(3)] == golden
    assert stateless_random.seed_key(0) == golden[0]


def test_draws_are_even() -> None:
    keys = stateless_random.sample_keys(1, tf.zeros([8000], tf.int64), tf.range(8000, dtype=tf.int64))
    first, second = stateless_random.two_integers(keys, 5, 4)
    counts = np.histogram2d(first.numpy(), second.numpy(), bins=(5, 4))[0]
    assert counts.sum() == 8000
    assert np.abs(counts - 400).max() < 100
    assert 0.48 < float(tf.reduce_mean(stateless_random.uniform(keys))) < 0.52


def test_keys_are_golden() -> None:
    """The bits of a sample must not change between versions, or a resumed run would see different pictures."""
    key = stateless_random.sample_keys(7, tf.constant([3], tf.int64), tf.constant([11], tf.int64))
    assert int(key[0]) == 11915292257624816292
