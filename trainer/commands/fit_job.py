"""The same job as `model.fit` takes it: what `parity` and `benchmark` hold the loop against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loopwright import flags, models

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.commands.train.build import Job


def check_same_as_fit(model: flags.Model, optimization: flags.Optimization) -> None:
    """Raises UsageError for what `fit` does otherwise, and says how."""
    if optimization.gradient_accumulation > 1:
        raise flags.UsageError(
            f"--gradient_accumulation={optimization.gradient_accumulation}: no comparison with fit, whose optimizer counts "
            "batches where the loop's counts updates, averages the weights (--ema_decay) at every batch, and keeps the sums "
            "among its slots; leave it out"
        )
    if model.init_from is not None:
        raise flags.UsageError(
            f"--init_from={model.init_from}: both begin with the model's own first weights; leave it out"
        )
    if model.metrics != "accuracy":
        raise flags.UsageError(f"--metrics={model.metrics}: the comparison with fit is made with accuracy alone")


def check_classes(dataset: Dataset) -> None:
    """Raises UsageError for a dataset without class labels."""
    if not dataset.num_classes:
        raise flags.UsageError(f"--label_key: {dataset.name} has no class labels, which this command trains on")


def compile_for_fit(job: Job, model: flags.Model, optimization: flags.Optimization, **options: Any) -> keras.Model:
    """The job's model, compiled with the job's optimizer, the loss of its objective, and accuracy.

    The options are those of `compile`: `jit_compile`, `steps_per_execution`, `run_eagerly`.
    """
    import keras

    network = job.state.model
    from_logits = not models.ends_in_probabilities(model.model, network)
    if optimization.label_smoothing:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, label_smoothing=optimization.label_smoothing
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    network.compile(optimizer=job.state.optimizer, loss=loss, metrics=["accuracy"], **options)
    return network


def batches_for_fit(optimization: flags.Optimization, num_classes: int) -> Callable[[Any], tuple[Any, ...]]:
    """From a batch of the feed to `(x, y)` or `(x, y, sample_weight)`: one-hot labels where the loss wants them."""
    import tensorflow as tf

    from loopwright.trainer.compare.parity import fit_batch

    def convert(batch: Any) -> tuple[Any, ...]:
        x, y, *weight = fit_batch(batch)
        return (x, tf.one_hot(y, num_classes) if optimization.label_smoothing else y, *weight)

    return convert
