"""Objectives: from a model and a batch to the scalar that is differentiated, and the metrics beside it."""

from __future__ import annotations

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

    def __call__(self, model: keras.Model, batch: dict[str, tf.Tensor], *, training: bool) -> Outputs: ...


def classification(*, from_logits: bool) -> Objective:
    """Cross-entropy over integer labels, with accuracy.

    The batch holds `x`, `y` `[B]` int64 and, where there is one, `sample_weight` or a `mask` of padding, `[B]`. The
    model gives `[B, classes]`. Losses that the model adds itself (regularisers, `add_loss`) count.
    """
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)

    def objective(model: keras.Model, batch: dict[str, tf.Tensor], *, training: bool) -> Outputs:
        predictions = model(batch["x"], training=training)
        loss = total_loss(model, loss_fn(batch["y"], predictions, sample_weight=row_weights(batch)))
        rows = tf.cast(tf.shape(batch["y"])[0], tf.float32)
        mask = tf.cast(batch["mask"], tf.float32) if "mask" in batch else tf.ones_like(batch["y"], tf.float32)
        correct = tf.cast(tf.argmax(predictions, axis=-1) == batch["y"], tf.float32)
        count = tf.reduce_sum(mask)
        return Outputs(loss, {"loss": (loss * rows, count), "accuracy": (tf.reduce_sum(correct * mask), count)})

    return objective


def total_loss(model: keras.Model, loss: tf.Tensor) -> tf.Tensor:
    """The loss plus what the model adds itself, summed as `fit` sums it (so that it is equal to the bit)."""
    extra = [tf.cast(tf.reduce_sum(part), tf.float32) for part in model.losses]
    return keras.ops.sum([loss, *extra]) if extra else loss


def row_weights(batch: dict[str, Any]) -> tf.Tensor | None:
    """The weight of each row: sample weights, zero where the row is padding; None where all count alike."""
    parts = [tf.cast(batch[key], tf.float32) for key in ("sample_weight", "mask") if key in batch]
    return tf.math.multiply(*parts) if len(parts) == 2 else (parts[0] if parts else None)
