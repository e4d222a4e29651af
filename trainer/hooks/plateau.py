"""Hooks that steer training by what evaluation says: early stopping, and a lower rate on a plateau.

What they remember are variables. Put the hook into the state (`extras={"early_stop": hook}`), and a resumed run goes on
waiting where it stopped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import tensorflow as tf

from loopwright.trainer.core.loop import StopTraining
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.hooks.evaluate import Evaluate


class _Patience(tf.Module):
    """The best value of a metric so far (float64), and the evaluations since. Another metric begins anew."""

    reads_metrics = False

    def __init__(self, evaluate: Evaluate, monitor: str, patience: int | None) -> None:
        super().__init__()
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: at least 1 evaluation without improvement")
        self.evaluate, self.monitor, self.patience = evaluate, monitor, patience
        self.sign = -1.0 if "loss" in monitor else 1.0
        self.best = tf.Variable(-math.inf, dtype=tf.float64, trainable=False)
        self.wait = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.of = tf.Variable(zlib.crc32(monitor.encode()), dtype=tf.int64, trainable=False)

    def exhausted(self) -> bool:
        """Whether `patience` evaluations went by without improvement."""
        return self.patience is not None and int(self.wait) >= self.patience and self._same_monitor()

    def update(self) -> None:
        """Takes in the newest evaluation. Raises KeyError if it has no such metric."""
        if self.monitor not in self.evaluate.last:
            raise KeyError(f"monitor={self.monitor!r}: evaluation gives {', '.join(self.evaluate.last)}")
        if not self._same_monitor():
            self.of.assign(zlib.crc32(self.monitor.encode()))
            self.best.assign(-math.inf)
            self.wait.assign(0)
        value = self.sign * self.evaluate.last[self.monitor]
        if value > float(self.best):
            self.best.assign(value)
            self.wait.assign(0)
        else:
            self.wait.assign_add(1)

    def _same_monitor(self) -> bool:
        return int(self.of) == zlib.crc32(self.monitor.encode())


class EarlyStop(_Patience):
    """Stops training after `patience` evaluations without improvement of a metric; less is better for losses.

    Call it at the cadence of `evaluate`, after it, and not at a last step between: a run that is made longer later shall
    count as one that was longer from the start.

        every(n, evaluate), every(n, early_stop(evaluate, "loss", 5), at_last=False)

    With a patience of None it only counts, so that a resumed run may be given one.
    """

    def reason(self) -> str:
        """Why it stops, for people."""
        return f"{self.monitor} has not improved for {int(self.wait)} evaluations"

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.update()
        if self.exhausted():
            raise StopTraining(self.reason())


class ReduceOnPlateau(_Patience):
    """Multiplies the learning rate by `factor` after each `patience` evaluations without improvement of a metric.

    Raises ValueError for a factor that doesn't lie between 0 and 1; Keras raises TypeError where the rate is a schedule.
    """

    def __init__(self, evaluate: Evaluate, monitor: str, patience: int, factor: float = 0.1) -> None:
        super().__init__(evaluate, monitor, patience)
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}: a lower rate needs a factor between 0 and 1")
        self.factor = factor

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.update()
        if self.exhausted():
            state.optimizer.learning_rate = float(state.optimizer.learning_rate) * self.factor
            self.wait.assign(0)


def early_stop(evaluate: Evaluate, monitor: str, patience: int | None) -> EarlyStop:
    """See `EarlyStop`."""
    return EarlyStop(evaluate, monitor, patience)


def reduce_on_plateau(evaluate: Evaluate, monitor: str, patience: int, factor: float = 0.1) -> ReduceOnPlateau:
    """See `ReduceOnPlateau`."""
    return ReduceOnPlateau(evaluate, monitor, patience, factor)
