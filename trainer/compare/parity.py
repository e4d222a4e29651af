"""Certifies that the loop trains exactly as `model.fit` does: both take the same steps and are compared after each one.

certificate = certify(compiled_model, state, step, feed, num_steps=200, execution=graph())
certificate.identical
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.core.execution import Execution, Run
from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step

#: The arguments of `compile` with which `fit` runs like each execution.
FIT_OPTIONS: dict[str, dict[str, bool]] = {
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True, "jit_compile": False},
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first step after which two trainings differ (0: before the first step), and the variable."""

    step: int
    what: str


@dataclasses.dataclass
class Part:
    """How much of one kind of variable was compared, and the largest difference of all steps (infinite for a NaN)."""

    tensors: int
    values: int
    max_abs_difference: float = 0.0
    first_difference: Difference | None = None


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The result of the comparison.

    Attributes:
      steps: the number of steps that both trainings took.
      parts: `weights`, `slots` (all variables of the optimizer) and `seeds` (of dropout and similar layers).
      loss_difference: the largest relative difference of the running mean of the loss; None if one of them logs no loss.
        It doesn't count, because `fit` sums in float32 and the loop in float64.
    """

    steps: int
    parts: dict[str, Part]
    loss_difference: float | None

    @property
    def identical(self) -> bool:
        """Whether all weights, slots and seeds were equal to the last bit after every step."""
        return self.first_difference is None

    @property
    def max_abs_difference(self) -> float:
        return max(part.max_abs_difference for part in self.parts.values())

    @property
    def first_difference(self) -> Difference | None:
        found = [part.first_difference for part in self.parts.values() if part.first_difference is not None]
        return min(found, key=lambda difference: difference.step, default=None)


def fit_batch(batch: Batch) -> tuple[Any, ...]:
    """A feed's batch in the form that `fit` takes: `(x, y)` or `(x, y, sample_weight)`."""
    return (batch["x"], batch["y"], *((batch["sample_weight"],) if "sample_weight" in batch else ()))


def certify(
    model: keras.Model,
    state: TrainState,
    step: Step,
    feed: Any,
    *,
    num_steps: int,
    execution: Execution,
    to_fit: Callable[[Batch], tuple[Any, ...]] = fit_batch,
    class_weight: Mapping[int, float] | None = None,
) -> Certificate:
    """Trains a compiled model with `fit` and the state with the loop, one step each in turn, and compares them.

    Then the loop starts again and takes its steps in calls of the execution's usual length, which must end in the same
    state. `model` must not be the state's model. Build both in the same way from the same seed, and train neither.

    Args:
      model: compiled to run like the execution (`FIT_OPTIONS`), with an optimizer like the state's.
      to_fit: converts a batch of the feed to the form that `fit` takes.
      class_weight: as `fit` takes it. Give it to the loop's objective, too.

    Raises TrainingError for a feed that ends before `num_steps`, and for models whose variables have different shapes.
    """
    if feed.end is not None and feed.end < num_steps:
        raise TrainingError(f"the feed ends at step {feed.end}, before num_steps={num_steps}; take fewer steps")
    of_fit = TrainState.create(model, model.optimizer)
    comparison = _Comparison(of_fit, state)
    comparison.compare(0)
    before, names = state.tensors(), state.window_names
    lockstep = _Lockstep(execution(state, step, feed), state, comparison)
    batches = feed().map(tf.autograph.experimental.do_not_convert(to_fit))
    model.fit(
        batches, steps_per_epoch=num_steps, verbose=0, shuffle=False, callbacks=[lockstep], class_weight=class_weight
    )
    state.assign(before)
    state.window_names = names
    run, done = execution(state, step, feed), 0
    while done < num_steps:
        done += run(num_steps - done)
    comparison.compare_with(lockstep.last, num_steps, " (in long calls)")
    return Certificate(num_steps, comparison.parts, lockstep.loss_difference)


class _Lockstep(keras.callbacks.Callback):
    """Lets the loop take a step after each step of `fit`."""

    def __init__(self, run: Run, state: TrainState, comparison: _Comparison) -> None:
        super().__init__()
        self.run, self.state, self.comparison = run, state, comparison
        self.last: dict[str, list[np.ndarray]] = {}
        self.loss_difference: float | None = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.run(1)
        # Kept from here, because at its end `fit` replaces the weights by their moving average, if there is one.
        self.last = self.comparison.compare(batch + 1)
        ours, theirs = self.state.window_means().get("loss"), (logs or {}).get("loss")
        if ours is not None and theirs is not None and np.isfinite(theirs) and np.isfinite(ours):
            relative = abs(ours - float(theirs)) / max(abs(float(theirs)), 1e-30)
            self.loss_difference = max(self.loss_difference or 0.0, relative)


class _Comparison:
    """Compares the variables of two states by kind, and remembers the first and the largest differences."""

    def __init__(self, theirs: TrainState, ours: TrainState) -> None:
        self._theirs, self._ours = _variables(theirs), _variables(ours)
        self.parts: dict[str, Part] = {}
        for kind, variables in self._ours.items():
            shapes = [[tuple(v.shape) for _, v in side] for side in (self._theirs[kind], variables)]
            if shapes[0] != shapes[1]:
                raise TrainingError(
                    f"the two models have different {kind}: {len(shapes[0])} and {len(shapes[1])} variables of shapes "
                    f"{shapes[0]} and {shapes[1]}; build both with the same function"
                )
            self.parts[kind] = Part(len(variables), sum(int(np.prod(shape)) for shape in shapes[0]))

    def compare(self, step: int) -> dict[str, list[np.ndarray]]:
        """Compares the present values of both states; returns the values of the first."""
        theirs = {kind: [np.array(v) for _, v in variables] for kind, variables in self._theirs.items()}
        self.compare_with(theirs, step)
        return theirs

    def compare_with(self, theirs: Mapping[str, list[np.ndarray]], step: int, remark: str = "") -> None:
        """Compares values kept from the first state with the present values of the second."""
        for kind, name, expected, found in self._pairs(theirs):
            if expected.tobytes() == found.tobytes():
                continue
            part = self.parts[kind]
            part.first_difference = part.first_difference or Difference(step, f"{kind}/{name}{remark}")
            part.max_abs_difference = max(part.max_abs_difference, _distance(expected, found))

    def _pairs(self, theirs: Mapping[str, list[np.ndarray]]) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
        for kind, variables in self._ours.items():
            for (name, variable), expected in zip(variables, theirs[kind], strict=True):
                yield kind, name, expected, np.array(variable)


def _variables(state: TrainState) -> dict[str, list[tuple[str, Any]]]:
    """The variables that are compared, in the order of their creation, because names differ between two models."""
    return {
        "weights": [(v.path, v) for v in state.model.weights],
        "slots": [(v.path, v) for v in state.optimizer.variables],
        "seeds": [(str(i), v) for i, v in enumerate(state.seeds)],
    }


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays; infinite if only one of two values is NaN or infinite."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        distances = np.where(same, 0.0, np.abs(one - other))
    return float(np.max(np.nan_to_num(distances, nan=np.inf, posinf=np.inf)))
