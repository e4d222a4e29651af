"""Decoding records to tensors in TensorFlow ops, as the builder specifies its features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.autograph import no_autograph
from loopwright.data.errors import DataError
from loopwright.data.keys import Keys as Keys  # where users of a decoder look for them
from loopwright.data.preprocessing import TABLE, TEXT, WORDS, Preprocessing, as_columns, input_form
from loopwright.data.target import CLASS, CLASSES, MULTI_HOT, Target, Wish, is_padded, targets_of

#: The part of a decoded sample that says which positions of a padded label are real.
_REAL = "real positions"


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes records `[B]` string to samples.

    `x` is as it is stored (images are uint8), or what the preprocessing makes of it. `y` is int64 for classes, and float32
    for every other target. Where a label is a sequence of differing length, `sample_weight` `[B, T]` is 1 for its positions
    and 0 for its padding. It multiplies the weight of the sample, if there is one.

    Args:
      features: the features of the builder.
      keys: which features make up a sample.
      image_size: height and width to which images are resized (bilinear, antialiased), or None.
      targets: what the labels are, by name. None reads it off the features.
      sequence_length: the length to which sequences of differing length are padded with zeros or cut.
      preprocessing: what is done with texts and tables. None leaves the strings and columns as they are stored.

    Decoding raises InvalidArgumentError for a record that can't be parsed, a label out of range, and a number that
    isn't finite. In a table such a number is a missing value. `specs` raises DataError (exit 2) for a feature of a form
    that can't be trained on.
    """

    features: tfds.features.FeaturesDict
    keys: Keys
    image_size: tuple[int, int] | None = None
    targets: Mapping[str, Target] | None = None
    sequence_length: int | None = None
    preprocessing: Preprocessing | None = None

    @functools.cached_property
    def _wanted(self) -> Any:
        return tfds.decode.PartialDecoding(dict.fromkeys(self.keys.all, True)).extract_features(self.features)

    @functools.cached_property
    def _targets(self) -> Mapping[str, Target]:
        wish = Wish(sequence_length=self.sequence_length, image_size=self.image_size)
        return targets_of(self.features, self.keys, wish) if self.targets is None else self.targets

    @functools.cached_property
    def _form(self) -> str:
        return input_form(self.features, self.keys)

    @functools.cached_property
    def specs(self) -> dict[str, tf.TensorSpec]:
        """The shape and dtype of each feature of a sample, without the batch, before the preprocessing."""
        return {key: self._spec(key) for key in self.keys.all}

    @functools.cached_property
    def _padded(self) -> Target | None:
        """The target whose positions are padded, if there is one."""
        found = (target for key, target in self._targets.items() if is_padded(self.features[key], target))
        return next(found, None)

    def arranged_specs(self) -> dict[str, Any]:
        """The specs of what decoding gives: `x`, `y` and `sample_weight`."""
        arranged = self.keys.arrange(self.specs)
        if self.preprocessing is not None:
            arranged["x"] = self.preprocessing.spec
        if self._padded is not None:
            arranged["sample_weight"] = tf.TensorSpec(self._padded.shape, tf.float32)
        return arranged

    def only_labels(self) -> Decoder:
        """A decoder of the labels alone, which stand in the place of inputs, too."""
        keys = dataclasses.replace(self.keys, inputs=self.keys.labels[:1], weight=None)
        return dataclasses.replace(self, keys=keys, targets=self._targets, preprocessing=None)

    def __call__(self, records: tf.Tensor) -> dict[str, Any]:
        signature = self.specs
        if self._padded is not None:
            signature = {**signature, _REAL: tf.TensorSpec(self._padded.shape, tf.float32)}
        samples = tf.map_fn(no_autograph(self._decode_one), records, fn_output_signature=signature)
        real = samples.pop(_REAL, None)
        self.check(samples)
        arranged = self.keys.arrange(samples)
        if self.preprocessing is not None:
            arranged["x"] = self.preprocessing(
                as_columns(self.keys, arranged["x"]) if self._form == TABLE else arranged["x"]
            )
        if real is not None:
            weight = arranged.get("sample_weight")
            arranged["sample_weight"] = real if weight is None else real * weight[:, tf.newaxis]
        return arranged

    def check(self, samples: dict[str, tf.Tensor]) -> None:
        """Adds assertions to the graph: labels are within the classes, and numbers are finite."""
        for key, tensor in samples.items():
            target = self._targets.get(key)
            if target is not None and target.kind in (CLASS, CLASSES):
                classes = len(target.names)
                inside = tf.reduce_all((tensor >= 0) & (tensor < classes))
                problem = f"the label {key!r} is outside the {classes} classes (0 to {classes - 1}):"
                tf.debugging.Assert(inside, [problem, tensor], summarize=8)
            elif target is not None and target.kind == MULTI_HOT:
                problem = f"the label {key!r} is not 0 or 1 for each of its {len(target.names)} labels"
                tf.debugging.Assert(tf.reduce_all((tensor == 0) | (tensor == 1)), [problem])
            elif tensor.dtype.is_floating and (target is not None or key == self.keys.weight or self._form != TABLE):
                tf.debugging.Assert(
                    tf.reduce_all(tf.math.is_finite(tensor)), [f"the feature {key!r} holds NaN or infinity"]
                )

    def _decode_one(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = self._wanted.deserialize_example(record)
        decoded = {key: self._fit(key, sample[key], spec) for key, spec in self.specs.items()}
        if self._padded is not None:
            positions = tf.range(self._padded.shape[0]) < tf.shape(sample[self.keys.label])[0]
            decoded[_REAL] = tf.cast(positions, tf.float32)
        return decoded

    def _fit(self, key: str, tensor: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
        """A feature of a sample in the form of its spec."""
        feature, target = self.features[key], self._targets.get(key)
        if self.image_size and isinstance(feature, tfds.features.Image):
            tensor = resize(tensor, self.image_size, mix=holds_images(feature))
        if target is not None and target.kind == MULTI_HOT and isinstance(feature, tfds.features.Sequence):
            tensor = _multi_hot(tensor, len(target.names))
        elif target is not None and target.kind == CLASSES and isinstance(feature, tfds.features.LabeledImage):
            tensor = tf.squeeze(tensor, axis=-1)
        elif feature.shape[:1] == (None,) and not isinstance(feature, tfds.features.Image):
            tensor = _padded(tensor, spec)
        if spec.dtype != tf.string:
            tensor = tf.cast(tensor, spec.dtype)
        return tf.ensure_shape(tensor, spec.shape)

    def _spec(self, key: str) -> tf.TensorSpec:
        if key in self._targets:
            return tf.TensorSpec(self._targets[key].shape, self._targets[key].dtype)
        if key in self.keys.inputs and self._form in (TEXT, WORDS):
            return tf.TensorSpec([] if self._form == TEXT else [self.sequence_length], tf.string)
        feature = self.features[key]
        shape, dtype = feature.shape, tf.as_dtype(feature.np_dtype) if isinstance(feature.shape, tuple) else None
        if key in self.keys.inputs and self._form == TABLE:
            kept = dtype == tf.string or isinstance(feature, tfds.features.ClassLabel)
            return tf.TensorSpec([], dtype if kept else tf.float32)
        if dtype is None or not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise DataError(
                f"the feature {key!r} ({type(feature).__name__}) is not an array of numbers; choose another",
                exit_code=2,
            )
        shape = self._fixed(key, shape)
        if key == self.keys.weight or dtype.is_bool or dtype == tf.float64:
            dtype = tf.float32
        return tf.TensorSpec(shape, dtype)

    def _fixed(self, key: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """The shape of an array after resizing or padding. Raises DataError (exit 2) if it differs between samples."""
        feature = self.features[key]
        image = isinstance(feature, tfds.features.Image)
        if self.image_size and image:
            shape = (*self.image_size, shape[-1])
        if None not in shape:
            return shape  # type: ignore[return-value]
        kind = type(feature).__name__
        if image:
            raise DataError(f"the feature {key!r} has no fixed shape, but {shape}; give image_size", exit_code=2)
        sequence = key in self.keys.inputs and shape[0] is None and None not in shape[1:] and not holds_images(feature)
        if not sequence or isinstance(feature, tfds.features.Audio):
            what = "sound of differing length" if isinstance(feature, tfds.features.Audio) else f"of shape {shape}"
            raise DataError(
                f"the feature {key!r} ({kind}) has no fixed shape: it is {what}; choose another", exit_code=2
            )
        if self.sequence_length is None:
            raise DataError(
                f"the feature {key!r} ({kind}) is a sequence of differing length; give sequence_length to pad or cut it",
                exit_code=2,
            )
        return (self.sequence_length, *(size for size in shape[1:] if size is not None))


def _multi_hot(classes: tf.Tensor, count: int) -> tf.Tensor:
    """Classes `[None]` as a vector `[count]` of 0 and 1. A class out of range gives a 2, for `check` to find."""
    inside = tf.reduce_all((classes >= 0) & (classes < count))
    hot = tf.minimum(tf.reduce_sum(tf.one_hot(classes, count), axis=0), 1.0)
    return tf.where(inside, hot, 2.0)


def _padded(tensor: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """A sequence `[None, ...]`, cut or padded to the length of a spec with zeros or empty strings."""
    length = spec.shape[0]
    tensor = tensor[:length]
    missing = [[0, length - tf.shape(tensor)[0]], *[[0, 0]] * (len(spec.shape) - 1)]
    return tf.pad(tensor, missing, constant_values="" if spec.dtype == tf.string else 0)


def holds_images(feature: Any) -> bool:
    """Whether a feature is an image, a video, or another sequence of images."""
    if isinstance(feature, tfds.features.Sequence):
        return holds_images(feature.feature)
    labels = isinstance(feature, tfds.features.LabeledImage)  # Its pixels are numbers of classes.
    return isinstance(feature, tfds.features.Image) and not labels


def resize(image: tf.Tensor, size: tuple[int, int], *, mix: bool = True) -> tf.Tensor:
    """Resizes an image `[H, W, C]` to a height and width. The dtype stays the same.

    With `mix`, pixels are interpolated (bilinear, antialiased). Without, each is the nearest old one, as numbers of
    classes need it.
    """
    if not mix:
        return tf.image.resize(image, size, method="nearest")
    resized = tf.image.resize(image, size, antialias=True)
    if image.dtype.is_floating:
        return tf.cast(resized, image.dtype)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, image.dtype.max), image.dtype)


def nbytes(specs: Any) -> int:
    """The number of bytes in one sample of the given specs."""
    return sum(int(np.prod(spec.shape)) * spec.dtype.size for spec in tf.nest.flatten(specs))
