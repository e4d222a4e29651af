"""Hooks that steer training by what evaluation says: early stopping, and a lower learning rate on a plateau.

What they remember are variables. Put the hook into the state (`extras={"early_stop": hook}`). Then a resumed run goes on
counting where it stopped.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping

import tensorflow as tf

from loopwright.trainer.base.monitor import STANDARD, Monitor, directions_of
from loopwright.trainer.core.hook import StopTraining
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.hooks.evaluate import Evaluate


class _Patience(tf.Module):
    """The best value of a metric so far and the evaluations since then. With another metric, both begin again.

    Raises ValueError for a patience below 1, and for a metric whose better direction isn't known.
    """

    reads_metrics = False

    def __init__(self, evaluate: Evaluate, monitor: str | Monitor, patience: int | None) -> None:
        super().__init__()
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: at least 1 evaluation without improvement")
        self.evaluate, self.patience = evaluate, patience
        self.monitor = Monitor.of(monitor, {**STANDARD, **directions_of(evaluate.objective)})
        self.best = tf.Variable(-math.inf, dtype=tf.float64, trainable=False)  # negative where less is better
        self.wait = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.of = tf.Variable(_code(self.monitor), dtype=tf.int64, trainable=False)

    def exhausted(self) -> bool:
        """Whether `patience` evaluations went by without improvement."""
        return self.patience is not None and int(self.wait) >= self.patience and self._same_monitor()

    def update(self) -> None:
        """Takes in the newest evaluation. Raises KeyError if it has no such metric."""
        if self.monitor.name not in self.evaluate.last:
            raise KeyError(f"monitor={self.monitor.name}: evaluation gives {', '.join(self.evaluate.last)}")
        if not self._same_monitor():
            self.of.assign(_code(self.monitor))
            self.best.assign(-math.inf)
            self.wait.assign(0)
        value = self.evaluate.last[self.monitor.name] * (-1.0 if self.monitor.mode == "min" else 1.0)
        if value > float(self.best):
            self.best.assign(value)
            self.wait.assign(0)
        else:
            self.wait.assign_add(1)

    def _same_monitor(self) -> bool:
        return int(self.of) == _code(self.monitor)


def _code(monitor: Monitor) -> int:
    """A number that names a monitor, for a variable. Without the direction for the two that older checkpoints hold so."""
    plain = monitor in (Monitor("loss", "min"), Monitor("accuracy", "max"))
    return zlib.crc32((monitor.name if plain else str(monitor)).encode())


class EarlyStop(_Patience):
    """Stops training after `patience` evaluations without improvement of a metric.

    Call it after `evaluate` at the same cadence, and not at a last step that lies between. Then a run that is made longer
    later equals one that was longer from the start.

        every(n, evaluate), every(n, early_stop(evaluate, "loss", 5))

    With a patience of None it only counts, so that a resumed run may be given a patience. A restored state whose patience is
    exhausted is not trained on.
    """

    def reason(self) -> str:
        """Why it stops, for people."""
        return f"{self.monitor.name} has not improved for {int(self.wait)} evaluations"

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Raises StopTraining where training was stopped before."""
        self._stop_if_exhausted()
        yield

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.update()
        self._stop_if_exhausted()

    def _stop_if_exhausted(self) -> None:
        if self.exhausted():
            raise StopTraining(self.reason())


class ReduceOnPlateau(_Patience):
    """Multiplies the learning rate by `factor` after each `patience` evaluations without improvement of a metric.

    Raises ValueError for a factor that doesn't lie between 0 and 1. Keras raises TypeError where the rate is a schedule.
    """

    def __init__(self, evaluate: Evaluate, monitor: str | Monitor, patience: int, factor: float = 0.1) -> None:
        super().__init__(evaluate, monitor, patience)
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}: a lower rate needs a factor between 0 and 1")
        self.factor = factor

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self.update()
        if self.exhausted():
            state.optimizer.learning_rate = float(state.optimizer.learning_rate) * self.factor
            self.wait.assign(0)


def early_stop(evaluate: Evaluate, monitor: str | Monitor, patience: int | None) -> EarlyStop:
    """See `EarlyStop`."""
    return EarlyStop(evaluate, monitor, patience)


def reduce_on_plateau(
    evaluate: Evaluate, monitor: str | Monitor, patience: int, factor: float = 0.1
) -> ReduceOnPlateau:
    """See `ReduceOnPlateau`."""
    return ReduceOnPlateau(evaluate, monitor, patience, factor)
