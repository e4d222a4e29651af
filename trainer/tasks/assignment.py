"""What a model is to learn: a task for its target, or one for each of several targets."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.compare.from_keras import objective_from_keras
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.tasks.task import Compiled, Goal, Target, Task

#: Every task, and the module that holds it as `TASK`. Any other name is `module:function`, which returns a task.
TASKS = {
    "classification": "loopwright.trainer.tasks.classification",
    "binary": "loopwright.trainer.tasks.binary",
    "multi_label": "loopwright.trainer.tasks.multi_label",
    "regression": "loopwright.trainer.tasks.regression",
    "language_model": "loopwright.trainer.tasks.language_model",
}
#: The task of each kind of target under `auto`.
AUTO = {
    "class": "classification",
    "classes": "classification",
    "multi_hot": "multi_label",
    "number": "regression",
    "numbers": "regression",
    "tokens": "language_model",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """A target with its task and what is asked of it."""

    task: Task
    goal: Goal

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.task.output_shape(self.goal.target)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The heads of a model.

    Attributes:
      heads: by the name of the target. A single one gives a model with one output, and several give a model whose outputs
        are a dict with the same names.
      weights: what the loss of each of several heads is multiplied by; 1 for those that are left out.
    """

    heads: Mapping[str, Head]
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def head(self) -> Head | None:
        """The head of a single target; None where there are several."""
        return next(iter(self.heads.values())) if len(self.heads) == 1 else None

    @property
    def name(self) -> str:
        """The name of the task, or the names for several heads: `age=regression,kind=classification`."""
        if self.head is not None:
            return self.head.task.name
        return ",".join(f"{name}={head.task.name}" for name, head in self.heads.items())

    @property
    def monitor(self) -> str:
        """The metric of evaluation that decides what is best, with its better end."""
        return "loss:min" if self.head is None else self.head.task.monitor

    @property
    def output_shape(self) -> Any:
        """The shape of the outputs for a sample; a dict by name for several heads."""
        return self._each(lambda head: head.output_shape)

    @property
    def num_outputs(self) -> Any:
        """How many numbers the last axis of the outputs has; a dict by name for several heads."""
        return self._each(lambda head: head.output_shape[-1])

    def activated(self, found: Mapping[str, bool]) -> Assignment:
        """The same, where it is known of each head whether the model gives probabilities."""
        heads = {
            name: dataclasses.replace(head, goal=dataclasses.replace(head.goal, activated=found[name]))
            for name, head in self.heads.items()
        }
        return dataclasses.replace(self, heads=heads)

    def plain(self) -> Assignment:
        """The same without label smoothing and class weights, which an exported model doesn't need."""
        heads = {
            name: dataclasses.replace(head, goal=dataclasses.replace(head.goal, label_smoothing=0.0, class_weight=None))
            for name, head in self.heads.items()
        }
        return dataclasses.replace(self, heads=heads)

    def with_task(self, name: str) -> Assignment:
        """The same for a single target, with another task."""
        ((target, head),) = self.heads.items()
        return dataclasses.replace(self, heads={target: dataclasses.replace(head, task=find(name))})

    def objective(self) -> Objective:
        """What is trained and evaluated. One that has `build` must be built before the state is created."""
        if self.head is not None:
            return self.head.task.objective(self.head.goal)
        loss, metrics, weights = self.compiled()
        return objective_from_keras(loss, metrics, loss_weights=weights)

    def compiled(self) -> Compiled:
        """The arguments with which `compile` makes `fit` train the same; dicts by name for several heads."""
        if self.head is not None:
            return self.head.task.compiled(self.head.goal)
        made = {name: head.task.compiled(head.goal) for name, head in self.heads.items()}
        weights = {name: self.weights.get(name, 1.0) for name in made} if self.weights else None
        losses = {name: found.loss for name, found in made.items()}
        return Compiled(losses, {name: found.metrics for name, found in made.items()}, weights)

    def board(self, board: Any) -> Any:
        """The hook that shows pictures on a `boards.Board`, or None."""
        heads = {name: (getattr(head.task, "board", ""), head.goal) for name, head in self.heads.items()}
        if self.head is None:
            return pkgutil.resolve_name("loopwright.trainer.tasks.boards:several")(heads, board)
        ((of_task, goal),) = heads.values()
        return pkgutil.resolve_name(of_task)(goal, board) if of_task else None

    def rows(self, outputs: Any, top: int) -> list[dict[str, Any]]:
        """What is predicted for each sample, ready for JSON, from activated outputs; by name for several heads."""
        if self.head is not None:
            return self.head.task.rows(np.asarray(outputs), self.head.goal.target, top)
        columns = {
            name: head.task.rows(np.asarray(outputs[name]), head.goal.target, top) for name, head in self.heads.items()
        }
        return [dict(zip(columns, rows, strict=True)) for rows in zip(*columns.values(), strict=True)]

    def _each(self, of: Callable[[Head], Any]) -> Any:
        if self.head is not None:
            return of(self.head)
        return {name: of(head) for name, head in self.heads.items()}


def find(name: str) -> Task:
    """A task by name, or the one that `module:function` returns. Raises TrainingError (exit 2) for any other name."""
    if name in TASKS:
        return importlib.import_module(TASKS[name]).TASK
    try:
        task = pkgutil.resolve_name(name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"task={name!r}: can't be made: {error}; name a function that returns a task", exit_code=2
        ) from None
    lacking = [part for part in ("name", "kinds", "output_shape", "objective", "compiled") if not hasattr(task, part)]
    if lacking:
        raise TrainingError(
            f"task={name!r}: returned a {type(task).__name__} without {', '.join(lacking)}; return a task",
            exit_code=2,
        )
    return task


def assign(name: str, targets: Mapping[str, Target], *, weights: Mapping[str, float], **wishes: Any) -> Assignment:
    """The task of each target.

    Args:
      name: of a task, `module:function`, or `auto`, which goes by the kind of each target.
      targets: by name; several make a head each.
      weights: of the losses of several heads, by name.
      wishes: `loss`, `metrics`, `class_weight` and `label_smoothing` of `Goal`, for a single target.

    Raises TrainingError (exit 2) for a task that doesn't take the kind of the target, and for wishes or weights that fit no
    target.
    """
    heads = {}
    for target_name, target in targets.items():
        task = find(AUTO[target.kind] if name == "auto" else name)
        if target.kind not in task.kinds:
            raise TrainingError(
                f"task={name!r}: takes {_said(task.kinds)} as the target, and {target_name!r} is {_said((target.kind,))}; "
                f"give task={AUTO[target.kind]} or another label_key",
                exit_code=2,
            )
        if task.name == "binary" and len(target.names) != 2:
            raise TrainingError(
                f"task={name!r}: takes one of two classes, and {target_name!r} has {len(target.names)}; give "
                "task=classification",
                exit_code=2,
            )
        heads[target_name] = Head(task, Goal(target, **(wishes if len(targets) == 1 else {})))
    given = [wish for wish, value in wishes.items() if value]
    if len(targets) > 1 and given:
        raise TrainingError(
            f"{given[0]}={wishes[given[0]]!r} is for a single target, and label_key names {len(targets)}; leave it out",
            exit_code=2,
        )
    unknown = sorted(set(weights) - set(targets)) if len(targets) > 1 else sorted(weights)
    if unknown:
        raise TrainingError(
            f"loss_weights: there is no head {unknown[0]!r} (of {', '.join(targets)}); weigh several targets by name",
            exit_code=2,
        )
    return Assignment(heads, weights)


def _said(kinds: tuple[str, ...]) -> str:
    """Kinds of targets as a message names them."""
    words = {
        "class": "a class",
        "classes": "a class for each position",
        "multi_hot": "a vector of labels",
        "number": "a number",
        "numbers": "numbers",
        "tokens": "the next tokens",
    }
    return " or ".join(words[kind] for kind in kinds)
