"""Everything that training changes, in one place: what is in it is what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base import windows
from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.errors import TrainingError, what
from loopwright.trainer.base.graph_writes import is_scratch
from loopwright.trainer.base.windows import WindowMeans, metric_results
from loopwright.trainer.core.optimizers import as_optimizer
from loopwright.trainer.core.traces import Traces


@dataclasses.dataclass(eq=False)
class TrainState:
    """Model, optimizer, step, seeds, the sums of the logging window, and whatever a step adds.

    Attributes:
      model: a built Keras model.
      optimizer: a Keras optimizer, built on the model's trainable variables.
      step: int64 scalar, the number of steps taken. It advances with every batch, also when the optimizer skips an update.
      window: float64 `[M, 2]`, the total and the weight of each of `window_names` since a hook last read the metrics. They
        are summed step by step inside the compiled call. So neither the length of a call nor a checkpoint changes a logged
        number. Where hooks read at different cadences, the sums of each cadence follow (`base/windows.py`).
      metrics: Keras metrics that have a state, such as AUC, over the same window. Anything with `variables`, `result()` and
        `reset_state()` will do.
      cadences: those at which hooks read the metrics, which `train` finds out.
      extras: what a step adds, such as a second optimizer or a replay memory: variables, or trackable objects with a list
        of `variables`.
      compiled_calls: what `train` and `evaluate` have compiled, for their next calls (`traces.py`). No checkpoint holds it.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: tf.Variable
    window: tf.Variable
    metrics: tuple[Any, ...] = ()
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    window_names: tuple[str, ...] = ()
    cadences: tuple[int, ...] = ()
    compiled_calls: Traces = dataclasses.field(default_factory=Traces, init=False, repr=False)
    _empty: tf.Tensor = dataclasses.field(default_factory=lambda: tf.zeros([0, 2], tf.float64), init=False, repr=False)

    @classmethod
    def create(
        cls,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | str,
        *,
        metrics: Sequence[Any] = (),
        extras: dict[str, Any] | None = None,
    ) -> TrainState:
        """A state at step 0. It builds the optimizer, because a trace must not create the optimizer's variables.

        An optimizer may be given by its name in Keras. Raises ValueError for a model that isn't built and for an unknown
        name, and TypeError for what is no model or optimizer.
        """
        if not isinstance(model, keras.Model):
            raise TypeError(f"model is {what(model)}; give a built Keras model")
        optimizer = as_optimizer(optimizer, model)
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

    def check_holds(self, written: Iterable[tf.Variable]) -> None:
        """Raises TrainingError for a variable that a step writes and that isn't in the state, so no checkpoint holds it."""
        held = {id(variable.handle) for variable in self.variables().values()}
        strays = [variable for variable in written if id(variable.handle) not in held and not is_scratch(variable)]
        if strays:
            names = ", ".join(f"{variable.name} {tuple(variable.shape)}" for variable in strays)
            raise TrainingError(
                f"the step changes variables that aren't in the state: {names}; a resumed run would begin with their first "
                "values, so put them into it: TrainState.create(..., extras={'name': variable}), or metrics=[...] for a "
                "metric"
            )

    def open_window(self, names: tuple[str, ...]) -> None:
        """Names the rows of the window. It keeps the sums of the same names, and restored sums of the same number."""
        if self.window_names and names != self.window_names:  # another step's, which say nothing under these names
            self.window.assign(tf.zeros([0, 2], tf.float64))
        self.window_names = names
        windows.fit(self.window, len(names), self.cadences)

    @no_autograph
    def sums(self) -> tf.Tensor:
        """The sums since a hook last read the metrics, `[M, 2]`."""
        rows = len(self.window_names)
        whole = rows > 0 and len(self.cadences) < 2
        return tf.ensure_shape(self.window.value() if whole else self.window[:rows], [rows, 2])

    @no_autograph
    def assign_sums(self, sums: tf.Tensor) -> None:
        """Replaces the sums since a hook last read the metrics."""
        if len(self.cadences) > 1:
            sums = tf.concat([sums, self.window[len(self.window_names) :]], axis=0)
        self.window.assign(sums, read_value=False)

    def window_means(self) -> WindowMeans:
        """The mean of each metric since a hook last read the metrics."""
        return WindowMeans(self.window_names, self.sums(), metric_results(self.metrics))

    def take_windows(self, due: Collection[int]) -> tuple[WindowMeans, dict[int, WindowMeans]]:
        """The means since a hook last read the metrics, and those of the windows of some cadences, which begin again."""
        means = self.window_means()
        if due and len(self.cadences) > 1:
            taken = windows.take(self.window, len(self.window_names), self.cadences, due)
            return means, {cadence: WindowMeans(self.window_names, sums, {}) for cadence, sums in taken.items()}
        if due:
            self.clear_window()
        return means, dict.fromkeys(due, means)

    def clear_window(self) -> None:
        """Starts a new window."""
        if len(self._empty) != len(self.window_names):  # made once: making it takes longer than assigning it
            self._empty = tf.zeros([len(self.window_names), 2], tf.float64)
        self.assign_sums(self._empty)
        for metric in self.metrics:
            metric.reset_state()

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
