"""The last layers of the models that take more than images: one dense layer for each target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import layers


def head(x: Any, num_classes: Any, target_mean: Any = None, target_std: Any = None) -> Any:
    """Outputs `[..., num_classes]` float32 from features `[..., F]`.

    Args:
      num_classes: how many numbers the target has; a dict by name for several targets, which gives a dict of outputs.
      target_mean, target_std: of a target that is a number, in its own unit. The outputs are moved and scaled to them, so
        that the layers before compute numbers around 0 and 1. Dicts by name for several targets. None means logits.
    """
    if isinstance(num_classes, Mapping):
        means, deviations = target_mean or {}, target_std or {}
        return {
            name: _one(f"head_{name}", x, size, means.get(name), deviations.get(name))
            for name, size in num_classes.items()
        }
    return _one("head", x, num_classes, target_mean, target_std)


def _one(name: str, x: Any, size: int, mean: Any, deviation: Any) -> Any:
    x = layers.Dense(size, dtype="float32", name=name)(x)
    if mean is None or deviation is None:
        return x
    return layers.Rescaling(deviation, offset=mean, dtype="float32", name=f"{name}_in_its_unit")(x)
