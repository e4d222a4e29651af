"""From flags to what is trained: model, optimizer, objective, step and execution."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from loopwright import flags

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.clock import Clock
    from loopwright.trainer.execution import Execution
    from loopwright.trainer.objective import Objective
    from loopwright.trainer.state import TrainState
    from loopwright.trainer.step import GradientStep


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command trains or evaluates: a fresh state, and the functions that go with it."""

    state: TrainState
    objective: Objective
    step: GradientStep


def build_job(
    model: flags.Model,
    optimization: flags.Optimization,
    dataset: Dataset,
    *,
    seed: int,
    total_steps: int,
    norms: bool = False,
) -> Job:
    """A fresh state, its objective and its step: the same seed gives the same weights.

    `total_steps` are batches. Raises UsageError for flags that contradict each other.
    """
    import keras

    from loopwright import models, trainer
    from loopwright.trainer.objective import make_metrics

    keras.utils.clear_session()  # so that the names of layers and variables don't depend on what was built before
    keras.utils.set_random_seed(seed)
    network = models.create(model.model, dataset.input_shape, dataset.num_classes, precision=model.precision)
    if model.freeze is not None:
        _freeze(network, model.freeze)
    try:
        schedule = trainer.make_schedule(
            optimization.schedule,
            optimization.learning_rate,
            warmup_steps=optimization.warmup_steps,
            total_steps=total_steps // optimization.gradient_accumulation,
            boundaries=_boundaries(optimization),
            factor=optimization.decay_factor,
        )
        optimizer = trainer.make_optimizer(
            optimization.optimizer,
            schedule,
            momentum=optimization.momentum,
            weight_decay=optimization.weight_decay,
            clip_norm=optimization.clip_norm,
            clip_value=optimization.clip_value,
            ema_decay=optimization.ema_decay,
            precision=model.precision,
            model=network,
        )
        metrics = make_metrics([name.strip() for name in model.metrics.split(",")], dataset.num_classes)
    except ValueError as error:
        raise flags.UsageError(str(error)) from None
    objective = trainer.classification(
        from_logits=not models.ends_in_probabilities(model.model, network),
        label_smoothing=optimization.label_smoothing,
        metrics=metrics,
    )
    step = trainer.gradient_step(
        objective,
        accumulation=optimization.gradient_accumulation,
        norms=norms,
        scale_floor=optimization.loss_scale_floor,
    )
    state = trainer.TrainState.create(network, optimizer, metrics=metrics, extras=step.extras(network, optimizer))
    return Job(state, objective, step)


def make_execution(name: str, steps_per_call: int, clock: Clock | None = None) -> Execution:
    """An execution by the name that --execution gives it."""
    from loopwright import trainer

    if name == "eager":
        return trainer.eager(clock=clock)
    return {"graph": trainer.graph, "xla": trainer.xla}[name](steps_per_call, clock=clock)


def _boundaries(optimization: flags.Optimization) -> list[int]:
    """The updates that --boundaries names, which belongs to the piecewise schedule. Raises UsageError."""
    text = optimization.boundaries
    if text is None:
        return []
    if optimization.schedule != "piecewise":
        raise flags.UsageError(f"--boundaries={text} needs --schedule=piecewise, not {optimization.schedule}")
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise flags.UsageError(f"--boundaries={text}: write ascending updates, such as --boundaries=1000,2000")
    return [int(part) for part in parts]


def _freeze(network: keras.Model, pattern: str) -> None:
    """Takes the variables whose path the pattern is found in out of training. Raises UsageError."""
    variables = network.trainable_variables
    try:
        frozen = [variable for variable in variables if re.search(pattern, variable.path)]
    except re.error as error:
        raise flags.UsageError(f"--freeze={pattern}: no regular expression ({error})") from None
    if not frozen or len(frozen) == len(variables):
        some = ", ".join(variable.path for variable in variables[:4]) + (", …" if len(variables) > 4 else "")
        raise flags.UsageError(
            f"--freeze={pattern}: is found in {'none' if not frozen else 'all'} of the {len(variables)} variables: {some}"
        )
    for variable in frozen:
        variable.trainable = False
