"""A job as `model.fit` takes it, with which `parity` and `benchmark` compare the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from loopwright.trainer.commands.train.build import Job


def compile_for_fit(job: Job, **options: Any) -> keras.Model:
    """The job's model, compiled with the job's optimizer and with the loss and the metrics of its task.

    The options are passed on to `compile`: `jit_compile`, `steps_per_execution`, `run_eagerly`.
    """
    network, compiled = job.state.model, job.assignment.compiled()
    network.compile(
        optimizer=job.state.optimizer,
        loss=compiled.loss,
        metrics=compiled.metrics,
        loss_weights=compiled.loss_weights,
        **options,
    )
    return network


def batches_for_fit(job: Job) -> Callable[[Any], tuple[Any, ...]]:
    """A function from a batch of the feed to `(x, y)` or `(x, y, sample_weight)`.

    Labels become one-hot `[B, ..., classes]` if the loss has label smoothing. The weights of classes become weights of
    samples, or of positions, because `fit` takes no weight of a class beside those of samples.
    """
    import tensorflow as tf

    from loopwright.trainer.base import shapes
    from loopwright.trainer.compare.parity import fit_batch

    head = job.assignment.head

    def convert(batch: Any) -> tuple[Any, ...]:
        x, y, *weight = fit_batch(batch)
        if head is None:
            return x, y, *weight
        if head.goal.class_weight:
            of_class = shapes.class_weights(tf.cast(y, tf.int64), head.goal.class_weight)
            weight = [of_class if not weight else shapes.spread(weight[0], of_class.shape) * of_class]
        one_hot = bool(head.goal.label_smoothing) and head.task.activation == "softmax"
        return x, tf.one_hot(y, len(head.goal.target.names)) if one_hot else y, *weight

    return convert
