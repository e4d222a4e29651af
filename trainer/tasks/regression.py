"""Regression: one number or several for a sample."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from loopwright.trainer.tasks.task import KerasTask, Target


@dataclasses.dataclass(frozen=True)
class Regression(KerasTask):
    """Mean squared error, with its root and the mean absolute error in the units of the target."""

    name: str = "regression"
    kinds: tuple[str, ...] = ("number", "numbers")
    loss: str = "mean_squared_error"
    metrics: tuple[str, ...] = ("root_mean_squared_error", "mean_absolute_error")
    monitor: str = "root_mean_squared_error:min"
    board: str = "loopwright.trainer.tasks.boards:numbers"

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """The number, or the numbers as nested lists."""
        shaped = outputs.reshape(-1) if target.kind == "number" else outputs
        return [{"prediction": value} for value in shaped.tolist()]


TASK = Regression()
