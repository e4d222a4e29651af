"""A job as `model.fit` takes it, with which `parity` and `benchmark` compare the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loopwright import flags

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.commands.train.build import Job


def check_classes(dataset: Dataset) -> None:
    """Raises UsageError for a dataset without class labels."""
    if not dataset.num_classes:
        raise flags.UsageError(
            f"--dataset={dataset.name}: has no class labels, and this command trains on them; name a ClassLabel with "
            "--label_key"
        )


def compile_for_fit(job: Job, model: flags.Model, optimization: flags.Optimization, **options: Any) -> keras.Model:
    """The job's model, compiled with the job's optimizer, the loss of its objective, and accuracy.

    The options are passed on to `compile`: `jit_compile`, `steps_per_execution`, `run_eagerly`.
    """
    import keras

    network = job.state.model
    from_logits = not job.probabilities
    if optimization.label_smoothing:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, label_smoothing=optimization.label_smoothing
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    network.compile(optimizer=job.state.optimizer, loss=loss, metrics=["accuracy"], **options)
    return network


def batches_for_fit(optimization: flags.Optimization, num_classes: int) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a batch of the feed to `(x, y)` or `(x, y, sample_weight)`.

    Labels become one-hot `[B, num_classes]` if the loss has label smoothing.
    """
    import tensorflow as tf

    from loopwright.trainer.compare.parity import fit_batch

    def convert(batch: Any) -> tuple[Any, ...]:
        x, y, *weight = fit_batch(batch)
        return (x, tf.one_hot(y, num_classes) if optimization.label_smoothing else y, *weight)

    return convert
