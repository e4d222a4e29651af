"""Keras's losses and metrics, given labels and outputs in the form that each of them compares.

`fit` and the loop use the same objects, so both compute the same.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base import shapes
from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.errors import in_trace
from loopwright.trainer.base.monitor import direction_of

#: Losses and metrics of scores that aren't probabilities: they take the outputs as they are.
OF_SCORES = ("Hinge", "SquaredHinge", "CategoricalHinge", "CTC", "Circle")
#: Losses and metrics whose labels are classes, never one-hot.
OF_ONE_CLASS_EACH = (
    "CategoricalGeneralizedCrossEntropy",
    "SparseCategoricalCrossentropy",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "IoU",
    "MeanIoU",
    "CTC",
    "Circle",
)
#: Losses and metrics that say nothing about a single number for a sample.
_OF_SEVERAL = (
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "ConcordanceCorrelation",
    "CosineSimilarity",
    "OneHotIoU",
    "OneHotMeanIoU",
    "PearsonCorrelation",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
)
_ACTIVATIONS = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}


@no_autograph
def prepared(kind: str, y: Any, outputs: Any, activation: str, one_hot: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and outputs `[B, ...]` as a loss or metric of Keras compares them, with Keras's mask on the outputs.

    Args:
      kind: the class of the loss or metric.
      activation: `softmax` or `sigmoid` makes probabilities of the outputs; an empty text leaves them.
      one_hot: whether the labels are classes. They become one-hot labels where `kind` compares these.

    Raises ValueError for a single number where the loss or metric compares several.
    """
    mask, outputs = shapes.keras_mask(outputs), tf.convert_to_tensor(outputs)
    y = tf.convert_to_tensor(y)
    single = outputs.shape[-1] == 1
    if single and kind in _OF_SEVERAL:
        raise in_trace(
            ValueError(
                f"{kind} compares several outputs of a sample, but the model gives one; choose one of single numbers"
            )
        )
    if single and y.shape.rank == outputs.shape.rank - 1:
        y = y[..., tf.newaxis]
    elif one_hot and not single:
        labels, vectors = shapes.class_labels(y, outputs.shape)
        if kind in OF_ONE_CLASS_EACH:
            y = labels
        else:
            y = tf.cast(y, tf.float32) if vectors else shapes.one_hot(labels, outputs.shape[-1])
    if activation:
        outputs = _ACTIVATIONS[activation](tf.cast(outputs, tf.float32))
    return y, shapes.with_keras_mask(outputs, mask)


class PreparedLoss(keras.losses.Loss):
    """A loss of Keras that is given what it compares; see `prepared`."""

    def __init__(self, inner: keras.losses.Loss, kind: str, activation: str, *, one_hot: bool) -> None:
        super().__init__(name=inner.name, reduction=inner.reduction, dtype=inner.dtype)
        self.inner, self._kind, self._activation, self._one_hot = inner, kind, activation, one_hot

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.inner.call(*prepared(self._kind, y_true, y_pred, self._activation, self._one_hot))


class PreparedMetric(keras.metrics.Metric):
    """A metric of Keras that is given what it compares; see `prepared`.

    Positions are rows for a metric that knows no positions. Keras's mask counts for each metric.
    """

    def __init__(self, inner: keras.metrics.Metric, activation: str, *, one_hot: bool) -> None:
        super().__init__(name=inner.name, dtype=inner.dtype)
        self.inner, self._activation, self._one_hot = inner, activation, one_hot
        self._direction = {"min": "down", "max": "up"}.get(direction_of(inner) or "")

    @no_autograph
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y, outputs = prepared(type(self.inner).__name__, y_true, y_pred, self._activation, self._one_hot)
        if isinstance(self.inner, keras.metrics.MeanMetricWrapper):  # it knows masks and positions
            return self.inner.update_state(y, outputs, sample_weight=sample_weight)
        weights = [part for part in (sample_weight, shapes.keras_mask(outputs)) if part is not None]
        positions = outputs.shape[:-1]
        weight = shapes.weights_product([shapes.spread(tf.convert_to_tensor(part), positions) for part in weights])
        if outputs.shape.rank > 2:
            if weight is not None:
                weight = tf.reshape(tf.broadcast_to(weight, tf.shape(outputs)[:-1]), [-1])
            sizes = [[-1, part.shape[-1]] if part.shape.rank == outputs.shape.rank else [-1] for part in (y, outputs)]
            y, outputs = (tf.reshape(part, size) for part, size in zip((y, outputs), sizes, strict=True))
        return self.inner.update_state(y, outputs, sample_weight=weight)

    def result(self) -> Any:
        return self.inner.result()

    def reset_state(self) -> None:
        self.inner.reset_state()


class OwnMetric(PreparedMetric):
    """A metric of the user's own. Labels that are single numbers get the rank of the outputs; all else stays as it is."""

    @no_autograph
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y, outputs = prepared(type(self.inner).__name__, y_true, y_pred, "", False)
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        return self.inner.update_state(y, outputs, **weight)
