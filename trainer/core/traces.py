"""Compiled calls that outlive a call of `train` or `evaluate`, so that the next one needn't trace and compile again."""

from __future__ import annotations

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from loopwright.trainer.base.autograph import no_autograph
from loopwright.trainer.base.fingerprint import fingerprint
from loopwright.trainer.base.private_tf import operation_callbacks
from loopwright.trainer.base.retrace import warn_of_retrace

#: The compiled calls that a state keeps. The one that was used the longest ago goes first.
MOST_KEPT = 8
#: More traces than this for one purpose bring a warning. Some are wanted, as when layers are frozen.
_MOST_UNTOLD = 3


@dataclasses.dataclass(eq=False)
class Lease:
    """Compiled calls that one run uses alone until it ends.

    Attributes:
      held: the compiled calls, by whatever tells them apart.
    """

    owner: Traces
    purpose: str
    parts: Mapping[str, Any]
    key: dict[str, Any] | None
    held: dict[Any, Any]

    def get(self, which: Any, make: Callable[[], Any]) -> Any:
        """The compiled call of this name. `make` traces it where there is none yet."""
        if which not in self.held:
            unchanged = not self.held or self.key == _depended_on(self.parts)
            self.held[which] = make()
            # Taken again: code that counts its traces has changed by being traced. Where a hook has changed a value between
            # two traces, they don't belong together, and no later run may use them.
            self.key = _depended_on(self.parts) if unchanged else None
        return self.held[which]

    def until_end_of(self, run: Callable, end: Callable[[], bool] = lambda: True) -> None:
        """Gives the calls back when nobody holds `run` any more. `end` then frees what they hold, and may forbid that."""
        weakref.finalize(run, self._give_back, end).atexit = False

    def _give_back(self, end: Callable[[], bool]) -> None:
        with tf.init_scope():  # memory may be collected in the middle of a trace
            if end() and self.key is not None and self.held:
                self.owner.keep(self.purpose, self.key, self.held)


class Traces:
    """The compiled calls of one state that no run uses at present.

    A call fits a new run if everything equals that it depended on when it was traced: the step or objective with its
    settings, the specs of a batch, model, optimizer, metrics and extras with their Python attributes, and the settings
    of Keras and TensorFlow. A copy of a state begins without any.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[str, dict[str, Any], dict[Any, Any]]] = []
        self._made: Counter[str] = Counter()
        self._newest: dict[str, dict[str, Any]] = {}

    def take(self, purpose: str, **parts: Any) -> Lease:
        """Compiled calls for a purpose that depend on these objects. Two runs never have the same ones at a time."""
        key = _depended_on(parts)
        for place, (of, kept, held) in enumerate(self._idle):
            if of == purpose and kept == key:
                del self._idle[place]
                return Lease(self, purpose, parts, key, held)
        self._made[purpose] += 1
        if self._made[purpose] > _MOST_UNTOLD and purpose in self._newest:
            before, now = self._newest[purpose], key
            names = [name for name in {**before, **now} if before.get(name) != now.get(name)][:3]
            told = [{name: str(part[name]) for name in names if name in part} for part in (before, now)]
            warn_of_retrace(purpose, *told)
        return Lease(self, purpose, parts, key, {})

    def keep(self, purpose: str, key: dict[str, Any], held: dict[Any, Any]) -> None:
        """Keeps compiled calls for a later run."""
        self._newest[purpose] = key
        self._idle.append((purpose, key, held))
        del self._idle[:-MOST_KEPT]

    def __len__(self) -> int:
        return len(self._idle)

    def __copy__(self) -> Traces:
        return Traces()

    def __deepcopy__(self, memo: Any) -> Traces:
        return Traces()

    def __reduce__(self) -> Any:
        return Traces, ()


def nothing_like(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset of the same specs without any element. An iterator opens it in a few milliseconds.

    For dense tensors it doesn't hold the dataset. (`from_generator` would do for all, but TensorFlow keeps each forever.)
    """
    spec = dataset.element_spec
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    if any(not isinstance(part, tf.TensorSpec) or part.dtype == tf.variant for part in tf.nest.flatten(spec)):
        return dataset.take(0).with_options(options)
    empty = tf.data.Dataset.range(0).map(no_autograph(lambda _: tf.nest.map_structure(_zeros, spec)))
    return empty.with_options(options)


def _zeros(spec: tf.TensorSpec) -> tf.Tensor:
    """A tensor that fits the spec."""
    return tf.zeros([] if spec.shape.rank is None else [size or 0 for size in spec.shape], spec.dtype)


def _depended_on(parts: Mapping[str, Any]) -> dict[str, Any]:
    return fingerprint(**parts, surroundings=_surroundings())


def _surroundings() -> tuple[Any, ...]:
    """The settings of this process that a trace depends on."""
    return (
        keras.config.floatx(),
        keras.config.epsilon(),
        keras.config.dtype_policy().name,
        keras.config.image_data_format(),
        tf.config.optimizer.get_jit(),
        tf.config.optimizer.get_experimental_options(),
        tf.compat.v1.get_seed(0)[0],
        tf.distribute.get_strategy(),
        tf.constant(0.0).device,
        *operation_callbacks(),
    )
