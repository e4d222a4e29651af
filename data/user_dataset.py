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
from loopwright.data.scaling import Scaling
from loopwright.data.sequential_feed import SequentialFeed
from loopwright.data.target import CLASS, CLASSES, NUMBER, NUMBERS, Target
from loopwright.data.user_samples import Survey, is_class, not_fixed, not_samples, one_hot, survey


@dataclasses.dataclass(frozen=True, eq=False)
class UserDataset:
    """A dataset that a user's function `f(split)` makes. The function may also take `batch_size` and `seed`.

    The function returns a `Feed`, or a finite `tf.data.Dataset` of samples (not batches). A sample is `(x, y)`,
    `(x, y, weight)`, or a dict with `x`, `y` and optionally `sample_weight`. Samples are batched here, in the order in
    which they come, and one pass over them is an epoch.

    The function may have an attribute `class_names`, and `vocabulary_size` if `x` holds the numbers of tokens. Without the
    first, one pass over a `tf.data.Dataset` finds the highest
    integer label, and classes are numbered up to it. That pass goes over both splits. It is also how a split whose
    number of samples TensorFlow doesn't know is counted.

    Raises DataError for samples that aren't what they must be: batches, shapes that aren't fixed, labels that are
    strings, one-hot or negative, and a stream that never ends. With `class_names`, a label out of range ends the stream.

    Exact resume and parity depend on the function: they hold only if it gives the same samples in the same order each
    time it is called.
    """

    name: str
    function: Callable[..., Any]
    train_split: str
    eval_split: str
    say: Callable[[str], None] | None = None
    _surveys: dict[str, Survey] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def specs(self) -> dict[str, Any]:
        """The shape and dtype of a sample, without the batch: `x`, `y` and optionally `sample_weight`."""
        made = self._made(self.train_split, batch_size=1, seed=0)
        if isinstance(made, tf.data.Dataset):
            self._refuse(self.train_split, not_fixed(made.element_spec))
            return made.element_spec
        return tf.nest.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), made.element_spec)

    @property
    def input_shape(self) -> Any:
        return tf.nest.map_structure(lambda spec: tuple(spec.shape), self.specs["x"])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes. Empty if the label is a regression target, and for several labels."""
        if isinstance(self.specs["y"], dict):
            return ()
        made = self._made(self.train_split, batch_size=1, seed=0)
        if isinstance(made, tf.data.Dataset):
            self._refuse(self.train_split, one_hot(made))
        named = getattr(self.function, "class_names", None)
        if named is not None:
            return tuple(map(str, named))
        if not is_class(self.specs["y"].dtype):
            return ()
        if not isinstance(made, tf.data.Dataset):
            raise DataError(
                f"dataset={self.name!r}: a function that returns a feed needs an attribute class_names, such as "
                "('cat', 'dog')"
            )
        highest, in_eval = self._survey(self.train_split).highest, self._survey(self.eval_split).highest
        if self.say and in_eval > highest:
            self.say(
                f"{self.name}: the split {self.eval_split!r} has labels up to {in_eval}, and {self.train_split!r} only up "
                f"to {highest}; the classes are 0 to {in_eval}"
            )
        return tuple(str(number) for number in range(max(highest, in_eval) + 1))

    @property
    def targets(self) -> dict[str, Target]:
        """What a model learns to give, by the name of the target: the names in `y`, or `label` for a single one."""
        y, names = self.specs["y"], self.class_names
        if isinstance(y, dict):
            return {name: _target(name, spec, ()) for name, spec in y.items()}
        return {"label": _target("label", y, names)}

    @property
    def target(self) -> Target | None:
        """The target, if there is a single one."""
        return next(iter(self.targets.values())) if len(self.targets) == 1 else None

    @property
    def input_kind(self) -> str:
        """What the inputs are: `tokens`, `images`, `numbers`, or `several` inputs."""
        x = self.specs["x"]
        if isinstance(x, dict):
            return "several"
        if self.model_facts:
            return "tokens"
        return "images" if x.shape.rank > 2 else "numbers"

    @property
    def model_facts(self) -> dict[str, Any]:
        """What a model may want to know beside shapes: what the function's attributes say."""
        size = getattr(self.function, "vocabulary_size", None)
        return {} if size is None else {"vocabulary_size": int(size), "sequence_length": self.input_shape[0]}

    @property
    def preprocessing(self) -> None:
        """Nothing is done with the inputs that the function gives."""
        return None

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, in order."""
        feed = self._feed(split, 256, seed=0, shuffle=False, augment=None, either_size=True)
        steps = feed.steps_per_epoch
        return np.concatenate([batch["y"].numpy() for batch in feed().take(steps)])

    def class_counts(self, split: str) -> list[int]:
        """How often each class comes among the labels of a split."""
        return np.bincount(np.ravel(self.labels(split)), minlength=self.num_classes).tolist()

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the specs, the class names and the first 64 samples of both splits."""
        digest = hashlib.sha256(repr((self.name, self.specs, self.class_names)).encode())
        try:
            for split in (self.train_split, self.eval_split):
                for batch in self._feed(split, 64, seed=0, shuffle=False, augment=None, either_size=True)().take(1):
                    for tensor in tf.nest.flatten(batch):
                        digest.update(tensor.numpy().tobytes())
        except tf.errors.OpError as error:
            raise (self.explain(None, 0) or error) from error
        return digest.hexdigest()[:16]

    def train_feed(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        drop_remainder: bool = False,
        augment: str | Augmentation | None = None,
        scale: str = "auto",
    ) -> Feed:
        """The feed over the training split: the feed that the function returns, or its samples again and again.

        The options are those of `Dataset.train_feed`. A feed that the function returns doesn't follow them.
        """
        return self._feed(
            self.train_split, batch_size, seed=seed, drop_remainder=drop_remainder, augment=augment, scale=scale
        )

    def eval_feed(self, batch_size: int, *, pad: bool = False, scale: str = "auto") -> Feed:
        """The feed over the evaluation split. Every sample comes once. The options are those of `Dataset.eval_feed`."""
        return self._feed(
            self.eval_split, batch_size, seed=0, shuffle=False, pad=pad, augment=None, either_size=True, scale=scale
        )

    def kind(self, split: str) -> str:
        """How a split is read: always `user`, because the function decides it."""
        return "user"

    def explain(self, feed: Any, step: int) -> DataError | None:
        """The error that names the first label outside the classes, or None if there is none.

        Nothing else is known about the stream of a user's function.
        """
        try:
            for split in (self.train_split, self.eval_split):
                self._survey(split)
        except DataError as error:
            return error
        return None

    def _feed(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int,
        augment: Any,
        either_size: bool = False,
        scale: str = "auto",
        **options: Any,
    ) -> Any:
        made = self._made(split, batch_size=batch_size, seed=seed)
        if not isinstance(made, tf.data.Dataset):
            return made
        size = int(made.cardinality())
        size = self._survey(split).size if size < 0 else size
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
        samples = made.enumerate()
        decode = functools.partial(_as_raw, classes=self._declared_classes)
        return SequentialFeed(lambda epoch: samples, decode, epochs, parse_augment(augment, seed), Scaling(scale))

    @property
    def _declared_classes(self) -> int | None:
        named = getattr(self.function, "class_names", None)
        return None if named is None else len(named)

    def _survey(self, split: str) -> Survey:
        """What one pass over the labels of a split finds. Raises DataError for a label outside the classes."""
        if split not in self._surveys:
            made = self._made(split, batch_size=1, seed=0)
            if not isinstance(made, tf.data.Dataset):
                return Survey(0, -1)
            try:
                self._surveys[split] = survey(made, self._declared_classes, self.say)
            except DataError as error:
                self._refuse(split, str(error))
        return self._surveys[split]

    def _refuse(self, split: str, problem: str) -> None:
        if problem:
            raise DataError(f"dataset={self.name!r}, split {split!r}: {problem}", exit_code=2)

    def _made(self, split: str, **facts: Any) -> Any:
        """The feed that the function returns, or its samples as dicts."""
        made = self._call(split, **facts)
        if not isinstance(made, tf.data.Dataset):
            return made
        made = made.map(lambda *sample: _named(_single(sample), self.name))
        self._refuse(split, not_samples(made.element_spec))
        return made

    def _call(self, split: str, **facts: Any) -> Any:
        accepted = inspect.signature(self.function).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        facts = {key: value for key, value in {"split": split, **facts}.items() if anything or key in accepted}
        made = self.function(**facts)
        if isinstance(made, tf.data.Dataset) or (callable(made) and hasattr(made, "steps_per_epoch")):
            return made
        raise DataError(
            f"dataset={self.name!r}: for the split {split!r}, the function returned {type(made).__name__}; return a Feed "
            "or a tf.data.Dataset"
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
    return UserDataset(name, function, train_split, eval_split, options.say)


def _target(name: str, spec: tf.TensorSpec, class_names: tuple[str, ...]) -> Target:
    """The target of a part of `y`. Numbers of classes make a class, and everything else makes numbers."""
    shape = tuple(spec.shape)
    if class_names:
        shape = () if shape == (1,) else shape
        return Target(CLASSES if shape else CLASS, shape, class_names)
    return Target(NUMBERS if shape else NUMBER, shape, (name,))


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


def _as_raw(samples: dict[str, Any], classes: int | None) -> dict[str, Any]:
    y = samples["y"]
    if not is_class(y.dtype):
        return {**samples, "y": tf.cast(y, tf.float32)}
    y = tf.cast(y, tf.int64)
    if y.shape.rank == 2 and y.shape[1] == 1:
        y = tf.squeeze(y, 1)
    if classes is not None:
        inside = tf.reduce_all((y >= 0) & (y < classes))
        tf.debugging.Assert(inside, [f"a label is outside the {classes} classes (0 to {classes - 1}):", y], summarize=8)
    return {**samples, "y": y}
