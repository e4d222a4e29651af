"""Keras optimizers and learning rates by name."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then a constant rate or half a cosine down to 0 (Loshchilov and Hutter 2017, eq. 5).

    Args:
      peak: the rate after the warm-up.
      warmup_steps: updates of warm-up; the update that follows them is the first at `peak`.
      decay_steps: updates after the warm-up until the rate is 0; None keeps it constant.
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


def make_schedule(name: str, learning_rate: float, *, warmup_steps: int, total_steps: int) -> Any:
    """A learning rate for an optimizer: a number, or a schedule over its updates.

    Args:
      name: `constant` or `cosine`.
      total_steps: length of training, warm-up included; only the cosine depends on it.

    Raises ValueError for an unknown name, or a warm-up that leaves no step for the cosine.
    """
    if name not in ("constant", "cosine"):
        raise ValueError(f"unknown schedule {name!r}; choose constant or cosine")
    if name == "constant":
        return Warmup(learning_rate, warmup_steps) if warmup_steps else learning_rate
    if warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} leaves no step of {total_steps} for the cosine")
    return Warmup(learning_rate, warmup_steps, total_steps - warmup_steps)


def make_optimizer(
    name: str, learning_rate: Any, *, momentum: float, weight_decay: float, precision: str
) -> keras.optimizers.Optimizer:
    """An optimizer by name; under `mixed_float16` it is wrapped to scale the loss dynamically.

    Args:
      name: `adam`, `adamw` (Loshchilov and Hutter 2019) or `sgd`.
      learning_rate: a number or a Keras schedule.
      momentum: of `sgd`.
      weight_decay: decoupled, of `adamw`.

    Raises ValueError for an unknown name.
    """
    if name == "adam":
        optimizer = keras.optimizers.Adam(learning_rate)
    elif name == "adamw":
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    elif name == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=momentum)
    else:
        raise ValueError(f"unknown optimizer {name!r}; choose adam, adamw or sgd")
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer
