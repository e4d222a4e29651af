"""What a user of `fit` brings along: losses and metrics as `compile` takes them, train steps, callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.core.loop import StopTraining, at_end, every
from loopwright.trainer.core.objective import Metric, Outputs, class_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Batch, Step

_COMPILED = "compile_metrics"  # the name of Keras's container of the metrics that `compile` was given


class KerasObjective:
    """An objective made of whatever `compile` takes; Keras itself reduces the loss, so it is equal to `fit`'s to the bit.

    `metrics` are for `TrainState.create(..., metrics=objective.metrics)`: their state is the state's.
    """

    def __init__(self, class_weight: Mapping[int, float] | None, options: dict[str, Any]) -> None:
        self._class_weight, self._options = class_weight, options
        self._carrier: Any = None

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics that have a state. Raises ValueError before `build`."""
        if self._carrier is None:
            raise ValueError("the metrics are not built yet; call objective.build(model, feed.element_spec) first")
        return tuple(metric for metric in self._carrier.metrics if metric.name == _COMPILED and metric.variables)

    def build(self, model: keras.Model, batch_spec: Mapping[str, Any]) -> KerasObjective:
        """Makes the metrics' variables for a model and batches of a feed's `element_spec`; returns itself.

        Call it before the state is made: a variable that isn't there can't be restored.
        """

        def zeros(spec: tf.TensorSpec) -> tf.Tensor:
            return tf.zeros([1, *spec.shape[1:]], spec.dtype)

        self._carry(model)
        batch = {key: tf.nest.map_structure(zeros, spec) for key, spec in batch_spec.items() if key != "mask"}
        self(model, batch, training=False)
        self._carrier.reset_metrics()
        return self

    def __call__(self, model: keras.Model, batch: Mapping[str, Any], *, training: bool) -> Outputs:
        if self._carrier is None:
            self._carry(model)
        carrier = self._carrier
        x, y, weight = batch["x"], batch["y"], self._weights(batch)
        predictions = model(x, training=training)
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        if "mask" in batch:  # rows of padding are taken out before Keras sees them
            mask = tf.cast(batch["mask"], tf.bool)
            y, predictions, weight = tf.nest.map_structure(
                lambda part: None if part is None else tf.boolean_mask(part, mask), (y, predictions, weight)
            )
            rows = tf.reduce_sum(tf.cast(mask, tf.int32))
        for part in self._parts():
            part.reset_state()
        losses = []
        if self._options["loss"] is not None:
            losses.append(carrier.compute_loss(x, y, predictions, weight, training=training))
        losses += [tf.cast(tf.reduce_sum(added), tf.float32) for added in model.losses]
        loss = keras.ops.sum(losses) if len(losses) > 1 else losses[0]
        carrier.compute_metrics(x, y, predictions, weight)
        count = tf.cast(rows, tf.float32)
        metrics = {part.name: (part.result() * count, count) for part in self._parts()}
        return Outputs(loss, {"loss": (loss * count, count), **metrics})

    def _parts(self) -> list[Any]:
        """Where Keras notes the losses of several outputs: means, emptied here for each batch, so that rows count alike."""
        return [metric for metric in self._carrier.metrics[1:] if metric.name != _COMPILED]

    def _carry(self, model: keras.Model) -> None:
        """A model without layers, which carries what `compile` makes of its arguments: loss, metrics, losses of outputs."""
        self._carrier = keras.Model()
        self._carrier.output_names = getattr(model, "output_names", None)
        self._carrier.compile(**self._options)

    def _weights(self, batch: Mapping[str, Any]) -> Any:
        """Sample weights, or those of the classes; where there are both, which `fit` refuses, they multiply."""
        weight = batch.get("sample_weight")
        if not self._class_weight:
            return weight
        if tf.nest.is_nested(batch["y"]):
            raise ValueError("class_weight is for one output; weight the samples instead")
        of_class = class_weights(batch["y"], self._class_weight)
        return of_class if weight is None else tf.cast(weight, tf.float32) * of_class


def objective_from_keras(
    loss: Any,
    metrics: Any = None,
    weighted_metrics: Any = None,
    *,
    loss_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
) -> KerasObjective:
    """An objective from the arguments of `compile` (names, objects, lists, dicts by output) and `fit`'s class_weight.

    The batch holds `x` and `y`, tensors or structures of them, and where there is one `sample_weight` or a `mask` `[B]`.
    Losses that the model adds itself count; a model that adds all of them takes `loss=None`. Several outputs give their own
    losses as metrics, too. With metrics that have a state, call `build` before the state is made:

        objective = objective_from_keras("mse", ["mae"]).build(model, feed.element_spec)
        state = TrainState.create(model, optimizer, metrics=objective.metrics)
    """
    options = {"loss": loss, "metrics": metrics, "weighted_metrics": weighted_metrics, "loss_weights": loss_weights}
    return KerasObjective(class_weight, options)


def step_from_keras(model: keras.Model, batch_spec: Mapping[str, Any]) -> Step:
    """A step that calls the `train_step` of a compiled model, for models that override it or `compute_loss`.

    The state must hold this model, its optimizer and its metrics, which are all built here; a second optimizer belongs into
    the extras. Logs that are no metric of the model are averaged over the window.

        step = step_from_keras(model, feed.element_spec)
        state = TrainState.create(model, model.optimizer, metrics=model.metrics)

    Raises ValueError for a model that isn't compiled or built.
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"model {model.name!r} is not compiled; call model.compile(...) first")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once on a batch, or build it")
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)

    def run(batch: Mapping[str, Any]) -> Any:
        return model.train_step((batch["x"], batch["y"], batch.get("sample_weight")))

    tf.function(run).get_concrete_function(dict(batch_spec))  # tracing alone makes the metrics' variables

    def step(state: TrainState, batch: Batch) -> dict[str, Metric]:
        logs = run(batch)
        kept = set(model.get_metrics_result())
        return {name: (tf.cast(log, tf.float32), tf.constant(1.0)) for name, log in logs.items() if name not in kept}

    return step


#: What Keras calls between steps, where the compiled loop calls nothing.
_BETWEEN_STEPS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
#: What Keras calls around its own evaluation and prediction.
_ELSEWHERE = tuple(
    f"on_{what}_{part}" for what in ("test", "predict") for part in ("begin", "end", "batch_begin", "batch_end")
)

#: Callbacks that do in their own way what a run has its way for.
_INSTEAD = {
    "ModelCheckpoint": "trainer.Checkpoint",
    "BackupAndRestore": "trainer.Checkpoint",
    "TensorBoard": "trainer.Log with trainer.TensorBoard",
    "CSVLogger": "trainer.Log with trainer.JsonLines",
    "ProgbarLogger": "trainer.Log with a writer that prints",
    "SwapEMAWeights": "the optimizer's average, which trainer.Evaluate takes",
}


def keras_callback(
    callback: keras.callbacks.Callback, state: TrainState, *, steps_per_epoch: int, num_steps: int, evaluate: Any = None
) -> tuple[every, at_end]:
    """The hooks that run a Keras callback, for callbacks that need only the model and logs.

        hooks=[every(n, evaluate), *keras_callback(callback, state, steps_per_epoch=n, num_steps=N, evaluate=evaluate)]

    Training begins here: make the hooks when the state is restored, so that epochs are numbered from where it stands.
    `num_steps` is that of `train`: after its last epoch none begins. Logs are the means since metrics were last read by a
    hook, and the newest evaluation's as `val_<name>` where `evaluate` (an `Evaluate` hook) is given. What the callback
    itself remembers is in no checkpoint; `early_stop` and `reduce_on_plateau` are there for that.

    Raises TrainingError for callbacks that want to be called between steps or around Keras's own evaluation, or that save
    or log in a way of their own.
    """
    name = type(callback).__name__
    for kind in type(callback).__mro__:
        if kind.__name__ in _INSTEAD and kind.__module__.startswith("keras."):
            raise TrainingError(f"keras_callback({name}): use {_INSTEAD[kind.__name__]}")
    between = [method for method in _BETWEEN_STEPS if _overrides(callback, method)]
    if between:
        raise TrainingError(
            f"keras_callback({name}): wants {between[0]}, but the compiled loop calls nothing between steps; "
            "write a hook and use every(1, hook)"
        )
    elsewhere = [method for method in _ELSEWHERE if _overrides(callback, method)]
    if elsewhere:
        raise TrainingError(f"keras_callback({name}): wants {elsewhere[0]}, which the loop never calls; write a hook")
    state.model.optimizer = state.optimizer
    state.model.stop_training = False
    callback.set_model(state.model)
    callback.set_params({"verbose": 0, "epochs": -(-num_steps // steps_per_epoch), "steps": steps_per_epoch})
    callback.on_train_begin({})
    callback.on_epoch_begin(int(state.step) // steps_per_epoch, {})

    def epoch_end(state: TrainState, metrics: Mapping[str, float]) -> None:
        logs = dict(metrics)
        if evaluate is not None:
            logs |= {f"val_{key}": value for key, value in evaluate.last.items()}
        epoch = int(state.step) // steps_per_epoch
        callback.on_epoch_end(epoch - 1, logs)
        if state.model.stop_training:
            raise StopTraining(f"{name} asked to stop")
        if int(state.step) < num_steps:
            callback.on_epoch_begin(epoch, {})

    return every(steps_per_epoch, epoch_end, at_last=False), at_end(lambda state, metrics: callback.on_train_end({}))


def _overrides(callback: keras.callbacks.Callback, method: str) -> bool:
    if getattr(type(callback), method) is not getattr(keras.callbacks.Callback, method):
        return True
    return method in vars(callback)  # LambdaCallback sets functions on the object instead.
