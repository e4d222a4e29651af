"""What a user of `fit` brings along: losses and metrics as `compile` takes them, train steps, callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.loop import StopTraining
from loopwright.trainer.objective import Metric, Outputs
from loopwright.trainer.state import TrainState
from loopwright.trainer.step import Batch, Step


class KerasObjective:
    """An objective made of whatever `compile` takes; Keras itself reduces the loss, so it is equal to `fit`'s to the bit.

    `metrics` are for `TrainState.create(..., metrics=objective.metrics)`: their state is the state's.
    """

    def __init__(self, carrier: keras.Model) -> None:
        self._carrier = carrier

    @property
    def metrics(self) -> tuple[Any, ...]:
        return tuple(metric for metric in self._carrier.metrics if metric.name != "loss")

    def build(self, model: keras.Model, batch_spec: Mapping[str, Any]) -> KerasObjective:
        """Makes the metrics' variables for a model and batches of a feed's `element_spec`; returns itself.

        Call it before the state is made: a variable that isn't there can't be restored.
        """

        def zeros(spec: tf.TensorSpec) -> tf.Tensor:
            return tf.zeros([1, *spec.shape[1:]], spec.dtype)

        batch = tf.nest.map_structure(zeros, dict(batch_spec))
        self(model, batch, training=False)
        self._carrier.reset_metrics()
        return self

    def __call__(self, model: keras.Model, batch: Mapping[str, Any], *, training: bool) -> Outputs:
        self._carrier.output_names = getattr(model, "output_names", None)
        x, y, weight = batch["x"], batch["y"], batch.get("sample_weight")
        predictions = model(x, training=training)
        losses = [self._carrier.compute_loss(x, y, predictions, weight, training=training)]
        losses += [tf.cast(tf.reduce_sum(part), tf.float32) for part in model.losses]
        loss = keras.ops.sum(losses) if len(losses) > 1 else losses[0]
        self._carrier.compute_metrics(x, y, predictions, weight)
        rows = tf.cast(tf.shape(tf.nest.flatten(x)[0])[0], tf.float32)
        return Outputs(loss, {"loss": (loss * rows, rows)})


def objective_from_keras(
    loss: Any, metrics: Any = None, weighted_metrics: Any = None, *, loss_weights: Any = None
) -> KerasObjective:
    """An objective from the arguments of `compile`: names, objects, lists, dicts by output name.

    The batch holds `x` and `y`, tensors or structures of them, and where there is one `sample_weight`.
    """
    carrier = keras.Model()  # Has no layers: it only carries what `compile` makes of its arguments.
    carrier.compile(loss=loss, metrics=metrics, weighted_metrics=weighted_metrics, loss_weights=loss_weights)
    return KerasObjective(carrier)


def step_from_keras(model: keras.Model) -> Step:
    """A step that calls the `train_step` of a compiled model, for models that override it or `compute_loss`.

    The state must hold this model, its optimizer (`model.optimizer`) and its metrics (`model.metrics`). Logs that are no
    metric of the model are averaged over the window.

    Raises ValueError for a model that isn't compiled.
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"model {model.name!r} is not compiled; call model.compile(...) first")

    def step(state: TrainState, batch: Batch) -> dict[str, Metric]:
        data = (batch["x"], batch["y"]) + ((batch["sample_weight"],) if "sample_weight" in batch else ())
        logs = model.train_step(data)
        kept = set(model.get_metrics_result())
        return {name: (tf.cast(log, tf.float32), tf.constant(1.0)) for name, log in logs.items() if name not in kept}

    return step


#: Methods that Keras calls between steps, where the compiled loop calls nothing.
_BETWEEN_STEPS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


def keras_callback(callback: keras.callbacks.Callback, *, evaluate: Any = None) -> Any:
    """A Keras callback as a hook for the end of epochs: `every(feed.steps_per_epoch, keras_callback(callback))`.

    Each call is an `on_epoch_end` with the window's means, and those of the newest evaluation as `val_<name>` where
    `evaluate` (an `Evaluate` hook) is given. Sets `model.stop_training`, and training stops.

    Raises TrainingError for callbacks that want to be called between steps or that save the run in a way of their own.
    """
    name = type(callback).__name__
    if isinstance(callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)):
        raise TrainingError(f"keras_callback({name}): saves in a way of its own; use trainer.Checkpoint")
    if isinstance(callback, (keras.callbacks.TensorBoard, keras.callbacks.CSVLogger)):
        raise TrainingError(f"keras_callback({name}): use trainer.Log with trainer.TensorBoard or trainer.JsonLines")
    between = [method for method in _BETWEEN_STEPS if _overrides(callback, method)]
    if between:
        raise TrainingError(
            f"keras_callback({name}): wants {between[0]}, but the compiled loop calls nothing between steps; "
            "write a hook and use every(1, hook)"
        )
    epoch = -1

    def hook(state: TrainState, metrics: Mapping[str, tf.Tensor]) -> None:
        nonlocal epoch
        if epoch < 0:
            state.model.optimizer = state.optimizer
            state.model.stop_training = False
            callback.set_model(state.model)
            callback.on_train_begin()
        epoch += 1
        logs = {key: float(value) for key, value in metrics.items()}
        if evaluate is not None:
            logs |= {f"val_{key}": value for key, value in evaluate.last.items()}
        callback.on_epoch_end(epoch, logs)
        if state.model.stop_training:
            raise StopTraining(f"{name} asked to stop")

    return hook


def _overrides(callback: keras.callbacks.Callback, method: str) -> bool:
    theirs, base = getattr(type(callback), method), getattr(keras.callbacks.Callback, method)
    if theirs is not base:
        return True
    # LambdaCallback sets functions on the object instead.
    return method in vars(callback)
