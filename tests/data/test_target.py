"""What each label feature is read as, and which features nothing can be learned from. Features alone decide it."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright import data
from loopwright.data.decoding import Decoder
from loopwright.data.errors import DataError
from loopwright.data.keys import Keys
from loopwright.data.target import Target, Wish, targets_of

F = tfds.features
TAGS = F.Sequence(F.ClassLabel(names=["a", "b", "c"]))
THREE_TAGS = F.Sequence(F.ClassLabel(names=["a", "b"]), length=3)


def target(feature: Any, **wish: Any) -> Target:
    return targets_of({"y": feature}, Keys(("x",), "y"), Wish(**wish))["y"]


@pytest.mark.parametrize(
    ("feature", "wish", "expected"),
    [
        (F.ClassLabel(names=["a", "b"]), {}, Target("class", (), ("a", "b"))),
        (F.Scalar(np.bool_), {}, Target("class", (), ("false", "true"))),
        (F.Scalar(np.float64), {}, Target("number", (), ("y",))),
        (F.Scalar(np.int32), {}, Target("number", (), ("y",))),
        (F.Tensor(shape=(2, 3), dtype=np.float32), {}, Target("numbers", (2, 3), ("y",))),
        (F.BBoxFeature(), {}, Target("numbers", (4,), ("y",))),
        (F.Image(shape=(4, 5, 3)), {}, Target("numbers", (4, 5, 3), ("y",))),
        (F.Image(shape=(None, None, 3)), {"image_size": (2, 2)}, Target("numbers", (2, 2, 3), ("y",))),
        (F.Tensor(shape=(2,), dtype=np.bool_), {}, Target("multi_hot", (2,), ("y[0]", "y[1]"))),
        (F.Tensor(shape=(2,), dtype=np.int64), {}, Target("numbers", (2,), ("y",))),
        (F.Tensor(shape=(2,), dtype=np.int64), {"task": "multi_label"}, Target("multi_hot", (2,), ("y[0]", "y[1]"))),
        (F.LabeledImage(labels=["a", "b"], shape=(4, 5, 1)), {}, Target("classes", (4, 5), ("a", "b"))),
        (TAGS, {}, Target("multi_hot", (3,), ("a", "b", "c"))),
        (TAGS, {"sequence_input": True, "sequence_length": 7}, Target("classes", (7,), ("a", "b", "c"))),
        (TAGS, {"task": "classification", "sequence_length": 7}, Target("classes", (7,), ("a", "b", "c"))),
        (TAGS, {"task": "multi_label", "sequence_input": True}, Target("multi_hot", (3,), ("a", "b", "c"))),
        (THREE_TAGS, {}, Target("classes", (3,), ("a", "b"))),
        (THREE_TAGS, {"task": "multi_label"}, Target("multi_hot", (2,), ("a", "b"))),
    ],
)
def test_features_are_read_as(feature: Any, wish: dict[str, Any], expected: Target) -> None:
    assert target(feature, **wish) == expected


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (F.Text(), r"the label 'y' \(Text\) is a text, which no task learns"),
        (F.Translation(("en", "de")), r"the label 'y' \(Translation\) is not an array of numbers"),
        (F.Sequence({"a": np.int64}), r"the label 'y' \(Sequence\) is not an array of numbers"),
        (F.Sequence(F.Text()), r"the label 'y' \(Sequence\) is not an array of numbers"),
        (F.Sequence(F.BBoxFeature()), r"the label 'y' \(Sequence\) holds boxes in differing number"),
        (F.Sequence(np.float32), r"the label 'y' \(Sequence\) holds values in differing number"),
        (F.Audio(), r"the label 'y' \(Audio\) is sound of differing length"),
        (F.Video(shape=(None, 4, 4, 3)), r"the label 'y' \(Video\) holds values in differing number"),
        (F.Image(shape=(None, None, 3)), r"the label 'y' \(Image\) has no fixed shape, .*give image_size"),
        (F.LabeledImage(labels=None, shape=(4, 4, 1)), r"the label 'y' doesn't say how many classes it has"),
    ],
)
def test_labels_without_a_task_are_refused(feature: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        target(feature)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_key": "text", "label_key": "boxes"}, "every_kind: the label 'boxes' .* holds boxes"),
        ({"input_key": "signal", "label_key": "label"}, "'signal' .* of differing length; give sequence_length"),
        ({"input_key": "sound", "label_key": "label", "sequence_length": 9}, "'sound' .* sound of differing length"),
        ({"input_key": "film", "label_key": "label", "sequence_length": 9}, r"'film' .* of shape \(None, 4, 4, 1\)"),
        ({"input_key": "parts", "label_key": "label"}, "'parts' .* is not an array of numbers"),
        ({"input_key": "text,image", "label_key": "label"}, r"'text' \(Text\) is not an array of numbers"),
        ({"input_key": "image", "label_key": "tags", "task": "classification"}, "'tags' .* give sequence_length .*or"),
        ({"input_key": "words", "label_key": "tags,label"}, "'tags' is a sequence .* must be the only label"),
        (
            {"input_key": "text,label", "label_key": "label"},
            "input_key='text,label': 'label' is the label or the weight",
        ),
        ({"input_key": "text", "label_key": "labl"}, "label_key='labl': no such feature .*did you mean 'label'"),
        ({"task": "language_model", "input_key": "image"}, "learns from one text, and 'image' .* is a Image"),
        ({"task": "language_model"}, "learns from one text, and every_kind has 2 of them; name one with input_key"),
        ({"task": "language_model", "input_key": "text", "label_key": "label"}, "label_key='label': a language model"),
        (
            {"input_key": "words", "label_key": "label", "tokens": "byte"},
            "tokens='byte': the input 'words' is a sequence",
        ),
        ({"input_key": "text", "label_key": "label", "tokens": "letter"}, "tokens='letter': no such kind of tokens"),
        ({"input_key": "text", "label_key": "label", "vocabulary": 2}, "vocabulary=2 is too small"),
        ({"input_key": "text", "label_key": "label", "sequence_length": 0}, "sequence_length=0 is too small"),
    ],
)
def test_mistakes_are_told_in_a_line(every_kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        data.load("every_kind", data_dir=every_kind, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def decode(features: dict[str, Any], sample: dict[str, Any], **options: Any) -> dict[str, Any]:
    known = F.FeaturesDict(features)
    record = known.serialize_example(known.encode_example(sample))
    return Decoder(known, Keys(("x",), "y"), **options)(tf.constant([record]))


def test_sets_of_labels_become_vectors() -> None:
    for given, expected in (([2, 0], [1, 0, 1]), ([1, 1], [0, 1, 0]), ([], [0, 0, 0])):
        found = decode({"x": F.Tensor(shape=(2,), dtype=np.float32), "y": TAGS}, {"x": [0.0, 1.0], "y": given})
        np.testing.assert_array_equal(found["y"], [expected])


def test_labels_out_of_range_are_found() -> None:
    numbers = F.Tensor(shape=(2,), dtype=np.float32)
    ids = F.Tensor(shape=(3,), dtype=np.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the label 'y' is not 0 or 1 for each of its 3 labels"):
        multi_hot = {"y": Target("multi_hot", (3,), ("a", "b", "c"))}
        decode({"x": numbers, "y": ids}, {"x": [0.0, 1.0], "y": [0, 1, 2]}, targets=multi_hot)
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside the 2 classes"):
        classes = {"y": Target("classes", (3,), ("a", "b"))}
        decode({"x": numbers, "y": ids}, {"x": [0.0, 1.0], "y": [0, 1, 2]}, targets=classes)


def test_long_sequences_are_cut_and_short_ones_padded() -> None:
    features = {"x": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)), "y": TAGS}
    targets = {"y": Target("classes", (2,), ("a", "b", "c"))}
    long = decode(features, {"x": [[1, 2], [3, 4], [5, 6]], "y": [1, 2, 0]}, targets=targets, sequence_length=2)
    np.testing.assert_array_equal(long["x"], [[[1, 2], [3, 4]]])
    np.testing.assert_array_equal(long["y"], [[1, 2]])
    np.testing.assert_array_equal(long["sample_weight"], [[1, 1]])
    short = decode(features, {"x": [[1, 2]], "y": [1]}, targets=targets, sequence_length=2)
    np.testing.assert_array_equal(short["x"], [[[1, 2], [0, 0]]])
    np.testing.assert_array_equal(short["y"], [[1, 0]])
    np.testing.assert_array_equal(short["sample_weight"], [[1, 0]])
