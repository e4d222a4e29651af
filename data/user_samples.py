"""Whether the samples of a user's `tf.data.Dataset` are what they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from loopwright.data.errors import DataError

_LABELS_AT_ONCE = 1024
#: How many labels are looked at to see whether they are one-hot.
_LABELS_LOOKED_AT = 64
#: Where nobody has said how many samples there are: the number at which the user is told that they are still being
#: counted (and at ten times as many), and the number at which counting ends.
_SAYS_SO_AT, _MOST_COUNTED = 100_000, 10_000_000


class Survey(NamedTuple):
    """What a pass over the labels of a split finds: how many there are, and the highest class (-1 if there is none)."""

    size: int
    highest: int


def is_class(dtype: tf.DType) -> bool:
    """Whether labels of a dtype are numbers of classes, and not regression targets."""
    return dtype.is_integer or dtype.is_bool


def not_samples(specs: dict[str, Any]) -> str:
    """Why a dataset with these specs doesn't give single samples with a label, or an empty text if it may do so."""
    if isinstance(specs["y"], dict):
        return "y is a dict; return a single label, or a Feed for several labels"
    if not (is_class(specs["y"].dtype) or specs["y"].dtype.is_floating):
        return (
            f"the labels are of type {specs['y'].dtype.name}; return the number of the class, and give the function an "
            "attribute class_names, such as ('cat', 'dog')"
        )
    shapes = [part.shape for part in tf.nest.flatten(specs)]
    if any(shape.rank in (None, 0) for shape in shapes):
        return ""
    sizes = {shape[0] for shape in shapes}
    labels = specs["y"]
    if sizes == {None} or (len(sizes) == 1 and sizes != {1} and is_class(labels.dtype) and labels.shape.rank == 1):
        return (
            f"the dataset gives batches (x {_shapes(specs['x'])}, y {_shapes(labels)}), and samples are wanted; leave out "
            "batch()"
        )
    return ""


def not_fixed(specs: dict[str, Any]) -> str:
    """Which part of a sample has no fixed shape, and what to do about it, or an empty text if all have one."""
    for name, spec in specs.items():
        for part in tf.nest.flatten(spec):
            if isinstance(part, tf.TensorSpec) and not part.shape.is_fully_defined():
                return (
                    f"{name} has no fixed shape, but {_shapes(part)}; give every sample the same shape, such as with "
                    "tf.image.resize, and say it with tf.ensure_shape"
                )
    return ""


def one_hot(samples: tf.data.Dataset) -> str:
    """What to do about one-hot labels, or an empty text if the first labels `[C]` don't hold a single 1 and zeros each."""
    shape = samples.element_spec["y"].shape
    if shape.rank != 1 or shape[0] in (None, 1):
        return ""
    first = np.stack([*samples.map(lambda sample: sample["y"]).take(_LABELS_LOOKED_AT).as_numpy_iterator()] or [[0]])
    if not (np.isin(first, (0, 1)).all() and (first.sum(1) == 1).all()):
        return ""
    return f"the labels are one-hot, with the shape {shape}; return the number of the class, such as tf.argmax(y)"


def survey(samples: tf.data.Dataset, classes: int | None, say: Callable[[str], None] | None) -> Survey:
    """Counts samples, and looks at their labels if these are numbers of classes.

    Raises DataError for a label outside the classes, and for samples that don't end. If `classes` is None, any label from
    0 on is good.
    """
    known = int(samples.cardinality())
    if known == tf.data.INFINITE_CARDINALITY:
        raise DataError("the samples never end; leave out repeat()")
    with_classes = is_class(samples.element_spec["y"].dtype)
    labels = samples.map(lambda sample: tf.cast(sample["y"], tf.int64) if with_classes else np.int64(0))
    above = np.iinfo(np.int64).max if classes is None or not with_classes else classes
    size, highest = 0, -1
    for batch in labels.batch(_LABELS_AT_ONCE).prefetch(2).as_numpy_iterator():
        rows = batch.reshape(len(batch), -1)
        wrong = (rows < 0) | (rows >= above)
        if wrong.any():
            row = int(wrong.any(1).argmax())
            raise DataError(
                f"sample {size + row} has the label {rows[row][wrong[row]][0]}, and labels are the numbers of classes, "
                f"from 0 {'on' if classes is None else f'to {classes - 1}'}; correct it, or leave out this sample"
            )
        highest = max(highest, int(rows.max(initial=-1)))
        size += len(batch)
        if known < 0:
            _still_counting(size, len(batch), say)
    return Survey(size, highest)


def _still_counting(size: int, last: int, say: Callable[[str], None] | None) -> None:
    remedy = "leave out repeat(), or end with take(N) or tf.data.experimental.assert_cardinality(N)"
    if size > _MOST_COUNTED:
        raise DataError(f"no end after {size:,} samples; {remedy}")
    steps = (_SAYS_SO_AT, 10 * _SAYS_SO_AT)
    if say and any(size - last < step <= size for step in steps):
        say(f"counting samples: {size:,} so far; if there is no end, {remedy}")


def _shapes(specs: Any) -> str:
    return ", ".join(str(part.shape) for part in tf.nest.flatten(specs))
