"""Files are read as training read the dataset: with the bits that it stores, and with the colors of a palette."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright.data.image_decoding import decode_stored

PIL = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 5, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 5, 1)).astype(np.uint16)


def encoded(image: Any, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_sixteen_bits_are_kept_for_a_dataset_of_sixteen_bits() -> None:
    content = tf.io.encode_png(DEEP).numpy()
    np.testing.assert_array_equal(decode_stored(content, 1, tf.uint16), DEEP, strict=True)
    np.testing.assert_array_equal(decode_stored(content, 1, tf.uint8), (DEEP >> 8).astype(np.uint8), strict=True)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_eight_bits_become_sixteen_over_the_whole_range(kind: str) -> None:
    content = encoded(PIL.fromarray(COLORS).quantize(8) if kind == "GIF" else PIL.fromarray(COLORS), kind)
    eight, sixteen = (decode_stored(content, 3, dtype).numpy() for dtype in (tf.uint8, tf.uint16))
    np.testing.assert_array_equal(sixteen, eight.astype(np.uint16) * 257, strict=True)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_palettes_give_their_colors(kind: str, channels: int) -> None:
    image = PIL.fromarray(COLORS).quantize(8)
    expected = np.asarray(image.convert("RGB"))
    found = decode_stored(encoded(image, kind), channels, tf.uint8).numpy()
    if channels == 3:
        np.testing.assert_array_equal(found, expected, strict=True)
    else:
        gray = expected @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(found[..., 0], gray, atol=1.5)
