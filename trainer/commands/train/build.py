"""From flags to what is trained: model, optimizer, objective, step and execution."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base import atomic
from loopwright.trainer.base.lock import in_turn

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.base.clock import Clock
    from loopwright.trainer.core.execution import Execution
    from loopwright.trainer.core.objective import Objective
    from loopwright.trainer.core.state import TrainState
    from loopwright.trainer.core.step import GradientStep


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
    skip_nonfinite: bool = False,
) -> Job:
    """A fresh state, its objective and its step: the same seed gives the same weights.

    `total_steps` are batches. Raises UsageError for flags that contradict each other.
    """
    import keras

    from loopwright import models, trainer
    from loopwright.trainer.core.objective import make_metrics

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
        skip_nonfinite=skip_nonfinite,
    )
    state = trainer.TrainState.create(network, optimizer, metrics=metrics, extras=step.extras(network, optimizer))
    return Job(state, objective, step)


def output_name(job: Job, config: flags.Config) -> str:
    """`probabilities` or `logits`."""
    from loopwright import models

    return "probabilities" if models.ends_in_probabilities(config.model.model, job.state.model) else "logits"


def plain_loss(job: Job, config: flags.Config) -> tuple[Any, list[str]]:
    """What plain Keras compiles an exported model with: for class numbers as labels, and so without smoothing."""
    import keras

    from_logits = output_name(job, config) == "logits"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), ["accuracy"]


def facts(config: flags.Config, dataset: Dataset) -> dict[str, Any]:
    """What an export says of its run: which it is, and so which batch comes after its step."""
    return {
        "identity": flags.identity(config),
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
    }


def export_model(job: Job, config: flags.Config, dataset: Dataset, folder: pathlib.Path) -> pathlib.Path:
    """Writes `model.h5`, or `model.weights.h5` where only the model's own code can rebuild it; returns the path."""
    from loopwright import trainer
    from loopwright.trainer.export import formats
    from loopwright.trainer.export.functional import RawOperations

    state = job.state
    loss, metrics = plain_loss(job, config)
    options = {"loss": loss, "metrics": metrics, "facts": facts(config, dataset)}
    folder.mkdir(parents=True, exist_ok=True)
    with in_turn(folder):
        atomic.sweep(folder)
        try:
            path = trainer.export_h5(state, folder / "model.h5", dataset.input_shape, **options)
            formats.forget(folder, path.name)
            return path
        except RawOperations as error:
            print(f"loopwright: {' '.join(str(error).split())}", file=sys.stderr)
            with trainer.averaged_weights(state.model, state.optimizer):
                return trainer.export_weights(state.model, folder / "model.weights.h5")


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
