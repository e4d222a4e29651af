"""Keras optimizers and learning rates by name."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base.errors import what
from loopwright.trainer.core import keras_names


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then a constant rate or half a cosine down to 0 (Loshchilov and Hutter 2017, eq. 5).

    Args:
      peak: the rate after the warm-up.
      warmup_steps: updates of warm-up. The update after them is the first at `peak`.
      decay_steps: updates after the warm-up until the rate is 0. None keeps the rate constant.
    """

    def __init__(self, peak: float, warmup_steps: int = 0, decay_steps: int | None = None) -> None:
        self.peak, self.warmup_steps, self.decay_steps = peak, warmup_steps, decay_steps

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rate = tf.constant(self.peak, tf.float32)
        if self.decay_steps is not None:
            done = tf.clip_by_value((step - self.warmup_steps) / max(self.decay_steps, 1), 0.0, 1.0)
            rate *= 0.5 * (1.0 + tf.cos(math.pi * done))
        return tf.where(step < self.warmup_steps, self.peak * step / max(self.warmup_steps, 1), rate)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps}


class Piecewise(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is multiplied by `factor` at each boundary, after a linear warm-up from 0.

    Args:
      peak: the rate after the warm-up.
      boundaries: updates, ascending. From each of them on the rate is multiplied by the factor once more.
      factor: what the rate is multiplied by at each boundary.
      warmup_steps: updates of warm-up.
    """

    def __init__(self, peak: float, boundaries: Sequence[int], factor: float = 0.1, warmup_steps: int = 0) -> None:
        self.peak, self.boundaries, self.factor, self.warmup_steps = peak, list(boundaries), factor, warmup_steps

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        passed = tf.reduce_sum(tf.cast(step >= tf.constant(self.boundaries, tf.float32), tf.float32))
        rate = self.peak * tf.pow(tf.constant(self.factor, tf.float32), passed)
        return tf.where(step < self.warmup_steps, self.peak * step / max(self.warmup_steps, 1), rate)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "boundaries": self.boundaries,
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
        }


#: The schedules of this package by name. Keras alone can't rebuild them.
SCHEDULES = {"Warmup": Warmup, "Piecewise": Piecewise}


def make_schedule(
    name: str,
    learning_rate: float | str,
    *,
    warmup_steps: int = 0,
    total_steps: int = 0,
    boundaries: Sequence[int] = (),
    factor: float = 0.1,
) -> Any:
    """A learning rate for an optimizer: a number, or a schedule over its updates.

    Args:
      name: `constant`, `cosine` or `piecewise`.
      learning_rate: a number, or a text: a number, a schedule of Keras with arguments, such as
        `exponential_decay:decay_steps=1000:decay_rate=0.9`, or `module:function`. Its `initial_learning_rate` is 0.001
        unless it is given. A schedule goes with `constant` alone, and without a warm-up.
      total_steps: updates in all, warm-up included. Only the cosine depends on it.
      boundaries, factor: of `piecewise`. At each of these updates the rate is multiplied by the factor.

    Raises ValueError for an unknown name, for a warm-up that leaves no step for the cosine, for boundaries that don't
    ascend or are missing, and for a learning rate that is no number greater than 0 and no schedule.
    """
    if name not in ("constant", "cosine", "piecewise"):
        raise ValueError(f"unknown schedule {name!r}; choose constant, cosine or piecewise")
    rate = _learning_rate(learning_rate) if isinstance(learning_rate, str) else learning_rate
    if isinstance(learning_rate, str) and not isinstance(rate, int | float) and (name != "constant" or warmup_steps):
        other = f"schedule={name}" if name != "constant" else f"warmup_steps={warmup_steps}"
        raise ValueError(f"learning_rate={learning_rate} is a schedule already; leave out {other}, or give a number")
    if name == "constant":
        return Warmup(rate, warmup_steps) if warmup_steps else rate
    if name == "cosine":
        if warmup_steps >= total_steps:
            raise ValueError(f"warmup_steps={warmup_steps} leaves no step of {total_steps} for the cosine")
        return Warmup(rate, warmup_steps, total_steps - warmup_steps)
    if not boundaries or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries={','.join(map(str, boundaries))}: piecewise needs ascending updates")
    return Piecewise(rate, boundaries, factor, warmup_steps)


def _learning_rate(text: str) -> Any:
    """A learning rate from a text: a number, or a schedule of Keras or of the user's own."""
    try:
        rate: Any = float(text)
    except ValueError:
        rate = _schedule(text, keras_names.parse("learning_rate", text))
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    if isinstance(rate, int | float) and 0 < rate < math.inf:
        return rate
    raise ValueError(
        f"learning_rate={text}: gives {what(rate)}, which is neither a schedule nor a number greater than 0"
    )


#: Arguments of Keras's schedules in whose type Keras computes the rate. A whole number would be rounded down at each update.
_RATES = ("initial_learning_rate", "warmup_target", "values", "decay_rate")


def _as_rate(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_rate(part) for part in value]
    return float(value) if type(value) is int else value


def _schedule(text: str, named: keras_names.Named) -> Any:
    if not named.is_own:
        kind = keras_names.keras_class("learning_rate", text, named.name)
        options = {key: _as_rate(value) if key in _RATES else value for key, value in named.options.items()}
        if "initial_learning_rate" in inspect.signature(kind).parameters:
            options = {"initial_learning_rate": 0.001, **options}
        return keras_names.build("learning_rate", text, kind, options)
    found = keras_names.resolve("learning_rate", text, named.name)
    if isinstance(found, keras.optimizers.schedules.LearningRateSchedule) or not callable(found):
        return found
    return keras_names.build("learning_rate", text, found, named.options)


def make_optimizer(
    name: str,
    learning_rate: Any,
    *,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema_decay: float | None = None,
    precision: str = "float32",
    model: keras.Model | None = None,
    **options: Any,
) -> keras.optimizers.Optimizer:
    """An optimizer by name. Under `mixed_float16` it is wrapped to scale the loss dynamically.

    Args:
      name: one of Keras's optimizers, with arguments: `adam`, `adamw` (Loshchilov and Hutter 2019), `sgd` (with a momentum
        of 0.9), `rmsprop:rho=0.95:centered=true`. Or `module:function`: an optimizer, a class, or a function that returns
        one, which gets those of the arguments below that it takes. An optimizer, and a function that doesn't take
        `learning_rate`, keep a rate of their own.
      learning_rate: a number, a Keras schedule, or a text as `make_schedule` takes it.
      weight_decay: decoupled. None is Keras's own choice: 0.004 for `adamw` and `muon`, and no decay for the others. Given
        the `model`, biases and the scales and offsets of normalisations (all variables of rank 1 and less) are left out.
      clip_norm: the global L2 norm that gradients are scaled down to.
      clip_value: what each element of a gradient is cut to.
      ema_decay: keeps an exponential moving average of the weights with this decay (see `averaged_weights`).
      options: further arguments of the Keras optimizer. `momentum` is for `sgd` alone, and ignored for the others.

    Raises ValueError for an unknown name, for both ways of clipping, for an argument that Keras doesn't know, and for an
    argument that is given twice.
    """
    if clip_norm is not None and clip_value is not None:
        raise ValueError(f"clip_norm={clip_norm} and clip_value={clip_value} exclude each other; give one of them")
    named = keras_names.parse("optimizer", name)
    rate = make_schedule("constant", learning_rate)
    asked = {"weight_decay": weight_decay, "clip_norm": clip_norm, "clip_value": clip_value, "ema_decay": ema_decay}
    kind = _optimizer_kind(name, named)
    if not isinstance(kind, type):
        optimizer = _own_optimizer(name, kind, named.options, {"learning_rate": rate, **asked})
    else:
        if kind is keras.optimizers.SGD:
            options = {"momentum": 0.9, **options}
        else:
            options.pop("momentum", None)
        options |= _options(
            name, kind, named.options, {key: value for key, value in asked.items() if value is not None}
        )
        optimizer = keras_names.build("optimizer", name, kind, {"learning_rate": rate, **options})
    if model is not None and optimizer.weight_decay is not None and not optimizer.built:
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) <= 1])
    return _scaled(optimizer, model) if precision == "mixed_float16" else optimizer


#: The arguments of Keras for those of `make_optimizer`.
_OF_KERAS = {"clip_norm": "global_clipnorm", "clip_value": "clipvalue", "ema_decay": "ema_momentum"}
#: Arguments of Keras's optimizers that the loop has in another place, and where.
_ELSEWHERE = {"learning_rate": "learning_rate", "gradient_accumulation_steps": "gradient_accumulation"}


def _optimizer_kind(text: str, named: keras_names.Named) -> Any:
    """The class of an optimizer, or what else `module:function` names."""
    if named.is_own:
        return keras_names.resolve("optimizer", text, named.name)
    return keras_names.keras_class("optimizer", text, named.name)


def _options(text: str, kind: type, typed: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Keras's arguments for those that are typed after the name and those that are asked of every optimizer."""
    for key in typed:
        if key in _ELSEWHERE:
            raise ValueError(f"optimizer={text}: {key!r} isn't an argument here; give {_ELSEWHERE[key]}=VALUE")
    takes, options = inspect.signature(kind).parameters, dict(typed)
    for name, value in asked.items():
        key = _OF_KERAS.get(name, name)
        if key in typed:
            raise ValueError(f"optimizer={text} and {name}={value} say the same thing twice; give one of them")
        if name == "weight_decay" and not value and key in takes and takes[key].default is None:
            continue  # no decay is what the optimizer does unless asked
        options[key] = value
    if "ema_decay" in asked:
        options["use_ema"] = True
    if "weight_decay" in asked and "adam_weight_decay" in takes:  # Muon decays what it leaves to Adam by another number
        options.setdefault("adam_weight_decay", asked["weight_decay"])
    return options


def _own_optimizer(text: str, found: Any, typed: dict[str, Any], asked: dict[str, Any]) -> keras.optimizers.Optimizer:
    """The optimizer that `module:function` names or returns. What it can't be given must not be asked."""
    taken = inspect.signature(found).parameters if callable(found) else {}
    for name, value in asked.items():
        if name != "learning_rate" and value is not None and name not in taken:
            raise ValueError(
                f"optimizer={text}: can't be given {name}={value}; leave it out, or let the function take {name!r}"
            )
    if isinstance(found, keras.optimizers.Optimizer):
        return keras_names.fresh("optimizer", text, found)
    if callable(found):
        found = keras_names.build("optimizer", text, found, {k: v for k, v in asked.items() if k in taken} | typed)
    if not isinstance(found, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer={text}: gives {what(found)}; let it return an optimizer of Keras")
    return found


@contextlib.contextmanager
def averaged_weights(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Gives the model the optimizer's moving average of its weights inside the block, and its own weights back afterwards.

    Does nothing for an optimizer that keeps no average, and before the first update, when there is no average yet.
    """
    if not inner_optimizer(optimizer).use_ema or int(optimizer.iterations) == 0:
        yield
        return
    variables = model.trainable_variables
    own = [tf.identity(variable) for variable in variables]
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def as_optimizer(given: Any, model: Any) -> keras.optimizers.Optimizer:
    """An optimizer by name or as it is.

    One given by name scales the loss if the model is in `mixed_float16`, as `compile` sees to. Raises ValueError for an
    unknown name, and TypeError for anything else.
    """
    if isinstance(given, keras.optimizers.Optimizer):
        return given
    if not isinstance(given, str):
        remedy = f"make one: {given.__name__}(...)" if isinstance(given, type) else "give an optimizer of Keras"
        raise TypeError(f"optimizer is {what(given)}; {remedy}, or its name, such as 'adam'")
    try:
        return scaling(keras.optimizers.get(given), model)
    except (ValueError, KeyError) as error:  # a KeyError says that a wrapper lacks what it wraps
        known = [name.lower() for name, kind in vars(keras.optimizers).items() if isinstance(kind, type)]
        nearest = difflib.get_close_matches(given.lower(), known, 1) or ["adam"]
        raise ValueError(f"optimizer={given!r} is not known to Keras by name; did you mean {nearest[0]!r}?") from error


def scaling(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> keras.optimizers.Optimizer:
    """An optimizer that scales the loss if the model is in `mixed_float16`."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    wants = model.dtype_policy.name == "mixed_float16"
    return _scaled(optimizer, model) if wants and not scales else optimizer


def _scaled(optimizer: keras.optimizers.Optimizer, model: keras.Model | None) -> keras.optimizers.Optimizer:
    """A wrapper that scales the loss dynamically."""
    if isinstance(optimizer, keras.optimizers.Nadam) and model is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # the wrapper would lose sight of its product of momenta
    return keras.optimizers.LossScaleOptimizer(optimizer)


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer itself, or the one that a `LossScaleOptimizer` wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)
