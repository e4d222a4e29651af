"""Writing samples as the records that TFDS reads. This is several times as fast as the features' own encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds


def serializer(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
    """A function from a sample to its record, which `features.deserialize_example` reads.

    It takes for each feature what is stored: a number, UTF-8 bytes for a Text, the number of a class, an array of the
    feature's shape for a Tensor, a sequence of fixed length or an image. Values aren't checked. Records hold the features
    in the order of their names, so equal samples have equal bytes.
    """
    setters = {name: _setter(feature) for name, feature in features.items()}

    def serialize(sample: Mapping[str, Any]) -> bytes:
        example = tf.train.Example()
        stored = example.features.feature
        for name, set_value in setters.items():
            set_value(stored[name], sample[name])
        return example.SerializeToString(deterministic=True)

    return serialize


def _setter(feature: Any) -> Callable[[Any, Any], None]:
    if isinstance(feature, tfds.features.Image):
        return lambda stored, value: stored.bytes_list.value.append(tf.io.encode_png(value).numpy())
    if isinstance(feature, tfds.features.Text):
        return lambda stored, value: stored.bytes_list.value.append(value)
    if feature.shape:
        if np.issubdtype(feature.np_dtype, np.floating):
            return lambda stored, value: stored.float_list.value.extend(value.ravel().tolist())
        return lambda stored, value: stored.int64_list.value.extend(map(int, value.ravel().tolist()))
    if np.issubdtype(feature.np_dtype, np.floating):
        return lambda stored, value: stored.float_list.value.append(value)
    return lambda stored, value: stored.int64_list.value.append(value)
