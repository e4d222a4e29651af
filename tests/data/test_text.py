"""Texts as token ids, with vocabularies that are functions of the texts."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright.data import preprocessing
from loopwright.data.errors import DataError
from loopwright.data.text import TextPreprocessing, adapt_text, token_ids

TEXTS = ["The cat, the DOG", "a dog; a bird!", "zebra ant", "", "é\nE"]


def batches(texts: list[str], size: int) -> list[tf.Tensor]:
    return [tf.constant(texts[start : start + size]) for start in range(0, len(texts), size)]


def test_words_are_those_of_keras() -> None:
    made = adapt_text(batches(TEXTS, 2), "word", 20, 5)
    layer = keras.layers.TextVectorization(20, output_sequence_length=5)
    layer.adapt(tf.constant(TEXTS))
    assert list(made.vocabulary) == [str(token) for token in layer.get_vocabulary()]
    np.testing.assert_array_equal(
        made(tf.constant([*TEXTS, "unknown cat"])), layer(tf.constant([*TEXTS, "unknown cat"]))
    )
    assert made(tf.constant(TEXTS)).dtype == tf.int32
    assert made.facts == {"vocabulary_size": len(made.vocabulary), "sequence_length": 5}


def test_vocabulary_is_free_of_order_and_batches() -> None:
    texts = [word for word in ("one", "two", "three", "four", "five") for _ in range(3)]
    found = set()
    for seed in range(5):
        random.Random(seed).shuffle(texts)
        found.add(adapt_text(batches(texts, 1 + seed), "word", 5, 4).vocabulary)
    assert found == {("", "[UNK]", "two", "three", "one")}  # Ties fall in alphabetical order.


def test_characters_are_kept_as_they_are() -> None:
    made = adapt_text(batches(TEXTS, 2), "character", 50, 6)
    ids = made(tf.constant(["E\né", "catcatcat"])).numpy()
    assert made.text(ids[0]) == "E\né"
    assert made.text(ids[1]) == "catcat"
    assert ids[0].tolist()[3:] == [0, 0, 0]


def test_bytes_need_no_vocabulary() -> None:
    made = adapt_text([], "byte", 3, 4)
    np.testing.assert_array_equal(
        made(tf.constant([b"a\x00\xff", b"", b"abcdef"])), [[98, 1, 256, 0], [0] * 4, [98, 99, 100, 101]]
    )
    assert len(made.vocabulary) == 257
    assert made.text([98, 1, 0, 0]) == "a\0"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    made = adapt_text([tf.constant([b"a\xff", b"a"])], "character", 9, 3)
    assert set(made.vocabulary) == {"", "[UNK]", "a", "\ufffd"}
    assert TextPreprocessing.from_state(made.state())(tf.constant([b"\xfea"])).numpy().tolist() == [[3, 2, 0]]


def test_words_that_are_given_are_not_changed() -> None:
    words = tf.constant([["The", "end", "."], ["The", "", ""]])
    made = adapt_text([words], "word", 9, 3, words=True)
    assert set(made.vocabulary) == {"", "[UNK]", "The", "end", "."}
    np.testing.assert_array_equal(made(words)[1], [2, 0, 0])
    np.testing.assert_array_equal(made(made.batch(["The end . and more", "The"]))[1], [2, 0, 0])


def test_all_tokens_of_a_text_are_given_for_windows() -> None:
    made = adapt_text(batches(TEXTS, 2), "word", 20, 2)
    lengths = [len(ids) for ids in token_ids(made, tf.constant(TEXTS))]
    assert lengths == [4, 4, 2, 0, 2]


def test_texts_without_a_token_are_refused() -> None:
    with pytest.raises(DataError, match="hold no token"):
        adapt_text([tf.constant(["", "!!"])], "word", 9, 3)


def test_state_that_is_none_is_told() -> None:
    with pytest.raises(DataError, match="the state of the preprocessing can't be read"):
        preprocessing.from_state({"kind": "tokens"})
