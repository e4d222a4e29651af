"""Adapters for code written for `fit`: losses and metrics as `compile` takes them, train steps, and callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.graph_writes import mark_scratch
from loopwright.trainer.base.monitor import directions_of
from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.hook import StopTraining, at_end, every
from loopwright.trainer.core.objective import Metric, Outputs, class_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import Step

_COMPILED = "compile_metrics"  # the name of Keras's container of the metrics that `compile` was given


class KerasObjective:
    """An objective from the arguments of `compile`. Keras itself reduces the loss, so it equals `fit`'s loss to the bit.

    Pass the metrics to the state: `TrainState.create(..., metrics=objective.metrics)`. Their variables belong to it.
    """

    def __init__(self, class_weight: Mapping[int, float] | None, options: dict[str, Any]) -> None:
        self._class_weight, self._options = class_weight, options
        self._carrier: Any = None

    @property
    def metrics(self) -> tuple[Any, ...]:
        """The metrics that have variables. Raises ValueError before `build`."""
        if self._carrier is None:
            raise ValueError("the metrics are not built yet; call objective.build(model, feed.element_spec) first")
        return tuple(metric for metric in self._carrier.metrics if metric.name == _COMPILED and metric.variables)

    @property
    def directions(self) -> dict[str, str]:
        """`min` or `max` for each metric whose better end Keras knows. The metrics are complete after `build`."""
        if self._carrier is None:
            return {"loss": "min"}
        compiled = [metric for metric in self._carrier.metrics if metric.name == _COMPILED]
        losses = {part.name: "min" for part in self._parts()}
        return {**losses, **directions_of(None, (metric for part in compiled for metric in part.metrics))}

    def build(self, model: keras.Model, batch_spec: Mapping[str, Any]) -> KerasObjective:
        """Creates the metrics' variables for a model and a feed's `element_spec`; returns the objective itself.

        Call it before the state is created: a variable that doesn't exist can't be restored.
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
        if "mask" in batch:  # rows of padding are removed before Keras sees them
            mask = tf.cast(batch["mask"], tf.bool)
            y, predictions, weight = tf.nest.map_structure(
                lambda part: None if part is None else tf.boolean_mask(part, mask), (y, predictions, weight)
            )
            rows = tf.reduce_sum(tf.cast(mask, tf.int32))
        for part in self._parts():
            mark_scratch(part.variables)  # each batch begins them at zero, so no checkpoint needs them
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
        """The means in which Keras keeps the losses of several outputs.

        They are reset for each batch, so that every row has the same weight.
        """
        return [metric for metric in self._carrier.metrics[1:] if metric.name != _COMPILED]

    def _carry(self, model: keras.Model) -> None:
        """Makes a model without layers, which holds what `compile` builds: the loss, the metrics, the losses of outputs."""
        self._carrier = keras.Model()
        self._carrier.output_names = getattr(model, "output_names", None)
        self._carrier.compile(**self._options)

    def _weights(self, batch: Mapping[str, Any]) -> Any:
        """The weights of the samples times those of their classes. `fit` refuses a batch that has both."""
        weight = batch.get("sample_weight")
        if not self._class_weight:
            return weight
        if tf.nest.is_nested(batch["y"]):
            raise ValueError("class_weight needs a single output; give sample weights instead")
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

    The batch holds `x` and `y`, which are tensors or structures of tensors, and optionally `sample_weight` and `mask`
    `[B]`. Losses that the model adds itself are included; use `loss=None` for a model that adds all of its losses. The
    loss of each of several outputs becomes a metric, too. If a metric has variables, call `build` before the state is
    created:

        objective = objective_from_keras("mse", ["mae"]).build(model, feed.element_spec)
        state = TrainState.create(model, optimizer, metrics=objective.metrics)
    """
    options = {"loss": loss, "metrics": metrics, "weighted_metrics": weighted_metrics, "loss_weights": loss_weights}
    return KerasObjective(class_weight, options)


def step_from_keras(model: keras.Model, batch_spec: Mapping[str, Any]) -> Step:
    """A step that calls the `train_step` of a compiled model, for models that override it or `compute_loss`.

    This builds the model's optimizer and metrics. The state must hold the model with both; put a second optimizer into
    the extras. Logs that aren't metrics of the model are averaged over the window.

        step = step_from_keras(model, feed.element_spec)
        state = TrainState.create(model, model.optimizer, metrics=model.metrics)

    Raises ValueError for a model that isn't compiled, or isn't built.
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"model {model.name!r} is not compiled; call model.compile(...) first")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once on a batch, or build it")
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)

    def run(batch: Mapping[str, Any]) -> Any:
        return model.train_step((batch["x"], batch["y"], batch.get("sample_weight")))

    tf.function(run).get_concrete_function(dict(batch_spec))  # tracing is enough to create the metrics' variables

    def step(state: TrainState, batch: Batch) -> dict[str, Metric]:
        logs = run(batch)
        kept = set(model.get_metrics_result())
        return {name: (tf.cast(log, tf.float32), tf.constant(1.0)) for name, log in logs.items() if name not in kept}

    return step


#: Methods that Keras calls between steps. The compiled loop calls nothing there.
_BETWEEN_STEPS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
#: Methods that Keras calls around its own evaluation and prediction.
_AROUND_EVALUATION = tuple(
    f"on_{what}_{part}" for what in ("test", "predict") for part in ("begin", "end", "batch_begin", "batch_end")
)

#: Keras's callbacks for things that a run does itself, and what takes their place.
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
    """The hooks that run a Keras callback which needs only the model and the logs.

        hooks=[every(n, evaluate), *keras_callback(callback, state, steps_per_epoch=n, num_steps=N, evaluate=evaluate)]

    Epochs are numbered from the state's step at which training begins. `num_steps` is that of `train`: no epoch begins
    after its last one. The logs are the means since a hook last read the metrics. With `evaluate`, an `Evaluate` hook, they
    also hold the newest evaluation as `val_<name>`. No checkpoint holds what the callback itself remembers; use
    `early_stop` and `reduce_on_plateau` if that matters.

    Raises TrainingError for callbacks that must be called between steps or around Keras's own evaluation, and for those
    that save or log.
    """
    name = type(callback).__name__
    for kind in type(callback).__mro__:
        if kind.__name__ in _INSTEAD and kind.__module__.startswith("keras."):
            raise TrainingError(f"keras_callback({name}): use {_INSTEAD[kind.__name__]}")
    between = [method for method in _BETWEEN_STEPS if _overrides(callback, method)]
    if between:
        raise TrainingError(
            f"keras_callback({name}): the callback needs {between[0]}, but the compiled loop calls nothing between steps; "
            "write a hook and use every(1, hook)"
        )
    around = [method for method in _AROUND_EVALUATION if _overrides(callback, method)]
    if around:
        raise TrainingError(
            f"keras_callback({name}): the callback needs {around[0]}, which the loop never calls; write a hook"
        )
    hook = _CallbackHook(callback, steps_per_epoch, num_steps, evaluate)
    return every(steps_per_epoch, hook, at_last=False), at_end(lambda state, metrics: callback.on_train_end({}))


class _CallbackHook:
    """Calls a Keras callback at the ends of epochs. Training begins for the callback when the hook is opened."""

    def __init__(self, callback: keras.callbacks.Callback, steps_per_epoch: int, num_steps: int, evaluate: Any) -> None:
        self.callback, self.evaluate = callback, evaluate
        self.steps_per_epoch, self.num_steps = steps_per_epoch, num_steps

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Gives the callback the model, and numbers the epochs from the state's step."""
        callback, epoch = self.callback, self.steps_per_epoch
        state.model.optimizer = state.optimizer
        state.model.stop_training = False
        callback.set_model(state.model)
        callback.set_params({"verbose": 0, "epochs": -(-self.num_steps // epoch), "steps": epoch})
        callback.on_train_begin({})
        if int(state.step) < self.num_steps:
            callback.on_epoch_begin(int(state.step) // epoch, {})
        yield

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        logs = dict(metrics)
        if self.evaluate is not None:
            logs |= {f"val_{key}": value for key, value in self.evaluate.last.items()}
        epoch = int(state.step) // self.steps_per_epoch
        self.callback.on_epoch_end(epoch - 1, logs)
        if state.model.stop_training:
            raise StopTraining(f"{type(self.callback).__name__} asked to stop")
        if int(state.step) < self.num_steps:
            self.callback.on_epoch_begin(epoch, {})


def _overrides(callback: keras.callbacks.Callback, method: str) -> bool:
    if getattr(type(callback), method) is not getattr(keras.callbacks.Callback, method):
        return True
    return method in vars(callback)  # LambdaCallback sets its functions on the object
