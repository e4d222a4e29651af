"""Mixed precision made visible: the loss scale, the steps that it skips, and an end to skipping."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.state import TrainState


def scales(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer scales the loss."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


class Skips(tf.Module):
    """What a scaled loss has skipped: int64 scalars.

    Attributes:
      total: updates skipped in all.
      in_row: skipped since the last finite step; `longest` is the largest value that it ever had.
      first: the first trainable variable with a non-finite gradient at the newest skip, by its place; -1 before any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self.in_row, self.longest, self.first = (
            tf.Variable(value, dtype=tf.int64, trainable=False, name=name)
            for name, value in (("total", 0), ("in_row", 0), ("longest", 0), ("first", -1))
        )

    def count(self, gradients_finite: tf.Tensor) -> None:
        """Counts one step; `gradients_finite` is a bool `[V]`, one for each trainable variable."""
        skipped = tf.cast(~tf.reduce_all(gradients_finite), tf.int64)
        self.total.assign_add(skipped)
        self.in_row.assign((self.in_row + 1) * skipped)
        self.longest.assign(tf.maximum(self.longest, self.in_row))
        self.first.assign(tf.where(skipped > 0, tf.argmin(tf.cast(gradients_finite, tf.int32)), self.first))


def scaling_values(state: TrainState) -> dict[str, float]:
    """`loss_scale` of a state whose optimizer scales the loss, and `skipped_steps` (in all) where skipping is counted."""
    values = {"loss_scale": float(state.optimizer.dynamic_scale)} if scales(state.optimizer) else {}
    if "skips" in state.extras:
        values["skipped_steps"] = float(state.extras["skips"].total)
    return values


class AbortOnSkips:
    """A hook that ends training when more than `limit` steps in a row were skipped.

    Raises TrainingError that names the variable whose gradient isn't finite.
    """

    reads_metrics = False

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        skips = state.extras.get("skips")
        if skips is None or int(skips.longest) <= self.limit:
            return
        variable = state.model.trainable_variables[int(skips.first)].path
        scaled = scales(state.optimizer)
        at = f" at a loss scale of {float(state.optimizer.dynamic_scale):g}" if scaled else ""
        raise TrainingError(
            f"{int(skips.longest)} steps in a row were skipped up to step {int(state.step)}: the gradient of {variable} is "
            f"not finite{at}; lower --learning_rate{', use --precision=mixed_bfloat16' if scaled else ''}, or allow more "
            "with --max_skipped_steps"
        )
