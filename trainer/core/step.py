"""Steps: from a state and a batch to changed variables and metrics. Replace this for a new algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.loss_scaling import Skips, scales
from loopwright.trainer.core.objective import Metric, Objective
from loopwright.trainer.core.state import TrainState


class Step(Protocol):
    """Any function of a state and a batch that changes the state's variables and returns metrics is a step."""

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Metric]: ...


class Accumulated(tf.Module):
    """Sums of gradients between two updates, one float32 variable for each trainable variable."""

    def __init__(self, variables: Sequence[Any]) -> None:
        super().__init__()
        self.sums = [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False) for v in variables]


@dataclasses.dataclass(frozen=True, eq=False)
class GradientStep:
    """The GradientTape step: loss, gradients, one update of the optimizer.

    The step always asks the optimizer to scale the loss. An optimizer without loss scaling returns the loss as it is. One
    with loss scaling skips an update whose gradients aren't finite. Metrics that aren't finite count for nothing then, and
    moving statistics that would become infinite or NaN are put back. Clipping, weight decay and averages of weights belong
    to the optimizer (`make_optimizer`).

    Args:
      objective: gives the loss and the metrics.
      accumulation: the number of batches whose mean gradient makes one update. Schedule and averages advance with the
        update, at every step that is a multiple of this number.
      norms: adds `gradient_norm` (before clipping), `parameter_norm` (before the update) and `update_norm` to the metrics.
        They are global L2 norms, one number an update, and cost a copy of the variables.
      scale_floor: the loss scale of a `LossScaleOptimizer` never falls below this.
      skip_nonfinite: leaves out an update whose gradients aren't finite, inside the compiled step, and what the batch did to
        moving statistics. With accumulation, the whole update of several batches is left out. The step count goes on.
    """

    objective: Objective
    accumulation: int = 1
    norms: bool = False
    scale_floor: float = 1.0
    skip_nonfinite: bool = False

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"accumulation={self.accumulation}: at least 1 batch makes an update")

    def extras(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
        """What this step keeps in the state: `TrainState.create(..., extras=step.extras(model, optimizer))`."""
        extras: dict[str, Any] = {}
        if self.accumulation > 1:
            extras["accumulated"] = Accumulated(model.trainable_variables)
        if self.skip_nonfinite or scales(optimizer):
            extras["skips"] = Skips()
        return extras

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Metric]:
        scaling = scales(state.optimizer)
        guarded = self.skip_nonfinite or scaling
        statistics = [variable for variable in state.model.weights if not variable.trainable] if guarded else []
        kept = [tf.identity(variable) for variable in statistics]
        with tf.GradientTape() as tape:
            outputs = self.objective(state.model, batch, training=True)
            scaled = state.optimizer.scale_loss(outputs.loss)
        gradients = tape.gradient(scaled, state.model.trainable_variables)
        # Gradients that overflow only because of the loss scale say nothing against the statistics, and `fit` keeps those.
        seen = statistics if scaling else gradients
        finite = tf.reduce_all(_are_finite(seen)) if statistics else True
        for variable, value in zip(statistics, kept, strict=True):
            variable.assign(tf.where(finite, variable, value))
        metrics = outputs.metrics | (self._update if self.accumulation == 1 else self._accumulate)(state, gradients)
        return _finite(metrics) if guarded else metrics

    def _update(self, state: TrainState, gradients: list[Any]) -> dict[str, Metric]:
        """One update of the optimizer, or none where it is skipped. Returns the norms where they are asked for."""
        if not self.skip_nonfinite or scales(
            state.optimizer
        ):  # loss scaling must see such gradients, and skips by itself
            return self._apply(state, gradients)
        each = _are_finite(gradients)
        state.extras["skips"].count(each)
        return tf.cond(tf.reduce_all(each), lambda: self._apply(state, gradients), self._no_norms)

    def _apply(self, state: TrainState, gradients: list[Any]) -> dict[str, Metric]:
        variables = state.model.trainable_variables
        scale = state.optimizer.scale_loss(tf.constant(1.0))  # read now: the update may change it
        before = [tf.identity(variable) for variable in variables] if self.norms else []
        state.optimizer.apply(gradients, variables)
        if scales(state.optimizer):
            self._count_skips(state, gradients)
        return _norms(gradients, scale, variables, before) if self.norms else {}

    def _accumulate(self, state: TrainState, gradients: list[Any]) -> dict[str, Metric]:
        """Adds to the sums, and updates with their mean at the last batch of an update."""
        if "accumulated" not in state.extras:
            raise ValueError("accumulation needs sums in the state; make it with extras=step.extras(model, optimizer)")
        sums = state.extras["accumulated"].sums
        for total, gradient in zip(sums, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                total.scatter_add(gradient)
            elif gradient is not None:
                total.assign_add(gradient)

        def update() -> dict[str, Metric]:
            pairs = zip(gradients, sums, strict=True)
            norms = self._update(state, [None if g is None else total / self.accumulation for g, total in pairs])
            for total in sums:
                total.assign(tf.zeros_like(total))
            return norms

        return tf.cond((state.step + 1) % self.accumulation == 0, update, self._no_norms)

    def _no_norms(self) -> dict[str, Metric]:
        """What a step without an update adds to the metrics: norms without a weight, where norms are asked for."""
        return {name: (tf.constant(0.0), tf.constant(0.0)) for name in (_NORMS if self.norms else ())}

    def _count_skips(self, state: TrainState, gradients: list[Any]) -> None:
        """Counts a skipped update, and holds the scale above its floor."""
        if "skips" in state.extras:
            state.extras["skips"].count(_are_finite(gradients))
        scale = state.optimizer.dynamic_scale
        scale.assign(tf.maximum(scale, self.scale_floor))


def gradient_step(
    objective: Objective,
    *,
    accumulation: int = 1,
    norms: bool = False,
    scale_floor: float = 1.0,
    skip_nonfinite: bool = False,
) -> GradientStep:
    """The default step. `GradientStep` says what the arguments mean."""
    return GradientStep(objective, accumulation, norms, scale_floor, skip_nonfinite)


def _are_finite(gradients: list[Any]) -> tf.Tensor:
    """Whether each gradient is finite, bool `[V]`. A missing gradient counts as finite."""
    return tf.stack(
        [tf.constant(True) if g is None else tf.reduce_all(tf.math.is_finite(_values(g))) for g in gradients]
    )


def _finite(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """The metrics, with total and weight 0 in place of a total that is infinite or NaN."""

    def kept(total: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_finite(total), part, tf.zeros_like(part))

    return {name: (kept(total, total), kept(total, weight)) for name, (total, weight) in metrics.items()}


def _values(gradient: Any) -> tf.Tensor:
    """The values of a dense or sparse gradient."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


_NORMS = ("gradient_norm", "parameter_norm", "update_norm")


def _norms(gradients: list[Any], scale: tf.Tensor, variables: list[Any], before: list[tf.Tensor]) -> dict[str, Metric]:
    """The global norms of the gradients, of the variables before an update, and of the update."""
    vectors = (
        [tf.convert_to_tensor(gradient) / scale for gradient in gradients if gradient is not None],
        before,
        [variable - old for variable, old in zip(variables, before, strict=True)],
    )
    return {name: (tf.linalg.global_norm(part), tf.constant(1.0)) for name, part in zip(_NORMS, vectors, strict=True)}
