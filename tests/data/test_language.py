"""Windows over a row of tokens."""

import os
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright import data
from loopwright.data.errors import DataError
from loopwright.data.keys import Keys, choose_keys
from loopwright.data.language import LanguageSplit, language_split
from loopwright.data.text import TextPreprocessing

SHAKESPEARE = pathlib.Path(
    os.environ.get(
        "LOOPWRIGHT_TINY_SHAKESPEARE",
        pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "text" / "tiny_shakespeare",
    )
)


@pytest.mark.parametrize(("length", "stride", "windows"), [(4, 4, 2), (4, 2, 4), (4, 1, 7), (10, 5, 1), (11, 5, 0)])
def test_target_is_the_next_token_of_each_position(length: int, stride: int, windows: int) -> None:
    split = LanguageSplit(tf.range(11), length, stride)
    assert split.num_examples == windows
    for place in range(windows):
        found = split.gather(tf.constant([place], tf.int64))
        np.testing.assert_array_equal(found["x"][0], np.arange(length) + place * stride)
        np.testing.assert_array_equal(found["y"][0], found["x"][0] + 1)
        tf.nest.map_structure(lambda spec, part: tf.debugging.assert_type(part[0], spec.dtype), split.specs, found)


@pytest.mark.parametrize(("separator", "row"), [(False, "abcd"), (True, "ab|cd")])
def test_texts_are_joined(separator: bool, row: str) -> None:
    words = ["", "[UNK]", "a", "b", "c", "d"]
    made = TextPreprocessing("character", words, 2, separator=separator)
    split = language_split([{"x": tf.constant(["ab"])}, {"x": tf.constant(["cd"])}], made, "train", overlap=False)
    places = {"a": 2, "b": 3, "c": 4, "d": 5, "|": 6}
    assert split.tokens.numpy().tolist() == [places[letter] for letter in row]
    assert len(made.vocabulary) == 6 + separator


def test_split_shorter_than_a_window_is_refused() -> None:
    made = TextPreprocessing("byte", None, 5)
    with pytest.raises(
        DataError, match=r"'test' holds 5 tokens, and a window takes 5 and the next one; .* below 5"
    ) as caught:
        language_split([{"x": tf.constant(["abcde"])}], made, "test", overlap=True)
    assert caught.value.exit_code == 2


def test_text_alone_is_a_language_model() -> None:
    def keys(features: dict[str, Any], *given: Any, **more: Any) -> Keys:
        info = type("Info", (), {"features": tfds.features.FeaturesDict(features), "supervised_keys": None})
        return choose_keys("set", info, *(given or (None, None, None)), **more)  # type: ignore[arg-type]

    text, label = tfds.features.Text(), tfds.features.ClassLabel(num_classes=2)
    assert keys({"text": text}) == Keys(("text",), "")
    assert keys({"text": text, "label": label}, "text", None, None) == Keys(("text",), "label")
    assert keys({"text": text, "label": label}, task="language_model") == Keys(("text",), "")
    with pytest.raises(DataError, match="doesn't say what its input and its label are"):
        keys({"text": text}, task="classification")


@pytest.mark.parametrize("tokens", ["auto", "byte"])
def test_texts_of_many_samples_are_one_row(every_kind: str, tokens: str) -> None:
    options = {"data_dir": every_kind, "input_key": "text", "task": "language_model", "sequence_length": 8}
    dataset = data.load("every_kind", tokens=tokens, **options)
    row = dataset.split("train").tokens.numpy()
    texts = "".join(
        "\n" if token == len(dataset.preprocessing.vocabulary) - 1 else dataset.preprocessing.text([token])
        for token in row
    )
    assert texts.count("\n") == 59
    assert dataset.split("train").stride == 4
    assert dataset.split("test").stride == 8
    assert dataset.target.names == dataset.preprocessing.vocabulary
    assert dataset.model_facts == {"vocabulary_size": len(dataset.preprocessing.vocabulary), "sequence_length": 8}
    assert (dataset.label_key, dataset.num_classes) == ("", 0)


def test_tiny_shakespeare_is_a_language_model_with_no_flag(tmp_path: pathlib.Path) -> None:
    if not SHAKESPEARE.is_dir():
        pytest.skip("no files of tiny_shakespeare: name their folder in LOOPWRIGHT_TINY_SHAKESPEARE")
    dataset = data.load("tiny_shakespeare", data_dir=str(tmp_path), manual_dir=str(SHAKESPEARE))
    assert dataset.input_kind == "tokens"
    assert dataset.model_facts == {"vocabulary_size": 67, "sequence_length": 64}
    batch = next(iter(dataset.eval_feed(4)()))
    np.testing.assert_array_equal(batch["x"][:, 1:], batch["y"][:, :-1])
    np.testing.assert_array_equal(batch["y"][0, -1], batch["x"][1, 0])
