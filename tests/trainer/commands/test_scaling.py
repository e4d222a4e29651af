"""What a command does about the scale of its samples, by data, model and flag."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from loopwright import data, flags
from loopwright.data.scaling import Scaling
from loopwright.trainer.commands import scaling

PIXELS = np.full((6, 4, 4, 1), 200, np.uint8)


def feed_of(x: np.ndarray, *, image: bool) -> Any:
    """A feed as a dataset gives it, whose features say what an image is."""
    feed = data.array_feed(x, np.arange(6), 3, scale="none")
    return dataclasses.replace(feed, scaling=Scaling("auto", image))


def model(*first: Any, shape: tuple[int, ...] = (4, 4, 1)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *first, layers.Flatten(), layers.Dense(3)])


IDS = feed_of(PIXELS[:, 0, :, 0], image=False)
IMAGES = feed_of(PIXELS, image=True)
DEEP = feed_of(PIXELS.astype(np.uint16), image=True)
TABLE = feed_of(PIXELS.astype(np.float32), image=False)


@pytest.mark.parametrize(
    ("feed", "first", "expected", "said"),
    [
        (IMAGES, (), "auto", ""),
        (IMAGES, (layers.Rescaling(1 / 255),), "none", "the model scales its inputs itself (Rescaling"),
        (DEEP, (), "unit", ""),
        (DEEP, (layers.Rescaling(1 / 65535),), "none", "the model scales its inputs itself"),
        (TABLE, (layers.Normalization(mean=100.0, variance=100.0),), "auto", ""),
    ],
    ids=["images", "images, scaled inside", "16 bits", "16 bits, scaled inside", "a table"],
)
def test_auto_is_decided_by_data_and_model(
    feed: Any, first: tuple[Any, ...], expected: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling.decide("auto", model(*first), feed) == expected
    printed = capsys.readouterr().err
    assert (said in printed) if said else not printed
    assert printed.count("\n") == bool(said)


def test_ids_stay_ids_and_the_command_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.decide("auto", model(shape=(4,)), IDS) == "none"
    assert "uint8 inputs that aren't images stay as they are stored; --scale=unit" in capsys.readouterr().err
    assert next(iter(scaling.follow("none", IDS)()))["x"].dtype == tf.uint8


@pytest.mark.parametrize("scale", ["unit", "none"])
@pytest.mark.parametrize("feed", [IMAGES, DEEP, IDS], ids=["images", "16 bits", "ids"])
def test_a_given_scale_is_followed(feed: Any, scale: str) -> None:
    assert scaling.decide(scale, model(layers.Rescaling(1 / 255)), feed) == scale
    assert scaling.of_run(scale, feed) == scale
    largest = float(tf.reduce_max(tf.cast(next(iter(scaling.follow(scale, feed)()))["x"], tf.float32)))
    assert (largest <= 1) == (scale == "unit")


def test_a_run_of_an_older_version_keeps_its_scale_or_asks() -> None:
    assert scaling.of_run("auto", IMAGES) == "auto"
    assert scaling.of_run("auto", TABLE) == "auto"
    for feed in (DEEP, IDS):
        with pytest.raises(flags.UsageError, match="--scale=auto: an older version scaled all uint8 samples"):
            scaling.of_run("auto", feed)


def test_a_feed_of_the_users_own_is_left_alone() -> None:
    own = object()
    assert scaling.decide("auto", model(layers.Rescaling(1 / 255)), own) == "auto"
    assert scaling.follow("none", own) is own
    with pytest.raises(flags.UsageError, match="--scale=unit: the dataset's own feed decides"):
        scaling.decide("unit", model(), own)
    explicit = data.array_feed(PIXELS, np.arange(6), 3, scale="unit")
    assert scaling.decide("auto", model(layers.Rescaling(1 / 255)), explicit) == "auto"


def test_arrays_that_may_be_images_or_not_are_refused() -> None:
    feed = dataclasses.replace(IDS, scaling=Scaling())
    with pytest.raises(
        flags.UsageError, match=r"--scale=auto can't tell whether the input \[N, 4\] uint8 holds images"
    ):
        scaling.decide("auto", model(shape=(4,)), feed)


def test_uint16_images_are_refused_for_a_model_that_scales_bytes() -> None:
    with pytest.raises(flags.UsageError, match=r"takes pixels from 0 to 255 \(.*, and the images are uint16"):
        scaling.decide("auto", model(layers.Rescaling(1 / 255)), DEEP)
