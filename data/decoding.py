"""Decoding records to tensors in TensorFlow ops, as the builder specifies its features."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.autograph import no_autograph
from loopwright.data.errors import DataError


@dataclasses.dataclass(frozen=True)
class Keys:
    """Which features make up a sample: one or more inputs, the label (or target), and optionally the weight."""

    inputs: tuple[str, ...]
    label: str
    weight: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.inputs, self.label, *([self.weight] if self.weight else []))

    def arrange(self, features: dict[str, Any]) -> dict[str, Any]:
        """Arranges features as `x` (a dict if there are several inputs), `y` and, with a weight, `sample_weight`."""
        x = {key: features[key] for key in self.inputs} if len(self.inputs) > 1 else features[self.inputs[0]]
        arranged = {"x": x, "y": features[self.label]}
        return arranged | ({"sample_weight": features[self.weight]} if self.weight else {})


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes records `[B]` string to raw samples: `x` as stored (images are uint8), `y` int64 or float32 (a target).

    Args:
      features: the features of the builder.
      keys: which features make up a sample.
      image_size: height and width to which images are resized (bilinear, antialiased), or None.

    Decoding raises InvalidArgumentError for a record that can't be parsed, a label out of range, and a number that
    isn't finite. `specs` raises DataError (exit 2) for a feature that isn't a numeric array of fixed shape.
    """

    features: tfds.features.FeaturesDict
    keys: Keys
    image_size: tuple[int, int] | None = None

    @functools.cached_property
    def _wanted(self) -> Any:
        return tfds.decode.PartialDecoding(dict.fromkeys(self.keys.all, True)).extract_features(self.features)

    @functools.cached_property
    def num_classes(self) -> int | None:
        """The number of classes, or None if `y` is a regression target."""
        label = self.features[self.keys.label]
        return label.num_classes if isinstance(label, tfds.features.ClassLabel) else None

    @functools.cached_property
    def specs(self) -> dict[str, tf.TensorSpec]:
        """The shape and dtype of each feature of a sample, without the batch."""
        return {key: self._spec(key) for key in self.keys.all}

    def arranged_specs(self) -> dict[str, Any]:
        """The specs, arranged as `x`, `y` and `sample_weight`."""
        return self.keys.arrange(self.specs)

    def __call__(self, records: tf.Tensor) -> dict[str, Any]:
        samples = tf.map_fn(no_autograph(self._decode_one), records, fn_output_signature=self.specs)
        self.check(samples)
        return self.keys.arrange(samples)

    def check(self, samples: dict[str, tf.Tensor]) -> None:
        """Adds assertions to the graph: labels are within the classes, and numbers are finite."""
        for key, tensor in samples.items():
            if key == self.keys.label and self.num_classes:
                inside = tf.reduce_all((tensor >= 0) & (tensor < self.num_classes))
                classes = f"outside the {self.num_classes} classes (0 to {self.num_classes - 1})"
                tf.debugging.Assert(inside, [f"the label {key!r} is {classes}:", tensor], summarize=8)
            elif tensor.dtype.is_floating:
                tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(tensor)), [f"{key!r} holds NaN or infinity"])

    def _decode_one(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = self._wanted.deserialize_example(record)
        return {key: self._fit(key, sample[key], spec) for key, spec in self.specs.items()}

    def _fit(self, key: str, tensor: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
        if self.image_size and isinstance(self.features[key], tfds.features.Image):
            tensor = resize(tensor, self.image_size, mix=holds_images(self.features[key]))
        return tf.ensure_shape(tf.cast(tensor, spec.dtype), spec.shape)

    def _spec(self, key: str) -> tf.TensorSpec:
        feature = self.features[key]
        shape, dtype = feature.shape, tf.as_dtype(feature.np_dtype)
        if not isinstance(shape, tuple) or not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise DataError(
                f"the feature {key!r} ({type(feature).__name__}) is not an array of numbers; choose another",
                exit_code=2,
            )
        if self.image_size and isinstance(feature, tfds.features.Image):
            shape = (*self.image_size, shape[-1])
        if None in shape:
            remedy = "give image_size" if isinstance(feature, tfds.features.Image) else "choose another"
            raise DataError(f"the feature {key!r} has no fixed shape, but {shape}; {remedy}", exit_code=2)
        if key == self.keys.weight or (key == self.keys.label and not self.num_classes):
            dtype = tf.float32
        elif key == self.keys.label:
            dtype = tf.int64
        elif dtype.is_bool or dtype == tf.float64:
            dtype = tf.float32
        return tf.TensorSpec(shape, dtype)


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
