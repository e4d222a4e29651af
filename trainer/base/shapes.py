"""Labels, weights and masks brought into line with a model's outputs, as `fit` does it.

Every check here looks at static shapes and dtypes. It runs while a step is traced, and costs a compiled step nothing.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.errors import in_trace


@no_autograph
def single_target(objective: str, batch: Mapping[str, Any], predictions: Any) -> tf.Tensor:
    """The batch's `y` for an objective that compares one target with one output.

    Raises ValueError for a batch without `y`, for several targets or outputs, and for targets that aren't numbers.
    """
    if batch.get("y") is None:
        raise in_trace(ValueError(f"{objective} needs labels, but the batch has no y, only {', '.join(sorted(batch))}"))
    for what, value in (("y", batch["y"]), ("the output of the model", predictions)):
        if tf.nest.is_nested(value):
            kind = f"{type(value).__name__} of {len(value)}"
            raise in_trace(
                ValueError(
                    f"{objective} compares one target with one output, but {what} is a {kind}; use objective_from_keras"
                )
            )
    y = tf.convert_to_tensor(batch["y"])
    if y.dtype == tf.string or y.dtype.is_complex:
        raise in_trace(
            ValueError(f"{objective} needs numbers as y, but y is of dtype {y.dtype.name}; convert it in the feed")
        )
    if y.shape.rank is None or predictions.shape.rank is None:
        raise in_trace(
            ValueError(f"{objective} needs to know the rank of y and of the output; use tf.ensure_shape in the feed")
        )
    return y


@no_autograph
def class_labels(y: tf.Tensor, outputs: tf.TensorShape) -> tuple[tf.Tensor, bool]:
    """The class of each position, int64, and whether `y` holds a vector for each position (one-hot labels).

    A position is a sample, a time step or a pixel. For outputs `[B, ..., C]`, `y` is `[B, ...]`, `[B, ..., 1]` or
    `[B, ..., C]`. Labels that aren't integers are rounded, as `fit` rounds them for class weights.
    """
    vectors = y.shape.rank > 1 and y.shape.rank != outputs.rank - 1
    if vectors and y.shape[-1] == 1:
        y, vectors = tf.squeeze(y, axis=-1), False
    if vectors:
        return tf.argmax(y, axis=-1), True
    return tf.cast(tf.round(y) if y.dtype.is_floating else y, tf.int64), False


@no_autograph
def check_classes(y: tf.TensorShape, outputs: tf.TensorShape) -> None:
    """Raises ValueError for labels or outputs that aren't those of a classification."""
    if outputs.rank < 2 or outputs[-1] == 1:
        raise in_trace(
            ValueError(
                f"classification() needs a number for each class, but the model gives {_tuple(outputs[1:])} for a sample; "
                "give it an output for each class, or use objective_from_keras('binary_crossentropy', ['accuracy'])"
            )
        )
    allowed = (outputs[:-1], outputs[:-1].concatenate([1]), outputs)
    if not any(y.is_compatible_with(shape) for shape in allowed):
        raise in_trace(
            ValueError(
                f"y is {_tuple(y[1:])} for a sample, but the model gives {_tuple(outputs[1:])}; classification() takes "
                f"classes {_tuple(allowed[0][1:])} or one-hot labels {_tuple(outputs[1:])}"
            )
        )


@no_autograph
def like_outputs(y: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """Targets as float32 in the shape of the predictions. Both have the same numbers in the same order.

    Raises ValueError where their sizes differ.
    """
    y, given, wanted = tf.cast(y, tf.float32), y.shape[1:], predictions.shape[1:]
    if given == wanted and given.is_fully_defined():
        return y
    if given.is_fully_defined() and wanted.is_fully_defined():
        fits = given.num_elements() == wanted.num_elements()
    else:
        fits = _without_ones(given).is_compatible_with(_without_ones(wanted))
    if not fits:
        raise in_trace(
            ValueError(
                f"the model gives {_tuple(wanted)} for a sample, the target is {_tuple(given)}; regression() compares one "
                "number with one number, so change the last layer or the target"
            )
        )
    return tf.reshape(y, tf.shape(predictions))


def spread(weight: tf.Tensor, values: tf.TensorShape, name: str = "sample_weight") -> tf.Tensor:
    """A weight of samples `[B]` or positions `[B, ...]`, float32, which multiplies values of the given shape.

    Raises ValueError where it doesn't fit.
    """
    weight, given = tf.cast(weight, tf.float32), weight.shape
    if given.rank is None:
        raise in_trace(ValueError(f"{name} has an unknown rank; use tf.ensure_shape in the feed"))
    if given.rank == values.rank + 1 and given[-1] == 1:
        weight = tf.squeeze(weight, axis=-1)
    for _ in range(values.rank - weight.shape.rank):
        weight = weight[..., tf.newaxis]
    sizes = zip(weight.shape[1:], values[1:], strict=False)
    if weight.shape.rank > values.rank or any(None not in (a, b) and a not in (1, b) for a, b in sizes):
        raise in_trace(
            ValueError(
                f"{name} is {_tuple(given[1:])} for a sample, but the loss has {_tuple(values[1:])} values for a sample; "
                "give one weight for each sample or for each value"
            )
        )
    return weight


def weights_product(weights: Sequence[tf.Tensor]) -> tf.Tensor | None:
    """The product of weights; None where there are none, so that all values count alike."""
    return functools.reduce(operator.mul, weights) if weights else None


def keras_mask(predictions: Any) -> Any:
    """The mask that Keras's layers give along with an output (from `Masking`, `Embedding(mask_zero=True)`), or None."""
    return getattr(predictions, "_keras_mask", None)


def with_keras_mask(predictions: tf.Tensor, mask: Any) -> tf.Tensor:
    """The predictions with a mask for Keras's losses and metrics, or as they are where the mask is None."""
    if mask is None:
        return predictions
    predictions = tf.identity(predictions)
    predictions._keras_mask = tf.cast(mask, tf.bool)
    return predictions


def without_padding(part: Any, mask: tf.Tensor) -> Any:
    """The rows of a tensor that aren't padding, with those of Keras's mask. None stays None."""
    if part is None:
        return None
    rows, of_keras = tf.boolean_mask(part, mask), keras_mask(part)
    return rows if of_keras is None else with_keras_mask(rows, tf.boolean_mask(of_keras, mask))


@no_autograph
def sum_of_rows(values: tf.Tensor, weights: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """A metric of values `[B, ...]`: the mean of each row's positions, summed over the rows, and the weight of the sum.

    This is how Keras's metrics count positions.
    """
    if weights is None:
        return tf.reduce_sum(_of_rows(values)), tf.cast(tf.shape(values)[0], tf.float32)
    return tf.reduce_sum(_of_rows(values * weights)), tf.reduce_sum(_of_rows(weights))


@no_autograph
def named_scalars(results: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Results as scalars by name. The parts of a vector or matrix have numbers: `f1/0`, `f1/1`, …"""
    scalars: dict[str, tf.Tensor] = {}
    for name, value in results.items():
        tensor = tf.convert_to_tensor(value)  # A result may be a variable of a metric, which training changes.
        parts = tf.unstack(tf.reshape(tensor, [-1])) if tensor.shape.rank else []
        scalars |= {f"{name}/{place}": part for place, part in enumerate(parts)} or {name: tensor}
    return scalars


def _of_rows(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(values, axis=range(1, values.shape.rank)) if values.shape.rank > 1 else values


def _without_ones(shape: tf.TensorShape) -> tf.TensorShape:
    return tf.TensorShape([size for size in shape if size != 1])


def _tuple(shape: tf.TensorShape) -> tuple[int | None, ...]:
    return tuple(shape.as_list())


class Counted:
    """How the positions of a batch count: by sample and class weights, masks of padding, and masks of Keras's layers.

    Args:
      predictions: what the model gave, `[B, ...]`.
      values: the shape of the loss before it is averaged, a value for each position.
      of_class: the weight of each position by its class.

    Attributes:
      weights: what multiplies the values of the loss beside Keras's mask, or None.
      counts: 1 for each position that counts and 0 for others, or None where all count.
      predictions: the predictions with a mask of Keras that leaves out padding, too.
    """

    @no_autograph
    def __init__(
        self, batch: Mapping[str, Any], predictions: tf.Tensor, values: tf.TensorShape, of_class: Any = None
    ) -> None:
        self._rows, self._real = tf.cast(tf.shape(predictions)[0], tf.float32), None
        weights = [spread(batch[key], values, key) for key in ("sample_weight", "mask") if key in batch]
        self.weights = weights_product(weights if of_class is None else [*weights, of_class])
        counts = [spread(batch["mask"], values, "mask")] if "mask" in batch else []
        if counts:
            self._real = tf.reduce_sum(counts[0])
        of_keras = keras_mask(predictions)
        if of_keras is not None:
            counts.append(spread(of_keras, values, "the mask of the model's output"))
            # Keras divides by the positions that its mask leaves, so padding must be out of it.
            predictions = with_keras_mask(predictions, weights_product(counts))
        self.counts, self.predictions = weights_product(counts), predictions
        self._divided = self._real if of_keras is not None else self._rows

    @no_autograph
    def loss(self, own: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss as a metric: the mean over the rows that aren't padding.

        Args:
          own: the loss of the positions, which Keras divided by all rows, padding included, where it knows no mask.
          loss: the same with the losses that the model adds itself.
        """
        if self._real is None:
            return loss * self._rows, self._rows
        return own * self._divided + (loss - own) * self._real, self._real


@no_autograph
def one_hot(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Classes as one-hot labels float32. A class out of range becomes NaN, as in Keras's loss of classes, never zeros."""
    known = tf.where((labels >= 0) & (labels < classes), 0.0, math.nan)
    return tf.one_hot(labels, classes) + known[..., tf.newaxis]


@no_autograph
def class_weights(labels: tf.Tensor, class_weight: Mapping[int, float]) -> tf.Tensor:
    """The weight float32 of the class of each position, 1 for a class without one. Labels are int64 `[B, ...]`."""
    table = tf.constant([class_weight.get(label, 1.0) for label in range(max(class_weight) + 1)], tf.float32)
    known = (labels >= 0) & (labels < table.shape[0])
    return tf.where(known, tf.gather(table, tf.where(known, labels, 0)), 1.0)
