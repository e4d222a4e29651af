"""Hooks that steer training by what evaluation says: early stopping, and a lower rate on a plateau.

What they remember are variables. Put the hook into the state (`extras={"early_stop": hook}`), and a resumed run goes on
waiting where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from loopwright.trainer.evaluation import Evaluate
from loopwright.trainer.loop import StopTraining
from loopwright.trainer.state import TrainState


class _Patience(tf.Module):
    """The best value of a metric so far (float64), and the evaluations since."""

    reads_metrics = False

    def __init__(self, evaluate: Evaluate, monitor: str, patience: int) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError(f"patience={patience}: at least 1 evaluation without improvement")
        self.evaluate, self.monitor, self.patience = evaluate, monitor, patience
        self.sign = -1.0 if "loss" in monitor else 1.0
        self.best = tf.Variable(-math.inf, dtype=tf.float64, trainable=False)
        self.wait = tf.Variable(0, dtype=tf.int64, trainable=False)

    def exhausted(self) -> bool:
        """Whether `patience` evaluations went by without improvement."""
        return int(self.wait) >= self.patience

    def update(self) -> None:
        """Takes in the newest evaluation. Raises KeyError if it has no such metric."""
        if self.monitor not in self.evaluate.last:
            raise KeyError(f"monitor={self.monitor!r}: evaluation gives {', '.join(self.evaluate.last)}")
        value = self.sign * self.evaluate.last[self.monitor]
        if value > float(self.best):
            self.best.assign(value)
            self.wait.assign(0)
        else:
            self.wait.assign_add(1)


class EarlyStop(_Patience):
    """Stops training after `patience` evaluations without improvement of a metric; less is better for losses.

    Call it at the cadence of `evaluate`, after it: `every(n, evaluate), every(n, early_stop(evaluate, "loss", 5))`.
    """

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        self.update()
        if self.exhausted():
            raise StopTraining(f"{self.monitor} has not improved for {self.patience} evaluations")


class ReduceOnPlateau(_Patience):
    """Multiplies the learning rate by `factor` after each `patience` evaluations without improvement of a metric.

    Raises ValueError where the rate is a schedule.
    """

    def __init__(self, evaluate: Evaluate, monitor: str, patience: int, factor: float = 0.1) -> None:
        super().__init__(evaluate, monitor, patience)
        self.factor = factor

    def __call__(self, state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        self.update()
        if self.exhausted():
            state.optimizer.learning_rate = float(state.optimizer.learning_rate) * self.factor
            self.wait.assign(0)


def early_stop(evaluate: Evaluate, monitor: str, patience: int) -> EarlyStop:
    """See `EarlyStop`."""
    return EarlyStop(evaluate, monitor, patience)


def reduce_on_plateau(evaluate: Evaluate, monitor: str, patience: int, factor: float = 0.1) -> ReduceOnPlateau:
    """See `ReduceOnPlateau`."""
    return ReduceOnPlateau(evaluate, monitor, patience, factor)
