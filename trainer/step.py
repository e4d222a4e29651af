"""Steps: from a state and a batch to changed variables and metrics. Replace this for a new algorithm."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from loopwright.trainer.objective import Metric, Objective
from loopwright.trainer.state import TrainState


class Step(Protocol):
    """Any function of a state and a batch that changes the state's variables and gives metrics will do."""

    def __call__(self, state: TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Metric]: ...


def gradient_step(objective: Objective) -> Step:
    """The GradientTape step: loss, gradients, one update of the optimizer.

    Loss scaling is always asked for; an optimizer that doesn't scale returns the loss as it is.
    """

    def step(state: TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Metric]:
        with tf.GradientTape() as tape:
            outputs = objective(state.model, batch, training=True)
            scaled = state.optimizer.scale_loss(outputs.loss)
        variables = state.model.trainable_variables
        state.optimizer.apply(tape.gradient(scaled, variables), variables)
        return outputs.metrics

    return step
