"""Steps: from a state and a batch to changed variables and metrics. Replace this for a new algorithm."""

from __future__ import annotations

from typing import Protocol

import keras
import tensorflow as tf

from loopwright.trainer.objective import Metric, Objective
from loopwright.trainer.state import TrainState


class Step(Protocol):
    """Any function of a state and a batch that changes the state's variables and gives metrics will do."""

    def __call__(self, state: TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Metric]: ...


def gradient_step(objective: Objective) -> Step:
    """The GradientTape step: loss, gradients, one update of the optimizer.

    Loss scaling is always asked for; an optimizer that doesn't scale returns the loss as it is. One that does skips the
    update of a batch whose loss is no number, and the metrics that are none then count for nothing either.
    """

    def step(state: TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Metric]:
        with tf.GradientTape() as tape:
            outputs = objective(state.model, batch, training=True)
            scaled = state.optimizer.scale_loss(outputs.loss)
        variables = state.model.trainable_variables
        state.optimizer.apply(tape.gradient(scaled, variables), variables)
        scales = isinstance(state.optimizer, keras.optimizers.LossScaleOptimizer)
        return _finite(outputs.metrics) if scales else outputs.metrics

    return step


def _finite(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """The metrics, total and weight 0 where a total is infinite or NaN."""

    def kept(total: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_finite(total), part, tf.zeros_like(part))

    return {name: (kept(total, total), kept(total, weight)) for name, (total, weight) in metrics.items()}
