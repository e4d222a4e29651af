"""Objectives: from a model and a batch to the scalar that is differentiated, and the metrics beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

#: A sum and the weight that it is divided by, scalars: ragged batches, masks and replicas add up exactly.
Metric = tuple[tf.Tensor, tf.Tensor]


class Outputs(NamedTuple):
    """What an objective gives: `loss`, a float32 scalar reduced as Keras reduces it, and pairs of (total, weight)."""

    loss: tf.Tensor
    metrics: dict[str, Metric]


class Objective(Protocol):
    """Any function of a model and a batch (a dict of tensors) will do."""

    def __call__(self, model: keras.Model, batch: dict[str, Any], *, training: bool) -> Outputs: ...


def classification(
    *,
    from_logits: bool,
    label_smoothing: float = 0.0,
    class_weight: Mapping[int, float] | None = None,
    metrics: Sequence[keras.metrics.Metric] = (),
) -> Objective:
    """Cross-entropy over integer labels, with accuracy.

    The batch holds `x`, `y` `[B]` int64 and, where there is one, `sample_weight` or a `mask` of padding, `[B]`. The
    model gives `[B, classes]`. Losses that the model adds itself (regularisers, `add_loss`) count.

    Args:
      label_smoothing: the share of each label that is spread over all classes (Szegedy et al. 2016, section 7).
      class_weight: a weight for each class, as `fit` takes it: it multiplies the sample's weight; 1 where it is missing.
      metrics: Keras metrics of one-hot labels and probabilities `[B, classes]`, not weighted, as accuracy is not; give
        them to `TrainState.create` too.
    """
    if label_smoothing:
        loss_fn = keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=label_smoothing)
    else:
        loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    def objective(model: keras.Model, batch: dict[str, Any], *, training: bool) -> Outputs:
        labels = batch["y"]
        predictions = model(batch["x"], training=training)
        one_hot = tf.one_hot(labels, predictions.shape[-1]) if label_smoothing or metrics else None
        weights = row_weights(batch, class_weight)
        loss = total_loss(model, loss_fn(one_hot if label_smoothing else labels, predictions, sample_weight=weights))
        for metric in metrics:
            metric.update_state(one_hot, tf.nn.softmax(predictions) if from_logits else predictions, batch.get("mask"))
        mask = tf.cast(batch["mask"], tf.float32) if "mask" in batch else tf.ones_like(labels, tf.float32)
        correct = tf.cast(tf.argmax(predictions, axis=-1) == tf.cast(labels, tf.int64), tf.float32)
        rows, count = tf.cast(tf.shape(labels)[0], tf.float32), tf.reduce_sum(mask)
        return Outputs(loss, {"loss": (loss * rows, count), "accuracy": (tf.reduce_sum(correct * mask), count)})

    return objective


def regression() -> Objective:
    """Mean squared error, with the mean absolute error as `mae`.

    The batch holds `x`, targets `y` `[B]` or `[B, ...]` float32 and, where there is one, `sample_weight` or a `mask` of
    padding, `[B]`. The model gives a number for each of a target's: `[B, 1]` (or `[B]`) where `y` is `[B]`. Losses that
    the model adds itself count.

    Raises ValueError for a model whose outputs have another shape than the targets.
    """
    loss_fn = keras.losses.MeanSquaredError()

    def objective(model: keras.Model, batch: dict[str, Any], *, training: bool) -> Outputs:
        predictions = tf.cast(model(batch["x"], training=training), tf.float32)
        rows = tf.shape(predictions)[0]
        if batch["y"].shape[1:].num_elements() != predictions.shape[1:].num_elements():
            raise ValueError(
                f"the model gives {tuple(predictions.shape[1:])} for a sample, the target is {tuple(batch['y'].shape[1:])}"
            )
        targets, predictions = (tf.reshape(part, [rows, -1]) for part in (batch["y"], predictions))
        loss = total_loss(model, loss_fn(targets, predictions, sample_weight=row_weights(batch)))
        mask = tf.cast(batch["mask"], tf.float32) if "mask" in batch else tf.ones([rows])
        errors, count = tf.reduce_mean(tf.abs(targets - predictions), axis=1), tf.reduce_sum(mask)
        return Outputs(
            loss, {"loss": (loss * tf.cast(rows, tf.float32), count), "mae": (tf.reduce_sum(errors * mask), count)}
        )

    return objective


#: Metrics of one-hot labels and probabilities, by name: from the number of classes to a Keras metric.
METRICS = {
    "top_5": lambda classes: keras.metrics.TopKCategoricalAccuracy(k=5, name="top_5"),
    "auc": lambda classes: keras.metrics.AUC(multi_label=True, num_labels=classes, name="auc"),
    "f1": lambda classes: keras.metrics.F1Score(average="macro", name="f1"),
}


def make_metrics(names: Sequence[str], num_classes: int) -> list[keras.metrics.Metric]:
    """Built metrics by the names of `METRICS`; `accuracy`, which every classification has, is passed over.

    Raises ValueError for an unknown name, and for `top_5` of fewer than six classes.
    """
    unknown = set(names) - {*METRICS, "accuracy"}
    if unknown:
        raise ValueError(f"--metrics={','.join(names)}: choose from accuracy, {', '.join(METRICS)}")
    if "top_5" in names and num_classes < 6:
        raise ValueError(f"--metrics={','.join(names)}: top_5 of {num_classes} classes says nothing")
    made = [METRICS[name](num_classes) for name in names if name != "accuracy"]
    for metric in made:  # Some make their variables at the first update.
        metric.update_state(tf.zeros([1, num_classes]), tf.zeros([1, num_classes]))
        metric.reset_state()
    return made


def total_loss(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """The loss plus what the model adds itself, summed as `fit` sums it (so that it is equal to the bit)."""
    extra = [tf.cast(tf.reduce_sum(part), tf.float32) for part in model.losses]
    return keras.ops.sum([loss, *extra]) if extra else loss


def row_weights(batch: Mapping[str, Any], class_weight: Mapping[int, float] | None = None) -> tf.Tensor | None:
    """The weight `[B]` of each row: sample and class weights, zero where the row is padding; None where all count alike."""
    parts = [tf.cast(batch[key], tf.float32) for key in ("sample_weight", "mask") if key in batch]
    if class_weight:
        parts.append(class_weights(batch["y"], class_weight))
    weights = parts[:1]
    for part in parts[1:]:
        weights = [weights[0] * part]
    return weights[0] if weights else None


def class_weights(labels: tf.Tensor, class_weight: Mapping[int, float]) -> tf.Tensor:
    """The weight `[B]` float32 of each label's class, 1 where none is given; labels are `[B]`, `[B, 1]` or one-hot."""
    if labels.shape.rank == 2:
        labels = labels[:, 0] if labels.shape[-1] == 1 else tf.argmax(labels, axis=-1)
    table = tf.constant([class_weight.get(label, 1.0) for label in range(max(class_weight) + 1)], tf.float32)
    labels = tf.cast(labels, tf.int64)
    known = labels < len(table)
    return tf.where(known, tf.gather(table, tf.where(known, labels, 0)), 1.0)
