"""Adapters for code written for `fit`: losses and metrics as `compile` takes them, train steps, and callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base import shapes
from loopwright.trainer.base.errors import TrainingError, in_trace, what
from loopwright.trainer.base.graph_writes import mark_scratch, written_variables
from loopwright.trainer.base.monitor import directions_of
from loopwright.trainer.core.feed import Batch
from loopwright.trainer.core.hook import StopTraining, at_end, every
from loopwright.trainer.core.objective import Metric, Outputs
from loopwright.trainer.core.state import TrainState

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
        return {**losses, **directions_of(None, compiled)}

    def build(self, model: keras.Model, batch_spec: Mapping[str, Any]) -> KerasObjective:
        """Creates the metrics' variables for a model and a feed's `element_spec`; returns the objective itself.

        Call it before the state is created: a variable that doesn't exist can't be restored.
        """

        def trace(batch: Mapping[str, Any]) -> tf.Tensor:
            return self(model, batch, training=False).loss

        self._carry(model)
        tf.function(trace).get_concrete_function(dict(batch_spec))  # tracing is enough to create them
        self._carrier.reset_metrics()
        return self

    def __call__(self, model: keras.Model, batch: Mapping[str, Any], *, training: bool) -> Outputs:
        if self._carrier is None:
            self._carry(model)
        carrier = self._carrier
        x, y = batch["x"], batch.get("y")
        if y is None and self._options["loss"] is not None:
            raise in_trace(
                ValueError(
                    f"loss={self._options['loss']!r} compares outputs with labels, but the batch has no y; use loss=None "
                    "for a model that adds its losses itself"
                )
            )
        predictions = model(x, training=training)
        weight = self._weights(batch, predictions)
        rows = tf.shape(tf.nest.flatten(x)[0])[0]
        if "mask" in batch:  # rows of padding are removed before Keras sees them
            mask = tf.cast(batch["mask"], tf.bool)
            y, predictions, weight = tf.nest.map_structure(
                lambda part: shapes.without_padding(part, mask), (y, predictions, weight)
            )
            rows = tf.reduce_sum(tf.cast(mask, tf.int32))
        for part in self._parts():
            mark_scratch(part.variables)  # each batch begins them at zero, so no checkpoint needs them
            part.reset_state()
        losses = []
        if self._options["loss"] is not None:
            losses.append(carrier.compute_loss(x, y, predictions, weight, training=training))
        losses += [tf.cast(tf.reduce_sum(added), tf.float32) for added in model.losses]
        if not losses:
            raise in_trace(
                ValueError(f"loss=None needs a model that adds its losses itself, but model {model.name!r} adds none")
            )
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

    def _weights(self, batch: Mapping[str, Any], predictions: Any) -> Any:
        """The weights of the samples times those of their classes. `fit` refuses a batch that has both.

        A weight `[B]` counts for each position of a sample. `fit` fails there, or multiplies the wrong positions.
        """
        weight, nested = batch.get("sample_weight"), tf.nest.is_nested(predictions)
        if self._class_weight and (nested or tf.nest.is_nested(batch["y"])):
            raise in_trace(ValueError("class_weight needs a single output; give sample weights instead"))
        if nested or tf.nest.is_nested(weight):
            return weight
        weights = [] if weight is None else [tf.cast(weight, tf.float32)]
        if self._class_weight:
            labels, _ = shapes.class_labels(tf.convert_to_tensor(batch["y"]), predictions.shape)
            weights.append(shapes.class_weights(labels, self._class_weight))
        rank = predictions.shape.rank or 0
        if rank == 3 or (rank > 3 and (self._class_weight or _is_of_keras(self._options["loss"]))):
            values = predictions.shape[:-1]
            weights = [shapes.spread(part, values) if part.shape.rank == 1 else part for part in weights]
        return shapes.weights_product(weights)


def _is_of_keras(loss: Any) -> bool:
    """Whether a loss is one of Keras's own, which give a value for each vector of the outputs' last axis."""
    loss = getattr(loss, "inner", loss)  # what prepares labels for a loss of Keras counts as this loss
    return isinstance(loss, str) or getattr(loss, "__module__", "").startswith("keras.")


def objective_from_keras(
    loss: Any,
    metrics: Any = None,
    weighted_metrics: Any = None,
    *,
    loss_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
) -> KerasObjective:
    """An objective from the arguments of `compile` (names, objects, lists, dicts by output) and `fit`'s class_weight.

    The batch holds `x` and `y`, which are tensors or structures of tensors, and optionally a `mask` of padding `[B]` and a
    `sample_weight`: `[B]`, one for each position (`[B, T]`), or a structure by output. Keras's masks count. Losses that the
    model adds itself are included; use `loss=None` for a model that adds all of its losses, whose batches need no `y`. The
    loss of each of several outputs becomes a metric, too. If a metric has variables, call `build` before the state is
    created:

        objective = objective_from_keras("mse", ["mae"]).build(model, feed.element_spec)
        state = TrainState.create(model, optimizer, metrics=objective.metrics)
    """
    options = {"loss": loss, "metrics": metrics, "weighted_metrics": weighted_metrics, "loss_weights": loss_weights}
    return KerasObjective(class_weight, options)


class KerasStep:
    """A step that calls the `train_step` of a compiled model; see `step_from_keras`.

    Attributes:
      metrics: those of the model's metrics that the step updates, for `TrainState.create`.
    """

    def __init__(self, model: keras.Model, batch_spec: Mapping[str, Any]) -> None:
        self._model = model
        traced = tf.function(self._logs).get_concrete_function(dict(batch_spec))  # creates the variables of the metrics
        written = {id(variable.handle) for variable in written_variables(traced)}

        def updated(metric: Any) -> bool:
            return any(id(variable.value.handle) in written for variable in metric.variables)

        self.metrics = tuple(metric for metric in model.metrics if updated(metric))
        # A `train_step` may return a loss without giving it to Keras's own mean, which then stays 0.
        means = [metric for metric in model.metrics if metric.name in traced.structured_outputs and not updated(metric)]
        self._idle = {metric.name: metric for metric in means if isinstance(metric, keras.metrics.Mean)}
        self.metrics += tuple(self._idle.values())

    def _logs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's `train_step` returns for what `fit` would give it."""
        data = tuple(batch.get(key) for key in ("x", "y", "sample_weight"))
        if "mask" in batch:
            mask = tf.cast(batch["mask"], tf.bool)
            data = tf.nest.map_structure(lambda part: shapes.without_padding(part, mask), data)
        logs = self._model.train_step(keras.utils.pack_x_y_sample_weight(*data))
        if not isinstance(logs, Mapping):
            raise in_trace(
                ValueError(
                    f"train_step of model {self._model.name!r} returns {what(logs)}; let it return a dict of metrics"
                )
            )
        return dict(logs)

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Metric]:
        logs = self._logs(batch)
        kept = {name for metric in self.metrics for name in _result_names(metric)}
        for name, metric in self._idle.items():
            metric.update_state(logs[name])
        return {
            name: (tf.cast(log, tf.float32), tf.constant(1.0))
            for name, log in shapes.named_scalars({name: log for name, log in logs.items() if name not in kept}).items()
        }


def _result_names(metric: Any) -> Iterable[str]:
    """The names under which the logs of `train_step` hold a metric."""
    result = metric.result()
    return result if isinstance(result, dict) else (metric.name,)


def step_from_keras(model: keras.Model, batch_spec: Mapping[str, Any]) -> KerasStep:
    """A step that calls the `train_step` of a compiled model, for models that override it or `compute_loss`.

    `train_step` gets what `fit` gives it: `x`, `(x, y)` or `(x, y, sample_weight)`, according to the batch. Rows of padding
    are left out. This builds the model's optimizer and metrics. The state must hold the model with both; put a second
    optimizer into the extras. Logs that aren't metrics of the model are averaged over the window.

        step = step_from_keras(model, feed.element_spec)
        state = TrainState.create(model, model.optimizer, metrics=step.metrics)

    Raises ValueError for a model that isn't compiled, or isn't built, and for a `train_step` that returns no dict.
    """
    if not getattr(model, "compiled", False):
        raise ValueError(f"model {model.name!r} is not compiled; call model.compile(...) first")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once on a batch, or build it")
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return KerasStep(model, batch_spec)


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

    A callback that monitors a metric is told which way is better, where its `mode` is `auto` and the direction is known.

    Raises TrainingError for a metric that can't be monitored, for callbacks that must be called between steps or around
    Keras's own evaluation, and for those that save or log.
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
    if _monitored(callback) is not None:
        _check_monitor(callback, state, evaluate)
    hook = _CallbackHook(callback, steps_per_epoch, num_steps, evaluate)
    return every(steps_per_epoch, hook), at_end(lambda state, metrics: callback.on_train_end({}))


def _monitored(callback: Any) -> str | None:
    """The metric that one of Keras's callbacks monitors."""
    monitors = isinstance(callback, (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau))
    return callback.monitor if monitors else None


def _check_monitor(callback: Any, state: TrainState, evaluate: Any) -> None:
    """Gives the callback the direction of its metric. Keras finds it only among the metrics of a compiled model."""
    name, metric = type(callback).__name__, callback.monitor.removeprefix("val_")
    if metric != callback.monitor and evaluate is None:
        raise TrainingError(
            f"keras_callback({name}): monitor={callback.monitor!r} needs an evaluation; give evaluate=, an Evaluate hook"
        )
    if callback.mode not in ("min", "max"):
        known = directions_of(getattr(evaluate, "objective", None), state.metrics)
        direction = known.get(metric, known.get(metric.partition("/")[0]))
        if direction is None:
            raise TrainingError(
                f"keras_callback({name}): nothing says whether less or more of monitor={callback.monitor!r} is better; give "
                "the callback mode='min' or mode='max'"
            )
        callback.mode = direction


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
        if _monitored(self.callback) not in (None, *logs):
            raise TrainingError(
                f"keras_callback({type(self.callback).__name__}): monitor={self.callback.monitor!r} isn't among the logs "
                f"{', '.join(sorted(logs))}; name one of them, and put the evaluate hook before those of the callback"
            )
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
