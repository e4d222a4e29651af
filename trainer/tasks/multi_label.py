"""Several labels at once: each label holds or doesn't, whatever the others say."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from loopwright.trainer.tasks.task import KerasTask, Target


@dataclasses.dataclass(frozen=True)
class MultiLabel(KerasTask):
    """Binary cross-entropy of each label, with the accuracy over labels and the macro F1 at a threshold of one half."""

    name: str = "multi_label"
    kinds: tuple[str, ...] = ("multi_hot",)
    loss: str = "binary_crossentropy"
    metrics: tuple[str, ...] = ("binary_accuracy", "f1_score:average=macro:threshold=0.5")
    monitor: str = "f1_score:max"
    activation: str = "sigmoid"
    board: str = "loopwright.trainer.tasks.boards:labels"

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """The labels that hold, likeliest first, and the probability of each label."""
        found = []
        for row in outputs:
            chances = {name: float(chance) for name, chance in zip(target.names, row, strict=True)}
            likely = sorted(chances, key=chances.__getitem__, reverse=True)
            found.append({"labels": [name for name in likely if chances[name] >= 0.5], "probabilities": chances})
        return found


TASK = MultiLabel()
