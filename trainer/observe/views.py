"""What is looked at in a pass over a split, for each kind of target.

A view says what is read off each batch, within the compiled pass, and gathers it outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import in_trace
from loopwright.trainer.base.shapes import class_labels, keras_mask, spread
from loopwright.trainer.observe.label_predictions import LabelPredictions
from loopwright.trainer.observe.number_predictions import MOST_NUMBERS, NumberPredictions
from loopwright.trainer.observe.position_predictions import CONFIDENCES, NONE, PositionPredictions
from loopwright.trainer.observe.predictions import FIRST, MOST_PAIRED, Predictions
from loopwright.trainer.observe.scores import BINS
from loopwright.trainer.observe.shown import GOOD, Shown, as_texts

Text = Callable[[np.ndarray], str]
Arrays = Mapping[str, np.ndarray]


class Gathered(Protocol):
    """What a view gathers in one pass."""

    def add(self, index: np.ndarray, inputs: np.ndarray, found: Arrays) -> None:
        """Takes a batch: the places of its samples in the split, their inputs, and what the view has read."""
        ...

    def done(self, step: int) -> Any:
        """What was gathered, at a training step."""
        ...


class View(Protocol):
    """What is looked at."""

    def of_batch(self, outputs: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """What is read off a batch without padding, traced: outputs of the model, targets, and weights if there are any."""
        ...

    def begin(self) -> Gathered: ...


@dataclasses.dataclass(frozen=True)
class ClassView:
    """One class for each sample.

    Attributes:
      names: of the classes, where they are known.
      activated: whether the outputs are probabilities.
      text: makes a text of an input.
    """

    names: Sequence[str] = ()
    activated: bool = False
    text: Text | None = None

    def of_batch(self, outputs: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The class and the predicted class of each sample `[B]`, its confidence, and the number of classes."""
        if outputs.shape.rank != 2:
            raise in_trace(
                ValueError(
                    f"the model gives {tuple(outputs.shape[1:])} for a sample; predictor() shows models that give a number "
                    "for each class of a sample"
                )
            )
        labels, _ = class_labels(y, outputs.shape)
        if outputs.shape[-1] == 1:
            chance = (outputs if self.activated else tf.sigmoid(outputs))[:, 0]
            predicted, confidence = tf.cast(chance > 0.5, tf.int64), tf.maximum(chance, 1 - chance)
        else:
            chances = outputs if self.activated else tf.nn.softmax(outputs)
            predicted, confidence = tf.argmax(chances, axis=-1), tf.reduce_max(chances, axis=-1)
        return {"labels": labels, "predicted": predicted, "confidence": confidence, "width": tf.shape(outputs)[-1]}

    def begin(self) -> _Classes:
        return _Classes(self)


class _Classes:
    def __init__(self, view: ClassView) -> None:
        self.view, self._shown, self._width = view, Shown(), 0
        self._columns: list[tuple[np.ndarray, ...]] = []

    def add(self, index: np.ndarray, inputs: np.ndarray, found: Arrays) -> None:
        columns = tuple(found[name] for name in ("labels", "predicted", "confidence"))
        labels, predicted, confidence = columns
        self._shown.add(np.where(labels != predicted, confidence, GOOD), {"inputs": inputs})
        self._columns.append((index, *columns))
        self._width = int(found["width"])

    def done(self, step: int) -> Predictions:
        rows, parts = self._shown.done()
        index, labels, predicted, confidence = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        return Predictions(
            index,
            labels,
            predicted,
            confidence,
            shown=rows,
            inputs=parts["inputs"],
            num_classes=max(self._width, 2),
            step=step,
            names=np.array(self.view.names, np.str_),
            texts=as_texts(parts["inputs"], self.view.text),
            binary=self._width == 1,
        )


@dataclasses.dataclass(frozen=True)
class LabelView:
    """Several labels at once. The attributes are those of `ClassView`."""

    names: Sequence[str]
    activated: bool = False
    text: Text | None = None

    def of_batch(self, outputs: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Labels `[B, L]` bool, probabilities `[B, L]` float32, and the counts `[L, 2, BINS]` of the batch."""
        chances = outputs if self.activated else tf.sigmoid(outputs)
        labels, size = tf.cast(tf.reshape(y, tf.shape(chances)), tf.float32) > 0.5, len(self.names)
        known = tf.where(tf.math.is_finite(chances), chances, 0.0)
        place = tf.clip_by_value(tf.cast(tf.math.ceil(known * BINS), tf.int32) - 1, 0, BINS - 1)
        place += BINS * (tf.cast(labels, tf.int32) + 2 * tf.range(size))
        counts = tf.math.bincount(tf.reshape(place, [-1]), minlength=size * 2 * BINS, maxlength=size * 2 * BINS)
        return {"labels": labels, "chances": chances, "counts": tf.reshape(counts, [size, 2, BINS])}

    def begin(self) -> _Labels:
        return _Labels(self)


class _Labels:
    def __init__(self, view: LabelView) -> None:
        self.view, self._shown, self._right = view, Shown(), 0
        self._counts = np.zeros([len(view.names), 2, BINS], np.int64)

    def add(self, index: np.ndarray, inputs: np.ndarray, found: Arrays) -> None:
        labels, chances = found["labels"], found["chances"]
        wrong = ((chances > 0.5) != labels).any(axis=1)
        distance = np.abs(chances - labels).max(axis=1, initial=0.0)
        parts = {"index": index, "inputs": inputs, "labels": labels, "chances": chances}
        self._shown.add(np.where(wrong, distance, GOOD), parts)
        self._counts += found["counts"]
        self._right += int((~wrong).sum())

    def done(self, step: int) -> LabelPredictions:
        rows, parts = self._shown.done()
        names, texts = np.array(self.view.names, np.str_), as_texts(parts["inputs"], self.view.text)
        return LabelPredictions(
            self._counts, self._shown.rows, self._right, rows=rows, names=names, texts=texts, step=step, **parts
        )


@dataclasses.dataclass(frozen=True)
class NumberView:
    """A number or several. `name` is that of the target, and `text` makes a text of an input."""

    name: str
    text: Text | None = None

    def of_batch(self, outputs: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Targets and predictions, each `[B, K]` float32."""
        flat = [tf.shape(outputs)[0], outputs.shape[1:].num_elements() or 1]
        return {"labels": tf.reshape(tf.cast(y, tf.float32), flat), "predicted": tf.reshape(outputs, flat)}

    def begin(self) -> _Numbers:
        return _Numbers(self)


class _Numbers:
    def __init__(self, view: NumberView) -> None:
        self.view, self._shown, self._every = view, Shown(first=0), 1
        self._kept: list[list[np.ndarray]] = []
        self._mean: np.ndarray | float = 0.0
        self._sums: Any = 0.0

    def add(self, index: np.ndarray, inputs: np.ndarray, found: Arrays) -> None:
        labels, predicted = (found[name].astype(np.float64) for name in ("labels", "predicted"))
        before, count, error = self._shown.rows, len(labels), predicted - labels
        self._add_sums(labels, error, before)
        kept = (before + np.arange(count)) % self._every == 0
        self._kept.append(
            [part[kept] for part in (before + np.arange(count), index, found["labels"], found["predicted"])]
        )
        self._thin(labels.shape[1])
        parts = {"index": index, "inputs": inputs, "labels": found["labels"], "predicted": found["predicted"]}
        self._shown.add(np.abs(error).max(axis=1, initial=0.0), parts)

    def _add_sums(self, labels: np.ndarray, error: np.ndarray, before: int) -> None:
        """Adds squared and absolute errors, and the spread of the targets (Chan, Golub and LeVeque 1979)."""
        count = len(labels)
        if not count:
            return
        mean = labels.mean(axis=0)
        away, total = mean - self._mean, before + count
        spread_ = ((labels - mean) ** 2).sum(axis=0) + away**2 * before * count / total
        self._mean = self._mean + away * count / total
        self._sums = self._sums + np.stack([(error**2).sum(axis=0), np.abs(error).sum(axis=0), spread_])

    def _thin(self, width: int) -> None:
        """Drops every second row of those that are kept, while they are too many."""
        while sum(len(rows) for rows, *_ in self._kept) > max(MOST_NUMBERS // width, FIRST):
            self._every *= 2
            self._kept = [[part[batch[0] % self._every == 0] for part in batch] for batch in self._kept]

    def done(self, step: int) -> NumberPredictions:
        _, index, labels, predicted = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        _, parts = self._shown.done()
        sums, texts = self._sums, as_texts(parts["inputs"], self.view.text)
        return NumberPredictions(
            *(index, labels, predicted, self._shown.rows, sums[0], sums[1], sums[2]),
            shown=parts["index"],
            inputs=parts["inputs"],
            shown_labels=parts["labels"],
            shown_predicted=parts["predicted"],
            name=np.array(self.view.name),
            texts=texts,
            step=step,
        )


@dataclasses.dataclass(frozen=True)
class PositionView:
    """A class for each position. The attributes are those of `ClassView`; `text` makes a text of what is at a position."""

    names: Sequence[str]
    activated: bool = False
    text: Text | None = None

    def of_batch(self, outputs: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """True and predicted classes `[B, ...]`, with -1 for what doesn't count, and counts of the batch."""
        size, labels = len(self.names), class_labels(y, outputs.shape)[0]
        chances = outputs if self.activated else tf.nn.softmax(outputs)
        predicted, confidence = tf.argmax(chances, axis=-1), tf.reduce_max(chances, axis=-1)
        counts = (labels >= 0) & (labels < size)
        for one in (weight, keras_mask(outputs)):
            if one is not None:
                counts &= spread(one, labels.shape) > 0
        true, said = labels[counts], predicted[counts]
        found = {"true": true, "predicted": said, "right": true[true == said]}
        totals = {name: _count(part, size) for name, part in found.items()}
        if size <= MOST_PAIRED:
            totals["pairs"] = tf.reshape(_count(true * size + said, size * size), [size, size])
        sure = tf.boolean_mask(confidence, counts)
        sure_known = tf.where(tf.math.is_finite(sure), sure, 0.0)
        place = tf.clip_by_value(tf.cast(sure_known * CONFIDENCES, tf.int32), 0, CONFIDENCES - 1)
        weights = (tf.cast(part, tf.float64) for part in (sure_known, true == said, tf.ones_like(sure)))
        totals["confidences"] = tf.stack([tf.math.unsorted_segment_sum(one, place, CONFIDENCES) for one in weights])
        hidden = tf.constant(NONE, tf.int64)
        return totals | {"labels": tf.where(counts, labels, hidden), "said": tf.where(counts, predicted, hidden)}

    def begin(self) -> _Positions:
        return _Positions(self)


def _count(values: tf.Tensor, size: int) -> tf.Tensor:
    return tf.math.bincount(tf.cast(values, tf.int32), minlength=size, maxlength=size, dtype=tf.int32)


class _Positions:
    def __init__(self, view: PositionView) -> None:
        self.view, self._shown = view, Shown()
        self._totals: dict[str, np.ndarray] = {}

    def add(self, index: np.ndarray, inputs: np.ndarray, found: Arrays) -> None:
        labels, said = found["labels"], found["said"]
        axes = tuple(range(1, labels.ndim))
        counts = (labels != NONE).sum(axis=axes)
        wrong = (labels != said).sum(axis=axes)
        parts = {"index": index, "inputs": inputs, "labels": labels, "said": said}
        self._shown.add(np.where(wrong > 0, wrong / np.maximum(counts, 1), GOOD), parts)
        for name, value in found.items():
            if name not in parts:
                exact = value.astype(np.float64 if value.dtype.kind == "f" else np.int64)
                self._totals[name] = self._totals[name] + exact if name in self._totals else exact

    def done(self, step: int) -> PositionPredictions:
        rows, parts = self._shown.done()
        empty = {} if "pairs" in self._totals else {"pairs": np.zeros([0, 0], np.int64)}
        return PositionPredictions(
            **{**self._totals, **parts, **empty},
            samples=self._shown.rows,
            rows=rows,
            names=np.array(self.view.names, np.str_),
            texts=self._texts(parts["inputs"], parts["labels"].shape[1:]),
            step=step,
        )

    def _texts(self, inputs: np.ndarray, positions: tuple[int, ...]) -> np.ndarray:
        """The texts of tokens `[S, T]`, where each position has a token."""
        text = self.view.text
        if text is None or inputs.shape[1:] != positions or len(positions) != 1:
            return as_texts(inputs, None)
        return np.array([[text(row[place : place + 1]) for place in range(len(row))] for row in inputs], np.str_)
