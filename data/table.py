"""Tables: a vector of numbers out of the columns of a sample."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import keys
from loopwright.data.csv_columns import number as number_of
from loopwright.data.errors import DataError
from loopwright.data.keys import LONG_TEXT, is_text

NUMBER, FLAG, CLASS, CATEGORY = "number", "flag", "class", keys.CATEGORY
#: The most values of a category that have a place of their own in the vector.
MOST_VALUES = 50
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column, and what is known of it from the training split.

    Attributes:
      name: that of the feature.
      kind: `number`; `flag` (a bool); `class` (the number of one of `values`); `category` (a string).
      mean, std: of the numbers that aren't missing. A missing number becomes the mean.
      missing: the number of missing ones in the training split. Where there is any, a flag says where a number is missing.
      values: the classes, or the categories that have a place of their own, most frequent first.
    """

    name: str
    kind: str
    mean: float = 0.0
    std: float = 1.0
    missing: int = 0
    values: tuple[str, ...] = ()

    @property
    def spec(self) -> tf.TensorSpec:
        """The shape and type of a raw value."""
        return tf.TensorSpec([], {CLASS: tf.int64, CATEGORY: tf.string}.get(self.kind, tf.float32))

    def __str__(self) -> str:
        count = f" ({len(self.values)})" if self.values else ""
        missing = f" ({self.missing} missing)" if self.missing else ""
        return f"{self.name} {self.kind}{count}{missing}"


class TablePreprocessing(tf.Module):
    """From a dict of columns, each `[B]`, to vectors `[B, F]` float32.

    First come the numbers, standardised to mean 0 and variance 1, and the flags as 0 or 1. Then come the flags of missing
    numbers, and then a 1 in the place of each class and category. Each category has a last place for values that the
    training split doesn't hold or that are too rare. NaN and infinity count as missing.

    `names` holds the name of each number of a vector.
    """

    kind = "table"

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(name="table")
        self.columns = tuple(columns)
        plain = [column for column in self.columns if column.kind in (NUMBER, FLAG)]
        self._plain = [column.name for column in plain]
        self._flagged = [place for place, column in enumerate(plain) if column.missing]
        self._mean = np.array([column.mean for column in plain], np.float32)
        self._scale = np.array([1 / column.std for column in plain], np.float32)
        self.names = (
            *self._plain,
            *(f"{plain[place].name} is missing" for place in self._flagged),
            *(
                f"{column.name}={value}"
                for column in self.columns
                for value in (*column.values, *(["(other)"] if column.kind == CATEGORY else []))
            ),
        )

    def __str__(self) -> str:
        """A line for the user. It names the categories of which only the most frequent values are kept."""
        rare = [column.name for column in self.columns if column.kind == CATEGORY and len(column.values) == MOST_VALUES]
        cut = f"; {', '.join(rare)}: the {MOST_VALUES} most frequent values" if rare else ""
        return f"{len(self.columns)} columns give {len(self.names)} numbers{cut}"

    @property
    def raw_specs(self) -> dict[str, tf.TensorSpec]:
        """What a batch of raw inputs is."""
        return {column.name: tf.TensorSpec([None], column.spec.dtype) for column in self.columns}

    @property
    def spec(self) -> tf.TensorSpec:
        """The shape and type of one sample of the model's inputs."""
        return tf.TensorSpec([len(self.names)], tf.float32)

    @property
    def facts(self) -> dict[str, Any]:
        """What a model may want to know: nothing beside the shape."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that `from_state` needs, ready for JSON."""
        return {
            "kind": self.kind,
            "columns": [{**dataclasses.asdict(column), "values": [*column.values]} for column in self.columns],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TablePreprocessing:
        return cls([Column(**{**facts, "values": tuple(facts["values"])}) for facts in state["columns"]])

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Vectors `[B, F]` float32."""
        parts = []
        if self._plain:
            numbers = tf.stack([tf.cast(raw[name], tf.float32) for name in self._plain], axis=1)
            there = tf.math.is_finite(numbers)
            parts.append(tf.where(there, (numbers - self._mean) * self._scale, 0.0))
            parts.append(1.0 - tf.gather(tf.cast(there, tf.float32), np.array(self._flagged, np.int32), axis=1))
        for column in self.columns:
            if column.kind == CLASS:
                parts.append(tf.one_hot(raw[column.name], len(column.values)))
            elif column.kind == CATEGORY:
                values = tf.constant([value.encode("utf-8", "surrogateescape") for value in column.values])
                known = tf.cast(raw[column.name][:, tf.newaxis] == values, tf.float32)
                parts.append(tf.concat([known, 1.0 - tf.reduce_sum(known, axis=1, keepdims=True)], axis=1))
        return tf.ensure_shape(tf.concat(parts, axis=1), [None, len(self.names)])

    def text(self, vector: np.ndarray) -> str:
        """The columns of a vector with their values, in a line."""
        place = len(self._plain)
        missing = {self._plain[k]: vector[place + n] > 0.5 for n, k in enumerate(self._flagged)}
        place += len(self._flagged)
        values = {name: vector[k] / self._scale[k] + self._mean[k] for k, name in enumerate(self._plain)}
        found = {name: "missing" if missing.get(name) else f"{value:.6g}" for name, value in values.items()}
        for column in self.columns:
            if column.kind in (CLASS, CATEGORY):
                names = (*column.values, *(["(other)"] if column.kind == CATEGORY else []))
                found[column.name] = names[int(np.argmax(vector[place : place + len(names)]))]
                place += len(names)
        return ", ".join(f"{column.name} {found[column.name]}" for column in self.columns)

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, tf.Tensor]:
        """Raw inputs from rows of a file: texts, or values, by the name of the column.

        Raises DataError (exit 2) for a row without a column, a number that can't be read, and a class that isn't one.
        """
        return {
            column.name: tf.constant(
                [_value(column, row, number) for number, row in enumerate(rows, 1)], column.spec.dtype, [len(rows)]
            )
            for column in self.columns
        }


def is_table(features: Mapping[str, Any], inputs: Sequence[str]) -> bool:
    """Whether inputs are the columns of a table: single values, and not one text alone."""
    if len(inputs) == 1 and is_text(features[inputs[0]]):
        return False
    return all(is_text(features[key]) or _is_number(features[key]) for key in inputs)


def adapt_table(
    features: Mapping[str, Any], inputs: Sequence[str], batches: Iterable[Mapping[str, tf.Tensor]]
) -> TablePreprocessing:
    """Table preprocessing from one pass over batches of raw inputs.

    Means and deviations are in float64. A category keeps its `MOST_VALUES` most frequent values; equally frequent ones come
    in alphabetical order.

    Raises DataError (exit 2) for a column that holds texts.
    """
    kinds = {key: _kind(features[key]) for key in inputs}
    moments = {key: _Moments() for key, kind in kinds.items() if kind == NUMBER}
    counts: dict[str, collections.Counter[bytes]] = {
        key: collections.Counter() for key, kind in kinds.items() if kind == CATEGORY
    }
    for batch in batches:
        for key, found in moments.items():
            found.add(batch[key].numpy())
        for key, count in counts.items():
            count.update(batch[key].numpy().tolist())
    _refuse_texts(inputs, {key: len(count) for key, count in counts.items() if _are_texts(features[key], count)})
    return TablePreprocessing([_column(key, kinds[key], features[key], moments, counts) for key in inputs])


def _column(
    key: str,
    kind: str,
    feature: Any,
    moments: Mapping[str, _Moments],
    counts: Mapping[str, collections.Counter[bytes]],
) -> Column:
    if kind == NUMBER:
        found = moments[key]
        return Column(key, kind, found.mean, found.std, found.missing)
    if kind == CATEGORY:
        frequent = sorted(counts[key].items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_VALUES]
        return Column(key, kind, values=tuple(value.decode("utf-8", "surrogateescape") for value, _ in frequent))
    return Column(key, kind, values=tuple(feature.names) if kind == CLASS else ())


class _Moments:
    """Mean and variance of numbers that come in parts (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count, self.missing, self.mean, self._squares = 0, 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        good = values[np.isfinite(values)].astype(np.float64)
        self.missing += values.size - good.size
        if not good.size:
            return
        total, mean = self.count + good.size, float(good.mean())
        difference = mean - self.mean
        self._squares += float(((good - mean) ** 2).sum()) + difference**2 * self.count * good.size / total
        self.mean += difference * good.size / total
        self.count = total

    @property
    def std(self) -> float:
        """The standard deviation, or 1 where all numbers are equal or there are none."""
        found = math.sqrt(self._squares / self.count) if self.count else 0.0
        return found if found > 1e-12 * abs(self.mean) else 1.0


def refuse_texts(features: Mapping[str, Any], inputs: Sequence[str]) -> None:
    """Raises DataError (exit 2) if a feature among the columns of a table says of itself that it holds texts."""
    _refuse_texts(inputs, {key: 0 for key in inputs if is_text(features[key]) and features[key].doc.desc == LONG_TEXT})


def _refuse_texts(inputs: Sequence[str], texts: Mapping[str, int]) -> None:
    """Raises DataError (exit 2) for columns that hold texts: their names, and the number of different values if known."""
    if not texts:
        return
    first, count = next(iter(texts.items()))
    others = ",".join(key for key in inputs if key not in texts)
    remedy = f"leave it out with input_key={others}, or " if others else ""
    how_many = f" ({count} different ones)" if count else ""
    raise DataError(
        f"the column {first!r} holds texts{how_many}, and a table is made of numbers and categories; {remedy}learn from it "
        f"alone with input_key={first}",
        exit_code=2,
    )


def _are_texts(feature: Any, count: collections.Counter[bytes]) -> bool:
    """Whether strings are texts and not categories: there are many, and most of them differ."""
    if feature.doc.desc == keys.CATEGORY:
        return False
    return len(count) > MOST_VALUES and 2 * len(count) > sum(count.values()) - count[b""]


def _is_number(feature: Any) -> bool:
    return feature.shape == () and np.dtype(feature.np_dtype).kind in "biuf"


def _kind(feature: Any) -> str:
    if isinstance(feature, tfds.features.ClassLabel):
        return CLASS
    if is_text(feature):
        return CATEGORY
    return FLAG if np.dtype(feature.np_dtype).kind == "b" else NUMBER


def _value(column: Column, row: Mapping[str, Any], number: int) -> Any:
    """The raw value of a column in a row, whose number is for messages."""
    if column.name not in row:
        raise DataError(
            f"row {number} has no column {column.name!r}; its columns are {', '.join(map(str, row))}", exit_code=2
        )
    value = row[column.name]
    text = "" if value is None else str(value).strip()
    if column.kind == CATEGORY:
        return text
    if column.kind == CLASS:
        if text in column.values:
            return column.values.index(text)
        if text.isdigit() and int(text) < len(column.values):
            return int(text)
        wanted = f"one of {', '.join(column.values[:MOST_VALUES])}"
    elif column.kind == FLAG and text.lower() in (*_TRUE, *_FALSE):
        return float(text.lower() in _TRUE)
    else:
        read = number_of(text)
        if read is not None:
            return read
        wanted = "a number"
    raise DataError(f"row {number}, column {column.name!r}: {text!r} is not {wanted}; correct it", exit_code=2)
