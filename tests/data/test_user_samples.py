"""A user's `tf.data.Dataset` that doesn't give good samples is refused in a sentence before training."""

import re
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import data
from loopwright.data import user_samples
from loopwright.data.errors import DataError

Load = Callable[..., Any]
IMAGES = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(12) % 3


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(train, test, **attributes)` loads a user's function that returns these datasets."""

    def make(train: Any, test: Any = None, **attributes: Any) -> Any:
        def function(split: str) -> Any:
            return train if split == "train" or test is None else test

        vars(function).update(attributes)
        monkeypatch.setitem(sys.modules, "users_data", types.SimpleNamespace(f=function))
        return data.load("users_data:f", say=attributes.pop("say", None))

    return make


def samples(labels: Any = LABELS, x: Any = IMAGES) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, labels))


def looked_at(dataset: Any) -> None:
    """What commands ask a dataset before they build a model."""
    _ = dataset.input_shape, dataset.num_classes
    dataset.train_feed(2)


def never_ending() -> tf.data.Dataset:
    return samples().repeat().filter(lambda x, y: True)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (samples().batch(4), r"gives batches \(x \(None, 4, 4, 1\), y \(None,\)\).*; leave out batch\(\)"),
        (
            samples().batch(4, drop_remainder=True),
            r"gives batches \(x \(4, 4, 4, 1\), y \(4,\)\).*; leave out batch\(\)",
        ),
        (samples(np.eye(3)[LABELS]).batch(4), r"gives batches .*; leave out batch\(\)"),
        (samples(np.eye(3)[LABELS]), r"one-hot, with the shape \(3,\); return the number of the class.*argmax"),
        (samples(np.eye(3, dtype=np.int32)[LABELS]), r"one-hot, with the shape \(3,\)"),
        (samples(np.where(np.arange(12) == 7, -1, LABELS)), r"split 'train': sample 7 has the label -1.*leave out"),
        (samples(LABELS.astype(str)), r"labels are of type string; return the number.*class_names"),
        (
            samples().map(lambda x, y: (tf.py_function(lambda x: x, [x], tf.float32), y)),
            r"x has no fixed shape, but <unknown>; .*tf\.ensure_shape",
        ),
        (
            tf.data.Dataset.from_generator(
                lambda: zip(IMAGES, LABELS, strict=True),
                output_signature=(tf.TensorSpec((None, None, 1)), tf.TensorSpec((), tf.int64)),
            ),
            r"x has no fixed shape, but \(None, None, 1\); .*tf\.image\.resize",
        ),
        (samples().repeat(), r"split 'train': the samples never end; leave out repeat\(\)"),
        (never_ending(), r"split 'train': no end after [\d,]+ samples; leave out repeat\(\), or end with take\(N\)"),
        (samples().take(0), r"the split 'train' is empty"),
    ],
)
def test_what_is_no_sample_is_refused_with_the_remedy(
    load: Load, monkeypatch: pytest.MonkeyPatch, train: tf.data.Dataset, message: str
) -> None:
    monkeypatch.setattr(user_samples, "_MOST_COUNTED", 5000)
    with pytest.raises(DataError, match=f"^dataset='users_data:f'.*{message}"):
        looked_at(load(train))


def test_user_hears_that_samples_are_still_being_counted(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_samples, "_SAYS_SO_AT", 5)
    said: list[str] = []
    assert load(samples().filter(lambda x, y: y > 0), say=said.append).train_feed(2).examples_per_epoch == 8
    assert "counting samples: 8 so far; if there is no end, leave out repeat()" in said[-1]


def test_labels_that_only_the_evaluation_has_are_classes(load: Load) -> None:
    said: list[str] = []
    dataset = load(samples(), samples(LABELS + 2), say=said.append)
    assert dataset.class_names == ("0", "1", "2", "3", "4")
    assert "the split 'test' has labels up to 4, and 'train' only up to 2; the classes are 0 to 4" in said[-1]


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(np.uint8), LABELS.astype(np.int32)])
def test_labels_are_scalars_of_int64(load: Load, labels: np.ndarray) -> None:
    dataset = load(samples(labels))
    assert dataset.num_classes == 3
    y = next(iter(dataset.train_feed(12)()))["y"]
    np.testing.assert_array_equal(y, LABELS.astype(np.int64), strict=True)


def test_bool_labels_are_two_classes(load: Load) -> None:
    dataset = load(samples(LABELS == 1))
    assert dataset.class_names == ("0", "1")
    np.testing.assert_array_equal(next(iter(dataset.train_feed(12)()))["y"], LABELS == 1)


def test_label_outside_the_named_classes_is_named(load: Load) -> None:
    dataset = load(samples(), class_names=("a", "b"))
    assert dataset.num_classes == 2
    feed = dataset.train_feed(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside the 2 classes"):
        list(feed().take(6))
    message = r"split 'train': sample 2 has the label 2, and labels are the numbers of classes, from 0 to 1"
    assert re.search(message, str(dataset.explain(feed, 0)))
    with pytest.raises(DataError, match=message):
        _ = dataset.fingerprint


def test_regression_targets_are_no_one_hot_labels(load: Load) -> None:
    dataset = load(samples(np.random.default_rng(1).normal(size=(12, 3))))
    assert dataset.class_names == ()
    assert next(iter(dataset.train_feed(4)()))["y"].shape == (4, 3)


def test_parameters_without_a_meaning_are_named(load: Load) -> None:
    load(samples())
    said: list[str] = []
    data.load("users_data:f", image_size=(4, 4), max_bad_records=2, feed="memory", label_key="y", say=said.append)
    assert said[0] == "users_data:f doesn't use label_key, image_size, max_bad_records, feed"
