"""`module:function`: datasets that a user's own function makes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.dataset import Options, parse_augment
from loopwright.data.errors import DataError
from loopwright.data.feed import Augmentation, Epochs, Feed
from loopwright.data.sequential import SequentialFeed

_ACCEPTED = ("split", "batch_size", "seed")


@dataclasses.dataclass(frozen=True, eq=False)
class UserDataset:
    """A dataset out of a user's function `f(split)`, which may also take `batch_size` and `seed`.

    The function returns a `Feed`, or a finite `tf.data.Dataset` of samples (not batches): `(x, y)`, `(x, y, weight)`, or a
    dict with `x`, `y` and, where there is one, `sample_weight`. Samples are batched here, in the order in which they come,
    and one pass over them is an epoch. An attribute `class_names` of the function names the classes; without it, integer
    labels of a `tf.data.Dataset` are counted in one pass.

    How exact resume and parity are is up to the function: if it gives other samples, or another order, when it is called
    again, they don't hold.
    """

    name: str
    function: Callable[..., Any]
    train_split: str
    eval_split: str

    @functools.cached_property
    def specs(self) -> dict[str, Any]:
        """Shape and dtype of a sample, without the batch: `x` and `y`, as stored."""
        made = self._call(self.train_split, batch_size=1, seed=0)
        if isinstance(made, tf.data.Dataset):
            return _named(made.element_spec, self.name)
        return tf.nest.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), made.element_spec)

    @property
    def input_shape(self) -> Any:
        return tf.nest.map_structure(lambda spec: tuple(spec.shape), self.specs["x"])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Empty where the label is a regression target."""
        named = getattr(self.function, "class_names", None)
        if named is not None:
            return tuple(map(str, named))
        if not self.specs["y"].dtype.is_integer:
            return ()
        made = self._call(self.train_split, batch_size=1, seed=0)
        if not isinstance(made, tf.data.Dataset):
            raise DataError(f"--dataset={self.name}: a function that returns a feed wants an attribute class_names")
        highest = made.map(lambda *sample: tf.cast(_named(_single(sample), self.name)["y"], tf.int64)).reduce(
            np.int64(-1), lambda best, label: tf.maximum(best, tf.reduce_max(label))
        )
        return tuple(str(number) for number in range(int(highest) + 1))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the specs and the first 64 samples of both splits."""
        digest = hashlib.sha256(repr((self.name, self.specs, self.class_names)).encode())
        for split in (self.train_split, self.eval_split):
            for batch in self._feed(split, 64, seed=0, shuffle=False, augment=None, either_size=True)().take(1):
                for tensor in tf.nest.flatten(batch):
                    digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def train_feed(
        self, batch_size: int, *, seed: int = 0, drop_remainder: bool = False, augment: str | Augmentation | None = None
    ) -> Feed:
        """The feed over the training split: the function's own, or its samples again and again."""
        return self._feed(self.train_split, batch_size, seed=seed, drop_remainder=drop_remainder, augment=augment)

    def eval_feed(self, batch_size: int, *, pad: bool = False) -> Feed:
        """The evaluation split, every sample once."""
        return self._feed(self.eval_split, batch_size, seed=0, shuffle=False, pad=pad, augment=None, either_size=True)

    def kind(self, split: str) -> str:
        """How a split is read: as the function says."""
        return "user"

    def explain(self, feed: Any, step: int) -> DataError | None:
        """None: a user's own stream explains itself."""
        return None

    def _feed(
        self, split: str, batch_size: int, *, seed: int, augment: Any, either_size: bool = False, **options: Any
    ) -> Any:
        made = self._call(split, batch_size=batch_size, seed=seed)
        if not isinstance(made, tf.data.Dataset):
            return made
        size = int(made.cardinality())
        if size < 0:
            if size == tf.data.INFINITE_CARDINALITY:
                raise DataError(f"--dataset={self.name}: the split {split!r} never ends; leave out repeat()")
            size = int(made.reduce(np.int64(0), lambda count, *_: count + 1))
        if size == 0:
            raise DataError(f"--dataset={self.name}: the split {split!r} is empty")
        if batch_size > size and not options.get("pad"):
            if not either_size:
                raise DataError(
                    f"--batch_size={batch_size} is larger than the split {split!r} of {self.name} ({size} samples)",
                    exit_code=2,
                )
            batch_size = size
        epochs = Epochs(size, batch_size, **options)
        samples = made.map(lambda *sample: _named(_single(sample), self.name)).enumerate()
        return SequentialFeed(lambda epoch: samples, _as_raw, epochs, parse_augment(augment, seed))

    def _call(self, split: str, **facts: Any) -> Any:
        accepted = inspect.signature(self.function).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        facts = {key: value for key, value in {"split": split, **facts}.items() if anything or key in accepted}
        made = self.function(**facts)
        if isinstance(made, tf.data.Dataset) or (callable(made) and hasattr(made, "steps_per_epoch")):
            return made
        raise DataError(f"--dataset={self.name}: returned {type(made).__name__}, neither a Feed nor a tf.data.Dataset")


def load_user_dataset(name: str, train_split: str, eval_split: str, options: Options) -> UserDataset:
    """The dataset of `module:function`. Raises DataError (exit 2) for a function that isn't there."""
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise DataError(f"--dataset={name}: {error}", exit_code=2) from None
    if not callable(function):
        raise DataError(f"--dataset={name}: is no function; give one that takes {', '.join(_ACCEPTED)}", exit_code=2)
    if options.say:
        options.say(
            f"{name} makes its own stream: resuming and parity are exact only as far as it gives the same samples in the "
            "same order every time"
        )
    return UserDataset(name, function, train_split, eval_split)


def _single(sample: tuple[Any, ...]) -> Any:
    """What `map` passes: a tuple's parts one by one, a dict as one."""
    return sample[0] if len(sample) == 1 else sample


def _named(sample: Any, name: str) -> dict[str, Any]:
    """A sample (or its specs) as a dict."""
    if isinstance(sample, dict) and {"x", "y"} <= set(sample):
        return {key: sample[key] for key in ("x", "y", "sample_weight") if key in sample}
    if isinstance(sample, tuple) and len(sample) in (2, 3):
        return dict(zip(("x", "y", "sample_weight"), sample, strict=False))
    raise DataError(f"--dataset={name}: samples must be (x, y), (x, y, weight) or a dict with x and y")


def _as_raw(samples: dict[str, Any]) -> dict[str, Any]:
    y = samples["y"]
    return {**samples, "y": tf.cast(y, tf.int64 if y.dtype.is_integer else tf.float32)}
