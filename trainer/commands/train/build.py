"""From flags to what is trained: model, optimizer, objective, step and execution."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.flags import checks, keras_names
from loopwright.trainer.base.errors import TrainingError
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
    from loopwright.trainer.tasks.assignment import Assignment

#: Samples on which an export is compared with the model at the end of a run.
_COMPARED = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command trains or evaluates.

    Attributes:
      state, objective, step: fresh.
      assignment: what the model is to learn.
      model: the flags of the model, with the model and the metrics that `auto` and missing values stand for.
      thaw: trains from now on what --freeze has frozen.
    """

    state: TrainState
    objective: Objective
    step: GradientStep
    assignment: Assignment
    model: flags.Model
    thaw: Callable[[], None]


def assign(model: flags.Model, dataset: Dataset, *, label_smoothing: float = 0.0) -> Assignment:
    """What the flags ask the model to learn from the dataset. Raises UsageError for a task that doesn't fit."""
    from loopwright.trainer.core.keras_names import parse_class_weight
    from loopwright.trainer.tasks import assignment

    names = dataset.class_names
    if model.class_weight is not None and not names:
        raise flags.UsageError(f"--class_weight={model.class_weight}: the label isn't a class; leave it out")

    def counts() -> list[int]:
        return dataset.class_counts(dataset.train_split)

    try:
        return assignment.assign(
            model.task,
            dataset.targets,
            weights=flags.checks.loss_weights(model.loss_weights),
            loss=model.loss,
            metrics=None if model.metrics is None else flags.checks.metrics(model.metrics),
            class_weight=model.class_weight and parse_class_weight(model.class_weight, names, counts),
            label_smoothing=label_smoothing,
        )
    except (TrainingError, ValueError) as error:
        raise flags.UsageError(flags.as_flags(str(error))) from None


def with_schedule(optimization: flags.Optimization, dataset: Dataset, *, steered: bool = False) -> flags.Optimization:
    """The flags with the schedule that `auto` stands for: a cosine for tables, unless the rate is steered otherwise."""
    if optimization.schedule != "auto":
        return optimization
    free = not steered and not keras_names.is_schedule(optimization.learning_rate)
    cosine = dataset.input_kind == "table" and free
    return dataclasses.replace(optimization, schedule="cosine" if cosine else "constant")


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
    from loopwright import models, trainer
    from loopwright.trainer.core.optimizers import inner_optimizer

    optimization = with_schedule(optimization, dataset)
    chosen = assign(model, dataset, label_smoothing=optimization.label_smoothing)
    if model.model == "auto":
        model = dataclasses.replace(model, model=models.default(dataset.input_kind, chosen.name))
    network = _network(model, dataset, chosen, seed)
    chosen = as_learned(chosen, network, model, dataset, f"model={model.model!r}")
    frozen = [] if model.freeze is None else models.matched(network, model.freeze)
    if model.unfreeze_at is None:
        _set_trainable(frozen, False)
    try:
        optimizer = _make_optimizer(model, optimization, network, total_steps)
        if model.unfreeze_at is not None and inner_optimizer(optimizer).use_ema:
            raise ValueError(
                f"unfreeze_at={model.unfreeze_at}: an average of weights has to begin with all of them; leave it out, or "
                f"use_ema of optimizer={optimization.optimizer}"
            )
        objective = built_objective(chosen, network, dataset)
    except ValueError as error:
        raise flags.UsageError(flags.as_flags(str(error))) from None
    step = trainer.gradient_step(
        objective,
        accumulation=optimization.gradient_accumulation,
        norms=norms,
        scale_floor=optimization.loss_scale_floor,
        skip_nonfinite=skip_nonfinite,
    )
    extras = step.extras(network, optimizer)
    state = trainer.TrainState.create(network, optimizer, metrics=getattr(objective, "metrics", ()), extras=extras)
    _set_trainable(frozen, False)  # The optimizer has variables for what is trained later.
    return Job(state, objective, step, chosen, _in_words(model, chosen), lambda: _set_trainable(frozen, True))


def _network(model: flags.Model, dataset: Dataset, chosen: Assignment, seed: int) -> keras.Model:
    """A fresh model, whose outputs nobody has looked at yet."""
    import keras

    from loopwright import models

    keras.utils.clear_session()  # The names of layers and variables mustn't depend on what was built before.
    keras.utils.set_random_seed(seed)
    network = models.create(
        model.model,
        dataset.input_shape,
        chosen.num_outputs,
        precision=model.precision,
        facts=dataset.model_facts,
        input_kind=dataset.input_kind,
        output_shape=chosen.output_shape,
        check=False,
    )
    own_methods.check(model.model, network)
    return network


def as_learned(chosen: Assignment, network: keras.Model, model: flags.Model, dataset: Dataset, what: str) -> Assignment:
    """The assignment as this model fulfils it: two classes by one unit, and whether its outputs are probabilities.

    It calls the model once, which builds it. Raises ModelError, whose message begins with `what`, for outputs that don't
    fit or that may be logits or probabilities.
    """
    from loopwright import models

    dtype = models.dtype_of(dataset.input_kind)
    shape = models.check_fits(what, network, dataset.input_shape, 0, dtype=dtype)
    head = chosen.head
    if model.task == "auto" and head is not None and shape == (1,) and len(head.goal.target.names) == 2:
        chosen = chosen.with_task("binary")
    models.check_outputs(what, shape, chosen.output_shape, classes=len(dataset.class_names))
    return chosen.activated(
        {
            name: models.is_activated(model.model, network, head.task.activation, model.outputs, name)
            for name, head in chosen.heads.items()
        }
    )


def built_objective(chosen: Assignment, network: keras.Model, dataset: Dataset) -> Objective:
    """The objective of the assignment, with the variables of its metrics."""
    objective = chosen.objective()
    if hasattr(objective, "build"):
        objective.build(network, dataset.eval_feed(1).element_spec)
    return objective


def _in_words(model: flags.Model, chosen: Assignment) -> flags.Model:
    """The flags with the metrics that were chosen. Several heads have no flags for theirs."""
    if chosen.head is None:
        return model
    metrics = model.metrics or ",".join(chosen.head.task.metrics)
    return dataclasses.replace(model, metrics=metrics)


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


def output_name(job: Job) -> str:
    """What the model ends in: `probabilities`, `logits`, or `outputs` where they are neither."""
    head = job.assignment.head
    if head is None or not head.task.activation:
        return "outputs"
    return "probabilities" if head.goal.activated else "logits"


def plain_loss(job: Job) -> tuple[Any, Any]:
    """The loss and the metrics with which plain Keras compiles an exported model.

    They take targets as the dataset has them, so the loss has no label smoothing.
    """
    compiled = job.assignment.plain().compiled()
    return compiled.loss, compiled.metrics


def facts(config: flags.Config, dataset: Dataset) -> dict[str, Any]:
    """What an export says of its run. A run with the same facts continues it with the same batches."""
    return {
        "identity": flags.identity(config),
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
    }


def export_model(job: Job, config: flags.Config, dataset: Dataset, folder: pathlib.Path) -> pathlib.Path:
    """Writes the file from which training goes on, the first kind that holds the model, and returns its path."""
    from loopwright.trainer.commands import exported, scaling
    from loopwright.trainer.export import formats

    loss, metrics = plain_loss(job)
    return formats.export_trained(
        job.state,
        folder,
        next(iter(scaling.follow(config.data.scale, dataset.eval_feed(_COMPARED))()))["x"],
        dataset.input_shape,
        output_name=output_name(job),
        class_names=dataset.class_names,
        say=lambda line: say(flags.as_flags(line)),
        loss=loss,
        metrics=metrics,
        facts=facts(config, dataset) | exported.described(job, dataset),
    )


def make_execution(name: str, steps_per_call: int, clock: Clock | None = None) -> Execution:
    """The execution with a name of --execution, `auto` excepted."""
    from loopwright import trainer

    if name == "eager":
        return trainer.eager(clock=clock)
    return {"graph": trainer.graph, "xla": trainer.xla}[name](steps_per_call, clock=clock)


def _set_trainable(parts: Iterable[Any], value: bool) -> None:
    for part in parts:
        part.trainable = value
