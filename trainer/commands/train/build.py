"""From flags to what is trained: model, optimizer, objective, step and execution."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.flags import checks
from loopwright.trainer.base.say import say
from loopwright.trainer.commands.train import own_methods

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.base.clock import Clock
    from loopwright.trainer.core.execution import Execution
    from loopwright.trainer.core.objective import Objective
    from loopwright.trainer.core.state import TrainState
    from loopwright.trainer.core.step import GradientStep

#: Samples on which an export is compared with the model at the end of a run.
_COMPARED = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command trains or evaluates: a fresh state, its objective and its step."""

    state: TrainState
    objective: Objective
    step: GradientStep
    #: Whether the model gives probabilities rather than logits.
    probabilities: bool


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
    """A fresh state with its objective and its step. The same seed gives the same weights.

    Args:
      total_steps: the batches of the whole run, on which a schedule may depend.
      norms: whether the step also gives the norms of gradients, parameters and updates.
      skip_nonfinite: whether the step skips an update whose loss or gradient isn't finite.

    Raises UsageError for flags that don't fit the dataset or the model, and ModelError for a model that may give logits or
    probabilities.
    """
    import keras

    from loopwright import models, trainer
    from loopwright.trainer.core.named_metrics import make_metrics

    keras.utils.clear_session()  # The names of layers and variables mustn't depend on what was built before.
    keras.utils.set_random_seed(seed)
    network = models.create(model.model, dataset.input_shape, dataset.num_classes, precision=model.precision)
    own_methods.check(model.model, network)
    if model.freeze is not None:
        _freeze(network, model.freeze)
    try:
        optimizer = _make_optimizer(model, optimization, network, total_steps)
        metrics = make_metrics(checks.metrics(model.metrics), dataset.num_classes)
    except ValueError as error:
        raise flags.UsageError(flags.as_flags(str(error))) from None
    probabilities = models.ends_in_probabilities(model.model, network, model.outputs)
    objective = trainer.classification(
        from_logits=not probabilities,
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
    return Job(state, objective, step, probabilities)


def _make_optimizer(
    model: flags.Model, optimization: flags.Optimization, network: keras.Model, total_steps: int
) -> keras.optimizers.Optimizer:
    """The optimizer with its learning rate. Raises ValueError for a warm-up longer than the run."""
    from loopwright import trainer

    schedule = trainer.make_schedule(
        optimization.schedule,
        optimization.learning_rate,
        warmup_steps=optimization.warmup_steps,
        total_steps=total_steps // optimization.gradient_accumulation,
        boundaries=checks.boundaries(optimization.boundaries),
        factor=optimization.decay_factor,
    )
    return trainer.make_optimizer(
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


def output_name(job: Job, config: flags.Config) -> str:
    """What the model ends in: `probabilities` or `logits`."""
    return "probabilities" if job.probabilities else "logits"


def plain_loss(job: Job, config: flags.Config) -> tuple[Any, list[str]]:
    """The loss and the metrics with which plain Keras compiles an exported model.

    They take class numbers as labels, so the loss has no label smoothing.
    """
    import keras

    from_logits = output_name(job, config) == "logits"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), ["accuracy"]


def facts(config: flags.Config, dataset: Dataset) -> dict[str, Any]:
    """What an export says of its run. A run with the same facts continues it with the same batches."""
    return {
        "identity": flags.identity(config),
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
    }


def export_model(job: Job, config: flags.Config, dataset: Dataset, folder: pathlib.Path) -> pathlib.Path:
    """Writes the file from which training goes on, the first kind that holds the model, and returns its path."""
    from loopwright.trainer.export import formats

    loss, metrics = plain_loss(job, config)
    return formats.export_trained(
        job.state,
        folder,
        next(iter(dataset.eval_feed(_COMPARED)()))["x"],
        dataset.input_shape,
        output_name=output_name(job, config),
        class_names=dataset.class_names,
        say=lambda line: say(flags.as_flags(line)),
        loss=loss,
        metrics=metrics,
        facts=facts(config, dataset),
    )


def make_execution(name: str, steps_per_call: int, clock: Clock | None = None) -> Execution:
    """The execution with a name of --execution, `auto` excepted."""
    from loopwright import trainer

    if name == "eager":
        return trainer.eager(clock=clock)
    return {"graph": trainer.graph, "xla": trainer.xla}[name](steps_per_call, clock=clock)


def _freeze(network: keras.Model, pattern: str) -> None:
    """Excludes from training the variables with a match of the pattern in their path.

    Raises UsageError if that would be none of the variables, or all of them.
    """
    variables = network.trainable_variables
    frozen = [variable for variable in variables if re.search(pattern, variable.path)]
    if not frozen or len(frozen) == len(variables):
        some = ", ".join(variable.path for variable in variables[:4]) + (", …" if len(variables) > 4 else "")
        raise flags.UsageError(
            f"--freeze={pattern}: matches {'none' if not frozen else 'all'} of the {len(variables)} variables: {some}"
        )
    for variable in frozen:
        variable.trainable = False
