"""Binary classification: one of two classes, told by a single output."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from loopwright.trainer.tasks.task import KerasTask, Target


@dataclasses.dataclass(frozen=True)
class Binary(KerasTask):
    """Binary cross-entropy of one output, which speaks for the second class."""

    name: str = "binary"
    kinds: tuple[str, ...] = ("class",)
    loss: str = "binary_crossentropy"
    metrics: tuple[str, ...] = ("binary_accuracy", "auc")
    monitor: str = "binary_accuracy:max"
    activation: str = "sigmoid"
    board: str = "loopwright.trainer.tasks.boards:classes"

    def output_shape(self, target: Target) -> tuple[int, ...]:
        return (1,)

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """Both classes with their probabilities, the likelier first."""
        found = []
        for chance in outputs.reshape(-1).tolist():
            pair = [
                {"class": name, "probability": p} for name, p in zip(target.names, (1 - chance, chance), strict=True)
            ]
            found.append({"top": sorted(pair, key=lambda entry: -entry["probability"])[:top]})
        return found


TASK = Binary()
