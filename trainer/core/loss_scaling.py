"""Loss scaling in mixed precision: the scale, and the count of the updates that it skips."""

from __future__ import annotations

import keras
import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.core.state import TrainState


@no_autograph
def scales(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer scales the loss."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


class Skips(tf.Module):
    """The updates that were skipped because a gradient wasn't finite: int64 scalars.

    Attributes:
      total: the number of skipped updates in all.
      in_row: the number skipped since the last update that wasn't.
      longest: the largest value of `in_row` since `AbortOnSkips` last looked.
      told: the `total` that `AbortOnSkips` last reported.
      first: the place of the first trainable variable with a non-finite gradient at the newest skip; -1 before any skip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self.in_row, self.longest, self.told, self.first = (
            tf.Variable(value, dtype=tf.int64, trainable=False) for value in (0, 0, 0, 0, -1)
        )

    def count(self, gradients_finite: tf.Tensor) -> None:
        """Counts one update; `gradients_finite` is a bool `[V]`, one for each trainable variable."""
        skipped = tf.cast(~tf.reduce_all(gradients_finite), tf.int64)
        self.total.assign_add(skipped)
        self.in_row.assign((self.in_row + 1) * skipped)
        self.longest.assign(tf.maximum(self.longest, self.in_row))
        self.first.assign(tf.where(skipped > 0, tf.argmin(tf.cast(gradients_finite, tf.int32)), self.first))


def scaling_values(state: TrainState) -> dict[str, float]:
    """What a record says of loss scaling: `loss_scale`, and `skipped_steps` in all, where the state has them."""
    values = {"loss_scale": float(state.optimizer.dynamic_scale)} if scales(state.optimizer) else {}
    if "skips" in state.extras:
        values["skipped_steps"] = float(state.extras["skips"].total)
    return values
