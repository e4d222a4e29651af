"""Classification: one class out of several, for a sample or for each of its positions (time steps, pixels)."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from loopwright.trainer.core.named_metrics import METRICS, make_metrics
from loopwright.trainer.core.objective import Objective, classification
from loopwright.trainer.tasks.task import Compiled, Goal, KerasTask, Target


@dataclasses.dataclass(frozen=True)
class Classification(KerasTask):
    """Cross-entropy over the classes, with accuracy.

    With a loss or metrics in Keras's words, both are Keras's own. Otherwise it is `trainer.classification`, which is exact
    for positions and padding, and knows label smoothing.
    """

    name: str = "classification"
    kinds: tuple[str, ...] = ("class", "classes", "tokens")
    loss: str = "sparse_categorical_crossentropy"
    metrics: tuple[str, ...] = ("accuracy",)
    monitor: str = "accuracy:max"
    activation: str = "softmax"
    board: str = "loopwright.trainer.tasks.boards:classes"

    def output_shape(self, target: Target) -> tuple[int, ...]:
        """A number for each class, at each position."""
        return (*target.shape, len(target.names))

    def objective(self, goal: Goal) -> Objective:
        if not _is_ours(goal):
            return super().objective(goal)
        return classification(
            from_logits=not goal.activated,
            label_smoothing=goal.label_smoothing,
            class_weight=goal.class_weight,
            metrics=make_metrics(goal.metrics or (), len(goal.target.names)),
        )

    def compiled(self, goal: Goal) -> Compiled:
        if not _is_ours(goal):
            return super().compiled(goal)
        if goal.label_smoothing:
            return Compiled(
                keras.losses.CategoricalCrossentropy(not goal.activated, goal.label_smoothing), ["accuracy"]
            )
        return Compiled(keras.losses.SparseCategoricalCrossentropy(from_logits=not goal.activated), ["accuracy"])

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """The likeliest classes of each sample, or the likeliest class of each of its positions."""
        if outputs.ndim > 2:
            return [{"classes": _named(best, target.names)} for best in outputs.argmax(-1)]
        order = np.argsort(-outputs, axis=-1, kind="stable")[:, :top]
        return [
            {"top": [{"class": target.names[k], "probability": float(row[k])} for k in best]}
            for row, best in zip(outputs, order, strict=True)
        ]


def _is_ours(goal: Goal) -> bool:
    """Whether `trainer.classification` knows all that is asked."""
    return goal.loss is None and set(goal.metrics or ()) <= {"accuracy", *METRICS}


def _named(classes: np.ndarray, names: tuple[str, ...]) -> Any:
    """The names of the classes `[...]`, as nested lists."""
    return names[int(classes)] if classes.ndim == 0 else [_named(part, names) for part in classes]


TASK = Classification()
