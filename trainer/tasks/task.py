"""What a task is: objective, metrics, the form of the outputs, and what a prediction says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from loopwright.trainer.compare.from_keras import objective_from_keras
from loopwright.trainer.core.keras_names import make_loss, make_metrics
from loopwright.trainer.core.objective import Objective


class Target(Protocol):
    """What a model learns to give: a label feature of a dataset, as `loopwright.data` describes it."""

    @property
    def kind(self) -> str:
        """`class`, `classes`, `multi_hot`, `number`, `numbers` or `tokens`."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's target."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, labels or tokens; for numbers, that of the feature."""
        ...


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is asked of a task for one target.

    Attributes:
      target: what is learned.
      activated: whether the model's outputs are probabilities already, rather than logits.
      loss, metrics: in Keras's words, such as `huber:delta=2`; None takes those of the task.
      class_weight: a weight for each class, as `fit` takes it.
      label_smoothing: the share of each label that is spread over all classes.
    """

    target: Target
    activated: bool = False
    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    class_weight: Mapping[int, float] | None = None
    label_smoothing: float = 0.0


class Compiled(NamedTuple):
    """The arguments with which `compile` makes `fit` do the same."""

    loss: Any
    metrics: Any
    loss_weights: Any = None


class Task(Protocol):
    """A kind of job. Everything that depends on it is asked here.

    Attributes:
      name: of `--task`.
      kinds: the kinds of targets that it takes.
      monitor: the metric of evaluation that decides what is best, with its better end.
      metrics: those that are evaluated beside the loss unless others are named.
      activation: what makes probabilities of logits: `softmax`, `sigmoid`, or an empty text for outputs that are numbers.
    """

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def monitor(self) -> str: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def activation(self) -> str: ...

    def output_shape(self, target: Target) -> tuple[int, ...]:
        """The shape of the model's outputs for a sample."""
        ...

    def objective(self, goal: Goal) -> Objective:
        """What is trained and evaluated."""
        ...

    def compiled(self, goal: Goal) -> Compiled:
        """The loss and the metrics with which `fit` trains the same."""
        ...

    @property
    def board(self) -> str:
        """The function of `goal` and `Board` that makes the hook of pictures, as `module:function`; empty for none."""
        ...

    def rows(self, outputs: np.ndarray, target: Target, top: int) -> list[dict[str, Any]]:
        """What is predicted for each sample, ready for JSON, from activated outputs `[N, ...]` float.

        `top` is the number of classes that are named, where there are classes.
        """
        ...


@dataclasses.dataclass(frozen=True)
class KerasTask:
    """What tasks share whose loss and metrics are those of Keras."""

    name: str
    kinds: tuple[str, ...]
    loss: str
    metrics: tuple[str, ...]
    monitor: str
    activation: str = ""
    board: str = ""

    def output_shape(self, target: Target) -> tuple[int, ...]:
        """As many numbers as the target has."""
        return target.shape or (1,)

    def objective(self, goal: Goal) -> Objective:
        """Keras's loss and metrics. Call `build` before the state is created."""
        loss, metrics, _ = self.compiled(goal)
        return objective_from_keras(loss, metrics, class_weight=goal.class_weight)

    def compiled(self, goal: Goal) -> Compiled:
        """New objects at each call, because a metric belongs to one model."""
        from_logits, activation = bool(self.activation) and not goal.activated, self.activation
        smoothing = {"label_smoothing": goal.label_smoothing} if goal.label_smoothing else {}
        names = self.metrics if goal.metrics is None else goal.metrics
        return Compiled(
            make_loss(goal.loss or self.loss, from_logits=from_logits, activation=activation, **smoothing),
            make_metrics(names, from_logits=from_logits, activation=activation, num_classes=len(goal.target.names)),
        )
