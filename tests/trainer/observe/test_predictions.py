"""Predictions of a split, and the figures computed from them."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.observe import pictures
from loopwright.trainer.observe.predictions import Predictions


def made(labels: list[int], predicted: list[int], confidence: list[float], classes: int = 3) -> Predictions:
    rows = len(labels)
    arrays = (np.array(labels), np.array(predicted), np.array(confidence, np.float32))
    return Predictions(np.arange(rows), *arrays, np.arange(rows), np.zeros((rows, 4, 4, 1)), classes, 5)


def test_confusion_has_a_row_for_each_true_class() -> None:
    found = made([0, 0, 1, 1, 1], [0, 1, 1, 1, 2], [0.5] * 5)
    assert found.confusion().tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    np.testing.assert_equal(found.class_accuracy(), [0.5, 2 / 3, np.nan])


def test_calibration_compares_confidence_with_accuracy() -> None:
    found = made([0, 0, 1, 1], [0, 1, 1, 1], [0.55, 0.55, 0.95, 1.0])
    confidence, accuracy, count = found.calibration()
    np.testing.assert_allclose(confidence, [0.55, 0.975])
    assert (accuracy.tolist(), count.tolist()) == ([0.5, 1.0], [2, 2])
    assert found.calibration_error() == pytest.approx((0.05 * 2 + 0.025 * 2) / 4)


def test_calibration_leaves_out_what_is_no_number() -> None:
    found = made([0, 1], [0, 1], [0.95, np.nan])
    assert [column.tolist() for column in found.calibration()[1:]] == [[1.0], [1]]
    assert np.isnan(made([0], [0], [np.nan]).calibration_error())


def test_mistakes_come_with_the_surest_first() -> None:
    found = made([0, 0, 1, 2], [0, 1, 0, 1], [0.9, 0.4, 0.8, 0.6])
    assert found.shown[found.mistakes].tolist() == [2, 3, 1]


def test_saved_predictions_are_loaded_again(tmp_path: pathlib.Path) -> None:
    found = made([0, 1], [0, 2], [0.5, 0.25])
    found.save(tmp_path / "predictions.npz")
    again = Predictions.load(tmp_path / "predictions.npz")
    assert vars(again).keys() == vars(found).keys()
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_file_without_predictions_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz holds no predictions"):
        Predictions.load(tmp_path / "predictions.npz")


def test_predictor_says_what_the_model_says(make_state: Any, make_feed: Any) -> None:
    state, feed = make_state(), make_feed(shuffle=False)
    found = trainer.predictor(state, feed, from_logits=True)()
    batches = list(feed())
    inputs = np.concatenate([batch["x"] for batch in batches])
    probabilities = np.array(keras.ops.softmax(state.model(inputs, training=False)))
    np.testing.assert_array_equal(found.labels, np.concatenate([batch["y"] for batch in batches]))
    np.testing.assert_array_equal(found.predicted, probabilities.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.inputs, inputs[found.shown])
    assert found.first.tolist() == list(range(16))
    wrong = np.flatnonzero(found.labels != found.predicted)
    surest = wrong[np.argsort(-found.confidence[wrong], kind="stable")]
    assert found.shown[found.mistakes].tolist() == surest[:24].tolist()


def test_predictor_passes_padding_over(make_state: Any, make_feed: Any) -> None:
    state = make_state()
    plain, padded = (
        trainer.predictor(state, make_feed(shuffle=False, pad=pad), from_logits=True)() for pad in (False, True)
    )
    np.testing.assert_array_equal(plain.index, padded.index)
    np.testing.assert_array_equal(plain.predicted, padded.predicted)


@pytest.mark.parametrize("form", ["column", "one-hot"])
def test_predictor_takes_labels_of_any_form_as_classes(make_state: Any, form: str) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(20, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, 20)
    feeds = [
        array_feed(x, y, 8, shuffle=False) for y in (labels, labels[:, None] if form == "column" else np.eye(3)[labels])
    ]
    plain, given = (trainer.predictor(make_state(), feed, from_logits=True)() for feed in feeds)
    np.testing.assert_array_equal(given.labels, labels)
    np.testing.assert_array_equal(given.confusion(), plain.confusion())
    np.testing.assert_array_equal(given.mistakes, plain.mistakes)


@pytest.mark.parametrize("classes", [3, 31, 200])
def test_confusion_picture_is_drawn_for_any_number_of_classes(classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 9
    png = pictures.confusion_png(confusion, [f"a long name of class {k}" for k in range(classes)])
    assert png.startswith(b"\x89PNG")
    assert png != pictures.confusion_png(confusion[::-1], [f"a long name of class {k}" for k in range(classes)])
