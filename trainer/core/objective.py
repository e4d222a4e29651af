"""Objectives: from a model and a batch to the scalar that is differentiated, and the metrics beside it."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

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

    @functools.cached_property
    def _loss(self) -> keras.losses.Loss:
        if self.label_smoothing:
            return keras.losses.CategoricalCrossentropy(self.from_logits, self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.from_logits)

    def __call__(self, model: keras.Model, batch: Batch, *, training: bool) -> Outputs:
        labels = batch["y"]
        predictions = model(batch["x"], training=training)
        one_hot = tf.one_hot(labels, predictions.shape[-1]) if self.label_smoothing or self.metrics else None
        weights = row_weights(batch, self.class_weight)
        targets = one_hot if self.label_smoothing else labels
        loss = total_loss(model, self._loss(targets, predictions, sample_weight=weights))
        for metric in self.metrics:
            probabilities = tf.nn.softmax(predictions) if self.from_logits else predictions
            metric.update_state(one_hot, probabilities, batch.get("mask"))
        mask = tf.cast(batch["mask"], tf.float32) if "mask" in batch else tf.ones_like(labels, tf.float32)
        correct = tf.cast(tf.argmax(predictions, axis=-1) == tf.cast(labels, tf.int64), tf.float32)
        rows, count = tf.cast(tf.shape(labels)[0], tf.float32), tf.reduce_sum(mask)
        return Outputs(loss, {"loss": (loss * rows, count), "accuracy": (tf.reduce_sum(correct * mask), count)})


def classification(
    *,
    from_logits: bool,
    label_smoothing: float = 0.0,
    class_weight: Mapping[int, float] | None = None,
    metrics: Sequence[keras.metrics.Metric] = (),
) -> Classification:
    """Cross-entropy over integer labels, with accuracy.

    The batch holds `x`, `y` `[B]` int64 and, where there is one, `sample_weight` or a `mask` of padding, `[B]`. The
    model gives `[B, classes]`. Losses that the model adds itself (regularisers, `add_loss`) count.

    Args:
      label_smoothing: the share of each label that is spread over all classes (Szegedy et al. 2016, section 7).
      class_weight: a weight for each class, as `fit` takes it. It multiplies the sample's weight. A missing class has the
        weight 1.
      metrics: Keras metrics of one-hot labels and probabilities `[B, classes]`. Like accuracy, they aren't weighted. Give
        them to `TrainState.create`, too.
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
        predictions = tf.cast(model(batch["x"], training=training), tf.float32)
        rows = tf.shape(predictions)[0]
        if batch["y"].shape[1:].num_elements() != predictions.shape[1:].num_elements():
            raise ValueError(
                f"the model gives {tuple(predictions.shape[1:])} for a sample, the target is {tuple(batch['y'].shape[1:])}"
            )
        targets, predictions = (tf.reshape(part, [rows, -1]) for part in (batch["y"], predictions))
        loss = total_loss(model, self._loss(targets, predictions, sample_weight=row_weights(batch)))
        mask = tf.cast(batch["mask"], tf.float32) if "mask" in batch else tf.ones([rows])
        errors, count = tf.reduce_mean(tf.abs(targets - predictions), axis=1), tf.reduce_sum(mask)
        return Outputs(
            loss, {"loss": (loss * tf.cast(rows, tf.float32), count), "mae": (tf.reduce_sum(errors * mask), count)}
        )


def regression() -> Regression:
    """Mean squared error, with the mean absolute error as `mae`.

    The batch holds `x`, targets `y` `[B]` or `[B, ...]` float32 and, where there is one, `sample_weight` or a `mask` of
    padding, `[B]`. The model gives one number for each number of a target: `[B, 1]` (or `[B]`) where `y` is `[B]`. Losses
    that the model adds itself count.

    Raises ValueError for a model whose outputs and targets have different shapes.
    """
    return Regression()


#: Metrics of one-hot labels and probabilities, by name: from the number of classes to a Keras metric.
METRICS = {
    "top_5": lambda classes: keras.metrics.TopKCategoricalAccuracy(k=5, name="top_5"),
    "auc": lambda classes: keras.metrics.AUC(multi_label=True, num_labels=classes, name="auc"),
    "f1": lambda classes: keras.metrics.F1Score(average="macro", name="f1"),
}


def make_metrics(names: Sequence[str], num_classes: int) -> list[keras.metrics.Metric]:
    """Built metrics by the names of `METRICS`. The name `accuracy` is allowed and gives none: every classification has it.

    Raises ValueError for an unknown name, and for `top_5` of fewer than six classes.
    """
    unknown = set(names) - {*METRICS, "accuracy"}
    if unknown:
        raise ValueError(f"metrics={','.join(names)}: choose from accuracy, {', '.join(METRICS)}")
    if "top_5" in names and num_classes < 6:
        raise ValueError(f"metrics={','.join(names)}: top_5 of {num_classes} classes says nothing")
    made = [METRICS[name](num_classes) for name in names if name != "accuracy"]
    for metric in made:  # Some make their variables at the first update.
        metric.update_state(tf.zeros([1, num_classes]), tf.zeros([1, num_classes]))
        metric.reset_state()
    return made


def total_loss(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """The loss plus the losses that the model adds itself, summed as `fit` sums them, so that the bits are equal."""
    extra = [tf.cast(tf.reduce_sum(part), tf.float32) for part in model.losses]
    return keras.ops.sum([loss, *extra]) if extra else loss


def row_weights(batch: Mapping[str, Any], class_weight: Mapping[int, float] | None = None) -> tf.Tensor | None:
    """The weight `[B]` of each row from sample and class weights, 0 for padding; None where all rows count alike."""
    parts = [tf.cast(batch[key], tf.float32) for key in ("sample_weight", "mask") if key in batch]
    if class_weight:
        parts.append(class_weights(batch["y"], class_weight))
    weights = parts[:1]
    for part in parts[1:]:
        weights = [weights[0] * part]
    return weights[0] if weights else None


def class_weights(labels: tf.Tensor, class_weight: Mapping[int, float]) -> tf.Tensor:
    """The weight `[B]` float32 of each label's class, 1 for a class without one. Labels are `[B]`, `[B, 1]` or one-hot."""
    if labels.shape.rank == 2:
        labels = labels[:, 0] if labels.shape[-1] == 1 else tf.argmax(labels, axis=-1)
    table = tf.constant([class_weight.get(label, 1.0) for label in range(max(class_weight) + 1)], tf.float32)
    labels = tf.cast(labels, tf.int64)
    known = labels < len(table)
    return tf.where(known, tf.gather(table, tf.where(known, labels, 0)), 1.0)
