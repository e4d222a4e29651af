"""Keras optimizers and learning rates by name."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base.errors import what


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
    learning_rate: float,
    *,
    warmup_steps: int = 0,
    total_steps: int = 0,
    boundaries: Sequence[int] = (),
    factor: float = 0.1,
) -> Any:
    """A learning rate for an optimizer: a number, or a schedule over its updates.

    Args:
      name: `constant`, `cosine` or `piecewise`.
      total_steps: updates in all, warm-up included. Only the cosine depends on it.
      boundaries, factor: of `piecewise`. At each of these updates the rate is multiplied by the factor.

    Raises ValueError for an unknown name, for a warm-up that leaves no step for the cosine, and for boundaries that don't
    ascend or are missing.
    """
    if name == "constant":
        return Warmup(learning_rate, warmup_steps) if warmup_steps else learning_rate
    if name == "cosine":
        if warmup_steps >= total_steps:
            raise ValueError(f"warmup_steps={warmup_steps} leaves no step of {total_steps} for the cosine")
        return Warmup(learning_rate, warmup_steps, total_steps - warmup_steps)
    if name == "piecewise":
        if not boundaries or list(boundaries) != sorted(set(boundaries)):
            raise ValueError(f"boundaries={','.join(map(str, boundaries))}: piecewise needs ascending updates")
        return Piecewise(learning_rate, boundaries, factor, warmup_steps)
    raise ValueError(f"unknown schedule {name!r}; choose constant, cosine or piecewise")


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
      name: `adam`, `adamw` (Loshchilov and Hutter 2019) or `sgd` (with a momentum of 0.9).
      learning_rate: a number or a Keras schedule.
      weight_decay: decoupled. None is 0.004 for `adamw` and no decay for the others. Given the `model`, biases and the
        scales and offsets of normalisations (all variables of rank 1 and less) are left out.
      clip_norm: the global L2 norm that gradients are scaled down to.
      clip_value: what each element of a gradient is cut to.
      ema_decay: keeps an exponential moving average of the weights with this decay (see `averaged_weights`).
      options: further arguments of the Keras optimizer. `momentum` is for `sgd` alone, and ignored for the others.

    Raises ValueError for an unknown name, for both ways of clipping, and for an argument that Keras doesn't know.
    """
    if clip_norm is not None and clip_value is not None:
        raise ValueError(f"clip_norm={clip_norm} and clip_value={clip_value} exclude each other; give one of them")
    if name != "sgd":
        options.pop("momentum", None)
    options |= {"global_clipnorm": clip_norm, "clipvalue": clip_value}
    if ema_decay is not None:
        options |= {"use_ema": True, "ema_momentum": ema_decay}
    if name == "adamw" or weight_decay:
        options["weight_decay"] = 0.004 if weight_decay is None else weight_decay
    if name == "adam":
        optimizer = keras.optimizers.Adam(learning_rate, **options)
    elif name == "adamw":
        optimizer = keras.optimizers.AdamW(learning_rate, **options)
    elif name == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, **{"momentum": 0.9, **options})
    else:
        raise ValueError(f"unknown optimizer {name!r}; choose adam, adamw or sgd")
    if model is not None and "weight_decay" in options:
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) <= 1])
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer


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
    return keras.optimizers.LossScaleOptimizer(optimizer) if wants and not scales else optimizer


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer itself, or the one that a `LossScaleOptimizer` wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)
