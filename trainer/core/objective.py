"""Objectives: from a model and a batch to the scalar that is differentiated, and the metrics beside it."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import keras
import tensorflow as tf

from loopwright.trainer.base import shapes
from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.monitor import directions_of
from loopwright.trainer.core.feed import Batch

#: A sum and the weight that it is divided by. Both are scalars that add up exactly over ragged batches, masks and workers.
Metric = tuple[tf.Tensor, tf.Tensor]


class Outputs(NamedTuple):
    """What an objective gives: `loss`, a float32 scalar reduced as Keras reduces it, and metrics as (total, weight)."""

    loss: tf.Tensor
    metrics: dict[str, Metric]


class Objective(Protocol):
    """Any function of a model and a batch is an objective.

    An attribute `directions` may say of its metrics which end is the better one, `min` or `max` by name.
    """

    def __call__(self, model: keras.Model, batch: Batch, *, training: bool) -> Outputs: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """Cross-entropy over integer labels, with accuracy; see `classification`."""

    from_logits: bool
    label_smoothing: float
    class_weight: Mapping[int, float] | None
    metrics: Sequence[keras.metrics.Metric]

    @property
    def directions(self) -> dict[str, str]:
        """Which end of a metric is the better one, by name."""
        return {"loss": "min", "accuracy": "max", **directions_of(None, self.metrics)}

    @no_autograph
    def _loss(self, vectors: bool) -> keras.losses.Loss:
        """The loss of one-hot labels (`vectors`) or of classes."""
        if vectors:
            return keras.losses.CategoricalCrossentropy(self.from_logits, self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.from_logits)

    def __call__(self, model: keras.Model, batch: Batch, *, training: bool) -> Outputs:
        predictions = model(batch["x"], training=training)
        y = shapes.single_target("classification()", batch, predictions)
        shapes.check_classes(y.shape, predictions.shape)
        labels, vectors = shapes.class_labels(y, predictions.shape)
        soft = vectors or bool(self.label_smoothing)  # whether the loss compares distributions
        if vectors:
            targets = tf.cast(y, tf.float32)
        else:
            targets = shapes.one_hot(labels, predictions.shape[-1]) if soft or self.metrics else None
        of_class = shapes.class_weights(labels, self.class_weight) if self.class_weight else None
        seen = shapes.Counted(batch, predictions, predictions.shape[:-1], of_class)
        own = self._loss(soft)(targets if soft else labels, seen.predictions, sample_weight=seen.weights)
        loss = total_loss(model, own)
        if self.metrics:
            self._update_metrics(targets, predictions, seen.counts)
        correct = tf.cast(tf.argmax(predictions, axis=-1) == labels, tf.float32)
        return Outputs(loss, {"loss": seen.loss(own, loss), "accuracy": shapes.sum_of_rows(correct, seen.counts)})

    def _update_metrics(self, targets: tf.Tensor, predictions: tf.Tensor, counts: tf.Tensor | None) -> None:
        """Gives one-hot labels and probabilities to the Keras metrics, every position as a row."""
        probabilities = tf.nn.softmax(predictions) if self.from_logits else predictions
        if targets.shape.rank > 2:
            if counts is not None:
                counts = tf.reshape(tf.broadcast_to(counts, tf.shape(targets)[:-1]), [-1])
            targets, probabilities = (tf.reshape(part, [-1, part.shape[-1]]) for part in (targets, probabilities))
        for metric in self.metrics:
            metric.update_state(targets, probabilities, counts)


def classification(
    *,
    from_logits: bool,
    label_smoothing: float = 0.0,
    class_weight: Mapping[int, float] | None = None,
    metrics: Sequence[keras.metrics.Metric] = (),
) -> Classification:
    """Cross-entropy over the labels of samples or of positions (time steps, pixels), with accuracy.

    The model gives `[B, ..., classes]`. The batch holds `x` and labels `y` of any type of number: classes `[B, ...]` or
    `[B, ..., 1]`, or one-hot labels `[B, ..., classes]`. Where there are any, it holds a `sample_weight` `[B]` or `[B, ...]`
    and a `mask` of padding, `[B]`. The loss is averaged over the positions, and Keras's masks count, as in `fit`. Losses
    that the model adds itself (regularisers, `add_loss`) count.

    Args:
      label_smoothing: the share of each label that is spread over all classes (Szegedy et al. 2016, section 7).
      class_weight: a weight for each class, as `fit` takes it. It multiplies the sample's weight. A missing class has the
        weight 1.
      metrics: Keras metrics of one-hot labels and probabilities `[B, classes]`; each position is a row of these. Like
        accuracy, they aren't weighted. Give them to `TrainState.create`, too.

    Raises ValueError for labels, weights or outputs whose shapes don't go together.
    """
    return Classification(from_logits, label_smoothing, class_weight, tuple(metrics))


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
    """Mean squared error, with the mean absolute error; see `regression`."""

    directions = types.MappingProxyType({"loss": "min", "mae": "min"})

    @functools.cached_property
    def _loss(self) -> keras.losses.Loss:
        return keras.losses.MeanSquaredError()

    def __call__(self, model: keras.Model, batch: Batch, *, training: bool) -> Outputs:
        given = model(batch["x"], training=training)
        y = shapes.single_target("regression()", batch, given)
        predictions = tf.cast(given, tf.float32)
        targets = shapes.like_outputs(y, predictions)
        if predictions.shape.rank == 1:
            targets, predictions = targets[:, tf.newaxis], predictions[:, tf.newaxis]
        predictions = shapes.with_keras_mask(predictions, shapes.keras_mask(given))
        seen = shapes.Counted(batch, predictions, predictions.shape[:-1])
        own = self._loss(targets, seen.predictions, sample_weight=seen.weights)
        loss = total_loss(model, own)
        errors = tf.reduce_mean(tf.abs(targets - predictions), axis=-1)
        return Outputs(loss, {"loss": seen.loss(own, loss), "mae": shapes.sum_of_rows(errors, seen.counts)})


def regression() -> Regression:
    """Mean squared error, with the mean absolute error as `mae`.

    The batch holds `x` and targets `y` `[B]` or `[B, ...]` of any type of number. The model gives one number for each number
    of a target: `[B, 1]` (or `[B]`) where `y` is `[B]`. Where there are any, the batch holds a `mask` of padding `[B]` and a
    `sample_weight`, `[B]` or one for each vector of the last axis. Keras's masks count as in `fit`, and so do losses that
    the model adds itself.

    Raises ValueError for a model whose outputs and targets have different sizes.
    """
    return Regression()


@no_autograph
def total_loss(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """The loss plus the losses that the model adds itself, summed as `fit` sums them, so that the bits are equal."""
    extra = [tf.cast(tf.reduce_sum(part), tf.float32) for part in model.losses]
    return keras.ops.sum([loss, *extra]) if extra else loss
