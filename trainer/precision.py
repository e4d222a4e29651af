"""Mixed precision made visible: the loss scale, the steps that it skips, and an end to skipping."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.state import TrainState


def scales(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer scales the loss."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


class Skips(tf.Module):
    """The updates that were skipped because a gradient wasn't finite: int64 scalars.

    Attributes:
      total: skipped in all.
      in_row: skipped since the last one that wasn't; `longest` is the largest value that it had since `AbortOnSkips` looked.
      told: the `total` that `AbortOnSkips` told of.
      first: the first trainable variable with a non-finite gradient at the newest skip, by its place; -1 before any.
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
    """`loss_scale` of a state whose optimizer scales the loss, and `skipped_steps` (in all) where skipping is counted."""
    values = {"loss_scale": float(state.optimizer.dynamic_scale)} if scales(state.optimizer) else {}
    if "skips" in state.extras:
        values["skipped_steps"] = float(state.extras["skips"].total)
    return values


class AbortOnSkips:
    """A hook that tells of skipped updates, and ends training when more than `limit` of them come in a row.

    Args:
      limit: updates in a row.
      say: is given a line after each call in which updates were skipped; the line names the first variable whose gradient
        wasn't finite.

    Raises TrainingError beyond the limit; it names that variable, too.
    """

    reads_metrics = False

    def __init__(self, limit: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.limit, self.say = limit, say

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if "skips" not in state.extras:
            return
        skips = state.extras["skips"]
        total, longest = int(skips.total), int(skips.longest)
        skips.longest.assign(skips.in_row)  # at every call, told of or not: else the state depends on their length
        if total == int(skips.told):
            return
        skips.told.assign(total)
        variable = state.model.trainable_variables[int(skips.first)].path
        where, remedy = f"the gradient of {variable} is not finite", "lower --learning_rate"
        if scales(state.optimizer):
            where += f", loss scale {float(state.optimizer.dynamic_scale):g}"
            remedy += ", use --precision=mixed_bfloat16"
        if longest > self.limit:
            raise TrainingError(
                f"{longest} updates in a row were skipped up to step {int(state.step)}: {where}; {remedy}, or "
                "allow more with --max_skipped_steps"
            )
        self.say(f"step {int(state.step)}: {total} updates skipped so far; {where}")
