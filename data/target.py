"""Targets: what a model learns to give for each label feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.errors import DataError
from loopwright.data.keys import Keys, is_text

CLASS, CLASSES, MULTI_HOT = "class", "classes", "multi_hot"
NUMBER, NUMBERS, TOKENS = "number", "numbers", "tokens"
#: The kinds whose `y` holds numbers of classes, int64. `y` is float32 for all other kinds.
OF_CLASSES = (CLASS, CLASSES, TOKENS)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a model learns to give for a sample.

    Attributes:
      kind: `class` (y `[]`), `classes` (a class for each position, y `[T]` or `[H, W]`), `multi_hot` (y `[L]` of 0 and 1),
        `number` (y `[]`), `numbers` (y of any shape), or `tokens` (y `[T]`: the next token of each position).
      shape: that of `y`, without the batch.
      names: the classes, the labels of a multi-hot vector, or the vocabulary; for numbers, the name of the feature.
    """

    kind: str
    shape: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def dtype(self) -> tf.DType:
        """The type of `y`: int64 for classes and tokens, float32 for everything else."""
        return tf.int64 if self.kind in OF_CLASSES else tf.float32


@dataclasses.dataclass(frozen=True)
class Wish:
    """What decides how a label feature is read, beside the feature.

    Attributes:
      task: `classification` reads a sequence of classes as a class for each position, and `multi_label` reads it as a set
        of labels. `auto` decides by the inputs.
      sequence_length: the number of positions to which samples of differing length are padded or cut. None if unknown.
      sequence_input: whether the input is a sequence, too.
      image_size: height and width to which images are resized, or None.
      zeros_and_ones: the integer vectors that hold nothing but 0 and 1, as far as the data has been looked at.
    """

    task: str = "auto"
    sequence_length: int | None = None
    sequence_input: bool = False
    image_size: tuple[int, int] | None = None
    zeros_and_ones: frozenset[str] = frozenset()


def targets_of(features: Mapping[str, Any], keys: Keys, wish: Wish = Wish()) -> dict[str, Target]:
    """The targets of the label features, by name. Raises DataError (exit 2) for a feature that there is no task for."""
    targets = {key: _target(key, features[key], wish) for key in keys.labels}
    padded = [key for key in targets if is_padded(features[key], targets[key])]
    if padded and len(targets) > 1:
        raise DataError(
            f"the label {padded[0]!r} is a sequence of differing length, which must be the only label; name it alone with "
            "label_key",
            exit_code=2,
        )
    return targets


def is_padded(feature: Any, target: Target) -> bool:
    """Whether `y` is padded, so that a weight must say which positions are real."""
    return target.kind == CLASSES and None in feature.shape


def undecided(features: Mapping[str, Any], keys: Keys, task: str) -> list[str]:
    """The integer vectors among the labels, which are multi-hot if they hold nothing but 0 and 1."""
    if task not in ("auto", "multi_label"):
        return []
    return [key for key in keys.labels if _is_integer_vector(features[key])]


def all_zeros_and_ones(values: Iterable[np.ndarray]) -> bool:
    return all(bool(np.isin(part, (0, 1)).all()) for part in values)


def _target(key: str, feature: Any, wish: Wish) -> Target:
    if isinstance(feature, tfds.features.ClassLabel):
        return Target(CLASS, (), tuple(feature.names))
    if isinstance(feature, tfds.features.LabeledImage):
        return Target(CLASSES, _fixed(key, feature, wish)[:-1], _names_of(key, feature))
    if isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.ClassLabel):
        return _labels(key, feature, wish)
    shape = _numeric_shape(key, feature, wish)
    dtype = np.dtype(feature.np_dtype)
    if shape == () and dtype.kind == "b":
        return Target(CLASS, (), ("false", "true"))
    if len(shape) == 1 and (dtype.kind == "b" or (dtype.kind in "iu" and _zeros_and_ones(key, wish))):
        return Target(MULTI_HOT, shape, tuple(f"{key}[{number}]" for number in range(shape[0])))
    return Target(NUMBERS if shape else NUMBER, shape, (key,))


def _labels(key: str, feature: Any, wish: Wish) -> Target:
    """The target of a sequence of classes: a class for each position, or a set of labels."""
    names = tuple(feature.feature.names)
    per_position = wish.sequence_input or feature.shape[0] is not None
    if wish.task == "multi_label" or (wish.task != "classification" and not per_position):
        return Target(MULTI_HOT, (len(names),), names)
    length = feature.shape[0] or wish.sequence_length
    if length is None:
        raise DataError(
            f"the label {key!r} is a sequence of differing length; give sequence_length to pad it, or task=multi_label for "
            "a set of labels",
            exit_code=2,
        )
    return Target(CLASSES, (length,), names)


def _numeric_shape(key: str, feature: Any, wish: Wish) -> tuple[int, ...]:
    """The shape of a feature that holds numbers. Raises DataError (exit 2) for any other feature."""
    kind = type(feature).__name__
    if is_text(feature):
        problem = f"the label {key!r} ({kind}) is a text, which no task learns"
    elif not isinstance(feature.shape, tuple) or np.dtype(feature.np_dtype).kind not in "biuf":
        problem = f"the label {key!r} ({kind}) is not an array of numbers"
    elif isinstance(feature, tfds.features.Audio) and None in feature.shape:
        problem = f"the label {key!r} ({kind}) is sound of differing length, which no task learns"
    else:
        return _fixed(key, feature, wish)
    raise DataError(f"{problem}; choose another label_key", exit_code=2)


def _fixed(key: str, feature: Any, wish: Wish) -> tuple[int, ...]:
    if isinstance(feature, tfds.features.Image) and wish.image_size:
        return (*wish.image_size, feature.shape[-1])
    if None in feature.shape:
        image = isinstance(feature, tfds.features.Image)
        what = "boxes" if _holds_boxes(feature) else "values"
        problem = f"has no fixed shape, but {feature.shape}" if image else f"holds {what} in differing number"
        remedy = "give image_size" if image else "choose another label_key"
        raise DataError(f"the label {key!r} ({type(feature).__name__}) {problem}; {remedy}", exit_code=2)
    return feature.shape


def _holds_boxes(feature: Any) -> bool:
    if isinstance(feature, tfds.features.Sequence):
        return _holds_boxes(feature.feature)
    return isinstance(feature, tfds.features.BBoxFeature)


def _names_of(key: str, feature: Any) -> tuple[str, ...]:
    if not feature.num_classes:
        raise DataError(f"the label {key!r} doesn't say how many classes it has; choose another label_key", exit_code=2)
    return tuple(feature.names)


def _is_integer_vector(feature: Any) -> bool:
    if isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.ClassLabel):
        return False
    shape = feature.shape
    return isinstance(shape, tuple) and len(shape) == 1 and np.dtype(feature.np_dtype).kind in "iu"


def _zeros_and_ones(key: str, wish: Wish) -> bool:
    return wish.task == "multi_label" or key in wish.zeros_and_ones
