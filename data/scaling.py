"""How stored pixels become the numbers that a model gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

SCALES = ("auto", "unit", "none")

#: The largest pixel of the dtypes in which images are stored.
LARGEST = {tf.uint8: 255.0, tf.uint16: 65535.0}


def scale(x: tf.Tensor) -> tf.Tensor:
    """Converts uint8 and uint16 to float32 in [0, 1]. Other dtypes stay as they are.

    The result is `x * float32(1/255)` or `x * float32(1/65535)` to the bit.

    Why a multiplication: the graph optimiser turns some divisions by a constant into multiplications, but not all. With
    a division, the same pixels would differ in the last bit inside and outside a compiled step.

    Why `Dequantize`: a cast and a product would go over the batch twice. This op does it in one pass: it converts,
    multiplies by (1 - 0) / 255 in float32, and adds 0.
    """
    if x.dtype == tf.uint8:
        return tf.raw_ops.Dequantize(input=tf.bitcast(x, tf.quint8), min_range=0.0, max_range=1.0, mode="MIN_COMBINED")
    return tf.cast(x, tf.float32) * np.float32(1 / 65535) if x.dtype == tf.uint16 else x


def shaped_like_images(x: Any) -> bool:
    """Whether a batch (a tensor or its spec) has the dtype and at least the rank of images `[B, H, W, C]`."""
    return x.dtype in LARGEST and x.shape.rank is not None and x.shape.rank >= 4


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Which inputs are scaled to [0, 1].

    Attributes:
      mode: `auto` scales images. `unit` does the same, but scales every uint8 and uint16 input if none of them is an
        image. `none` scales nothing: images become float32 with the values that are stored.
      images: whether each input is an image, in the structure of `x`. None if nothing but the tensors is known. An
        image is then a uint8 or uint16 tensor of rank 4 or more.

    uint8 and uint16 inputs that aren't images, such as token ids, stay as they are stored. So do all other dtypes.
    """

    mode: str = "auto"
    images: Any = None

    def __post_init__(self) -> None:
        if self.mode not in SCALES:
            raise ValueError(f"scale={self.mode!r}: no such scale; choose from {', '.join(SCALES)}")

    def __call__(self, x: Any, stored: Any) -> Any:
        """The inputs of a batch. `x` may have gone through augmentation; `stored` is what it was before.

        An image that augmentation gives as floats must lie in [0, 1]. An input of any other kind stays as it is given.
        """
        scaled = self.scaled(stored)

        def convert(part: tf.Tensor, before: tf.Tensor, image: bool, is_scaled: bool) -> tf.Tensor:
            if is_scaled:
                return scale(part)
            if part.dtype != before.dtype and shaped_like_images(before):  # Augmentation has scaled it.
                return part * LARGEST[before.dtype]
            return tf.cast(part, tf.float32) if image and part.dtype in LARGEST else part

        return tf.nest.map_structure(convert, x, stored, self._images(stored), scaled)

    def scaled(self, stored: Any) -> Any:
        """Whether each of the stored inputs (batches, or their specs) is scaled, in the structure of `stored`."""
        images = self._images(stored)
        everything = self.mode == "unit" and not any(tf.nest.flatten(images))
        return tf.nest.map_structure(
            lambda part, image: self.mode != "none" and part.dtype in LARGEST and (image or everything), stored, images
        )

    def unsure(self, stored: Any) -> Any | None:
        """The first input that may be images or not: uint8 or uint16 of which nothing but the shape is known."""
        if self.mode != "auto" or self.images is not None:
            return None
        parts = [part for part in tf.nest.flatten(stored) if part.dtype in LARGEST]
        return next((part for part in parts if not shaped_like_images(part)), None)

    def _images(self, stored: Any) -> Any:
        return tf.nest.map_structure(shaped_like_images, stored) if self.images is None else self.images


#: Scales images, as far as they are known.
AUTO = Scaling()
