"""Tables: standardised numbers, missing values, categories, and rows of files."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.errors import DataError
from loopwright.data.table import MOST_VALUES, TablePreprocessing, adapt_table, is_table, refuse_texts

F = tfds.features
FEATURES = {
    "age": F.Scalar(np.float32),
    "rooms": F.Scalar(np.int64),
    "new": F.Scalar(np.bool_),
    "city": F.Text(),
    "size": F.ClassLabel(names=["small", "large"]),
}


def batch(**columns: Any) -> dict[str, tf.Tensor]:
    kinds = {"city": tf.string, "size": tf.int64}
    return {name: tf.constant(values, kinds.get(name, tf.float32)) for name, values in columns.items()}


@pytest.fixture
def table() -> TablePreprocessing:
    parts = [
        batch(age=[1.0, math.nan, 3.0], rooms=[5, 5, 5], new=[0, 1, 1], city=["b", "a", "b"], size=[0, 1, 1]),
        batch(age=[5.0], rooms=[5], new=[0], city=["c"], size=[0]),
    ]
    return adapt_table(FEATURES, list(FEATURES), parts)


def test_numbers_flags_missing_values_and_categories(table: TablePreprocessing) -> None:
    assert table.names == (
        "age",
        "rooms",
        "new",
        "age is missing",
        "city=b",
        "city=a",
        "city=c",
        "city=(other)",
        "size=small",
        "size=large",
    )
    found = table(batch(age=[5.0, math.inf], rooms=[5, 6], new=[1, 0], city=["a", "never"], size=[1, -1])).numpy()
    deviation = math.sqrt(8 / 3)
    np.testing.assert_allclose(found[0], [2 / deviation, 0, 1, 0, 0, 1, 0, 0, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(found[1], [0, 1, 0, 1, 0, 0, 0, 1, 0, 0], rtol=1e-6)


def test_number_that_is_missing_only_later_becomes_the_mean(table: TablePreprocessing) -> None:
    found = table(batch(age=[3.0], rooms=[math.nan], new=[math.nan], city=[""], size=[0])).numpy()
    np.testing.assert_array_equal(found, [[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_moments_are_those_of_all_numbers_however_they_come(offset: float) -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) + np.float32(offset)
    columns = [
        adapt_table({"a": FEATURES["age"]}, ["a"], [{"a": tf.constant(part)} for part in np.array_split(values, parts)])
        for parts in (1, 7, 1000)
    ]
    for made in columns:
        np.testing.assert_allclose(made.columns[0].mean, values.astype(np.float64).mean(), rtol=1e-12)
        np.testing.assert_allclose(made.columns[0].std, values.astype(np.float64).std(), rtol=1e-9)


def test_rare_categories_share_a_place() -> None:
    names = [f"{number:03d}" for number in range(MOST_VALUES + 10)]
    cities = names * 3 + names[-1:] * 5
    made = adapt_table({"city": FEATURES["city"]}, ["city"], [batch(city=cities)])
    assert made.columns[0].values == (names[-1], *names[: MOST_VALUES - 1])
    assert made(batch(city=[names[MOST_VALUES]])).numpy()[0, -1] == 1
    assert "city" in str(made)


def test_column_of_texts_is_refused() -> None:
    texts = batch(city=[f"text {number}" for number in range(60)] + [""] * 50, age=[1.0] * 110)
    with pytest.raises(
        DataError, match=r"'city' holds texts \(61 different ones\).*input_key=age, .*input_key=city"
    ) as caught:
        adapt_table(FEATURES, ["city", "age"], [texts])
    assert caught.value.exit_code == 2
    said = {**FEATURES, "city": F.Text(doc="category")}
    assert len(adapt_table(said, ["city", "age"], [texts]).columns[0].values) == MOST_VALUES
    with pytest.raises(DataError, match="the column 'city' holds texts, and"):
        refuse_texts({**FEATURES, "city": F.Text(doc="text")}, ["city", "age"])


def test_which_inputs_are_a_table() -> None:
    features = {**FEATURES, "image": F.Image(shape=(4, 4, 1))}
    assert is_table(features, ["age"])
    assert is_table(features, ["age", "city"])
    assert not is_table(features, ["city"])
    assert not is_table(features, ["age", "image"])


def test_rows_of_a_file_are_read(table: TablePreprocessing) -> None:
    rows = [
        {"age": " 3 ", "rooms": "4e0", "new": "True", "city": "a", "size": "large", "more": "x"},
        {"age": "NA", "rooms": 5, "new": "", "city": None, "size": "0"},
    ]
    raw = table.batch(rows)
    np.testing.assert_array_equal(raw["age"], [3, np.nan])
    np.testing.assert_array_equal(raw["new"], [1, np.nan])
    assert raw["city"].numpy().tolist() == [b"a", b""]
    assert raw["size"].numpy().tolist() == [1, 0]
    assert table(raw).shape == (2, 10)
    assert table.batch([])["age"].shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": "old"}, "row 2, column 'age': 'old' is not a number; correct it"),
        ({"size": "huge"}, "row 2, column 'size': 'huge' is not one of small, large; correct it"),
        ({"size": ""}, "row 2, column 'size': '' is not one of small, large"),
        ({"city": ...}, "row 2 has no column 'city'; its columns are age, rooms, new, size"),
    ],
)
def test_mistakes_in_rows_are_told(table: TablePreprocessing, change: dict[str, Any], message: str) -> None:
    good = {"age": "1", "rooms": "2", "new": "0", "city": "a", "size": "small"}
    bad = {key: value for key, value in {**good, **change}.items() if value is not ...}
    with pytest.raises(DataError, match=message) as caught:
        table.batch([good, bad])
    assert caught.value.exit_code == 2
