"""`module:function`: datasets that a user's function makes."""

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
from loopwright.data.feed import Epochs
from loopwright.data.protocols import Augmentation, Feed
from loopwright.data.sequential_feed import SequentialFeed


@dataclasses.dataclass(frozen=True, eq=False)
class UserDataset:
    """A dataset that a user's function `f(split)` makes. The function may also take `batch_size` and `seed`.

    The function returns a `Feed`, or a finite `tf.data.Dataset` of samples (not batches). A sample is `(x, y)`,
    `(x, y, weight)`, or a dict with `x`, `y` and optionally `sample_weight`. Samples are batched here, in the order in
    which they come, and one pass over them is an epoch.

    The function may have an attribute `class_names`. Without it, one pass over a `tf.data.Dataset` finds the highest
    integer label, and classes are numbered up to it.

    Exact resume and parity depend on the function: they hold only if it gives the same samples in the same order each
    time it is called.
    """

    name: str
    function: Callable[..., Any]
    train_split: str
    eval_split: str

    @functools.cached_property
    def specs(self) -> dict[str, Any]:
        """The shape and dtype of a sample, without the batch: `x`, `y` and optionally `sample_weight`."""
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
        """The names of the classes. Empty if the label is a regression target."""
        named = getattr(self.function, "class_names", None)
        if named is not None:
            return tuple(map(str, named))
        if not self.specs["y"].dtype.is_integer:
            return ()
        made = self._call(self.train_split, batch_size=1, seed=0)
        if not isinstance(made, tf.data.Dataset):
            raise DataError(
                f"dataset={self.name!r}: a function that returns a feed needs an attribute class_names, such as "
                "('cat', 'dog')"
            )
        highest = made.map(lambda *sample: tf.cast(_named(_single(sample), self.name)["y"], tf.int64)).reduce(
            np.int64(-1), lambda best, label: tf.maximum(best, tf.reduce_max(label))
        )
        return tuple(str(number) for number in range(int(highest) + 1))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the specs, the class names and the first 64 samples of both splits."""
        digest = hashlib.sha256(repr((self.name, self.specs, self.class_names)).encode())
        for split in (self.train_split, self.eval_split):
            for batch in self._feed(split, 64, seed=0, shuffle=False, augment=None, either_size=True)().take(1):
                for tensor in tf.nest.flatten(batch):
                    digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def train_feed(
        self, batch_size: int, *, seed: int = 0, drop_remainder: bool = False, augment: str | Augmentation | None = None
    ) -> Feed:
        """The feed over the training split: the feed that the function returns, or its samples again and again."""
        return self._feed(self.train_split, batch_size, seed=seed, drop_remainder=drop_remainder, augment=augment)

    def eval_feed(self, batch_size: int, *, pad: bool = False) -> Feed:
        """The feed over the evaluation split. Every sample comes once."""
        return self._feed(self.eval_split, batch_size, seed=0, shuffle=False, pad=pad, augment=None, either_size=True)

    def kind(self, split: str) -> str:
        """How a split is read: always `user`, because the function decides it."""
        return "user"

    def explain(self, feed: Any, step: int) -> DataError | None:
        """None, because nothing is known about the stream of a user's function."""
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
                raise DataError(f"dataset={self.name!r}: the split {split!r} never ends; leave out repeat()")
            size = int(made.reduce(np.int64(0), lambda count, *_: count + 1))
        if size == 0:
            raise DataError(f"dataset={self.name!r}: the split {split!r} is empty; return at least one sample")
        if batch_size > size and not options.get("pad"):
            if not either_size:
                raise DataError(
                    f"batch_size={batch_size} is larger than the split {split!r} of {self.name} ({size} samples); "
                    f"choose at most {size}",
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
        raise DataError(
            f"dataset={self.name!r}: the function returned {type(made).__name__}; return a Feed or a tf.data.Dataset"
        )


def load_user_dataset(name: str, train_split: str, eval_split: str, options: Options) -> UserDataset:
    """The dataset of `module:function`. Raises DataError (exit 2) if there is no such function."""
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise DataError(f"dataset={name!r}: can't be imported: {error}", exit_code=2) from None
    if not callable(function):
        raise DataError(
            f"dataset={name!r}: not a function (type {type(function).__name__}); name one with the arguments of "
            "f(split, batch_size, seed)",
            exit_code=2,
        )
    if options.say:
        options.say(
            f"{name} makes its own stream: resuming and parity are exact only as far as it gives the same samples in "
            "the same order every time"
        )
    return UserDataset(name, function, train_split, eval_split)


def _single(sample: tuple[Any, ...]) -> Any:
    """The sample as one object. `Dataset.map` passes the parts of a tuple one by one, but a dict as a whole."""
    return sample[0] if len(sample) == 1 else sample


def _named(sample: Any, name: str) -> dict[str, Any]:
    """A sample (or its specs) as a dict with `x`, `y` and optionally `sample_weight`."""
    if isinstance(sample, dict) and {"x", "y"} <= set(sample):
        return {key: sample[key] for key in ("x", "y", "sample_weight") if key in sample}
    if isinstance(sample, tuple) and len(sample) in (2, 3):
        return dict(zip(("x", "y", "sample_weight"), sample, strict=False))
    raise DataError(f"dataset={name!r}: samples must be (x, y), (x, y, weight) or a dict with x and y")


def _as_raw(samples: dict[str, Any]) -> dict[str, Any]:
    y = samples["y"]
    return {**samples, "y": tf.cast(y, tf.int64 if y.dtype.is_integer else tf.float32)}
