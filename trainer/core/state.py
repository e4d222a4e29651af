"""Everything that training changes, in one place: what is in it is what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(eq=False)
class TrainState:
    """Model, optimizer, step, seeds, the sums of the logging window, and whatever a step adds.

    Attributes:
      model: a built Keras model.
      optimizer: a Keras optimizer, built on the model's trainable variables.
      step: int64 scalar, the number of steps taken. It advances with every batch, also when the optimizer skips an update.
      window: float64 `[M, 2]`, the total and the weight of each of `window_names` since metrics were last logged. They are
        summed step by step inside the compiled call. So neither the length of a call nor a checkpoint changes a logged
        number.
      metrics: Keras metrics that have a state, such as AUC, over the same window. Anything with `variables`, `result()` and
        `reset_state()` will do.
      extras: what a step adds, such as a second optimizer or a replay memory: variables, or trackable objects with a list
        of `variables`.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: tf.Variable
    window: tf.Variable
    metrics: tuple[Any, ...] = ()
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    window_names: tuple[str, ...] = ()
    _empty: tf.Tensor = dataclasses.field(default_factory=lambda: tf.zeros([0, 2], tf.float64), init=False, repr=False)

    @classmethod
    def create(
        cls,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        metrics: Sequence[Any] = (),
        extras: dict[str, Any] | None = None,
    ) -> TrainState:
        """A state at step 0. It builds the optimizer, because a trace must not create the optimizer's variables.

        Raises ValueError for a model that isn't built.
        """
        if not model.built:
            raise ValueError(f"model {model.name!r} is not built; call it once on a batch, or build it")
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        return cls(
            model=model,
            optimizer=optimizer,
            step=tf.Variable(0, dtype=tf.int64, trainable=False, name="step"),
            window=tf.Variable(tf.zeros([0, 2], tf.float64), shape=[None, 2], trainable=False, name="window"),
            metrics=tuple(metrics),
            extras=dict(extras or {}),
        )

    @property
    def seeds(self) -> list[tf.Variable]:
        """The states of the models' seed generators (of dropout, for example), which `tf.train.Checkpoint` misses."""
        models = [self.model, *(extra for extra in self.extras.values() if isinstance(extra, keras.Model))]
        weights = {id(variable) for model in models for variable in model.weights}
        return [variable.value for model in models for variable in model.variables if id(variable) not in weights]

    def trackables(self) -> dict[str, Any]:
        """What a checkpoint holds, by name: the arguments of `tf.train.Checkpoint(**trackables)`."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "step": self.step,
            "window": self.window,
            "seeds": self.seeds,
            "metrics": [variable.value for metric in self.metrics for variable in metric.variables],
            "extras": self.extras,
        }

    def open_window(self, names: tuple[str, ...]) -> None:
        """Names the rows of the window. A restored window keeps its sums, unless its number of metrics differs."""
        self.window_names = names
        if int(tf.shape(self.window)[0]) != len(names):
            self._clear_sums()

    def window_means(self) -> WindowMeans:
        """Each metric's mean over the window as it is now."""
        return WindowMeans(self.window_names, self.window.value(), metric_results(self.metrics))

    def clear_window(self) -> None:
        """Starts a new window."""
        self._clear_sums()
        for metric in self.metrics:
            metric.reset_state()

    def _clear_sums(self) -> None:
        if self._empty.shape[0] != len(
            self.window_names
        ):  # made once, because making it takes longer than assigning it
            self._empty = tf.zeros([len(self.window_names), 2], tf.float64)
        self.window.assign(self._empty, read_value=False)

    def variables(self) -> dict[str, Any]:
        """Every variable of the state by a readable name. Two runs are equal to the bit if all of these are."""
        named: dict[str, Any] = {}
        for v in self.model.weights:
            name = f"model/{v.path}"
            named[name if name not in named else f"{name}#{len(named)}"] = v.value  # names of layers may repeat
        named |= {f"seeds/{i}": v for i, v in enumerate(self.seeds)}
        named |= {f"optimizer/{i}/{v.path}": v.value for i, v in enumerate(self.optimizer.variables)}
        named |= {"step": self.step, "window": self.window}
        named |= {f"metrics/{i}": v for i, v in enumerate(self.trackables()["metrics"])}
        for name, extra in self.extras.items():
            variables = [extra] if isinstance(extra, tf.Variable) else extra.variables
            if isinstance(extra, keras.Model):
                variables = extra.weights  # its seeds are among the seeds
            named |= {f"extras/{name}/{i}": variable for i, variable in enumerate(variables)}
        return named

    def tensors(self) -> dict[str, np.ndarray]:
        """The values of `variables`, copied to the host."""
        return {name: np.array(variable) for name, variable in self.variables().items()}

    def assign(self, tensors: dict[str, np.ndarray]) -> None:
        """Puts back what `tensors` gave."""
        variables = self.variables()
        for name, value in tensors.items():
            variables[name].assign(value)

    def hashes(self) -> dict[str, str]:
        """A SHA-256 for each of `tensors`, dtype and shape included."""
        return {
            name: hashlib.sha256(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes()).hexdigest()
            for name, a in self.tensors().items()
        }


def metric_results(metrics: Iterable[Any]) -> dict[str, tf.Tensor]:
    """The results of Keras metrics as they are now, scalars by name. A vector has a name for each part: `f1/0`, `f1/1`, …"""
    results: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        results |= result if isinstance(result, dict) else {metric.name: result}
    scalars: dict[str, tf.Tensor] = {}
    for name, value in results.items():
        tensor = tf.convert_to_tensor(value)  # A result may be a variable of the metric, which training changes.
        parts = tf.unstack(tf.reshape(tensor, [-1])) if tensor.shape.rank else []
        scalars |= {f"{name}/{place}": part for place, part in enumerate(parts)} or {name: tensor}
    return scalars


class WindowMeans(Mapping[str, float]):
    """Means of a window. They are worked out when the first one is read, so training doesn't wait for unread numbers.

    Args:
      names: the names of the metrics that are summed.
      window: float64 `[M, 2]`, the total and the weight of each. Without a weight the mean is NaN.
      results: the results of Keras metrics, scalars.
    """

    def __init__(self, names: Sequence[str], window: tf.Tensor, results: Mapping[str, Any]) -> None:
        self._names, self._window, self._results = tuple(names), window, results
        self._all = dict.fromkeys((*names, *results))

    @functools.cached_property
    def _means(self) -> dict[str, float]:
        # Divided in Python: one call of TensorFlow takes longer than all of it.
        means = [total / weight if weight else math.nan for total, weight in self._window.numpy().tolist()]
        results = {name: float(value) for name, value in self._results.items()}
        return dict(zip(self._names, means, strict=True)) | results

    def __getitem__(self, name: str) -> float:
        return self._means[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
