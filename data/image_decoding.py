"""Decoding image files: TensorFlow reads JPEG, PNG, GIF and plain BMP, and Pillow reads all other formats."""

from __future__ import annotations

import importlib.util
import io
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.data.autograph import no_autograph

#: How to get Pillow, for messages.
INSTALL_PILLOW = "install pillow (pip install pillow)"

#: The first bytes of JPEG, PNG, GIF and BMP.
_JPEG, _PNG, _GIF, _BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"
#: How files begin that Pillow reads: WebP, TIFF, PBM to PPM, and BMP with a palette, 16 bits or compression.
_FOR_PILLOW = r"RIFF|II\*\x00|MM\x00\*|P[1-6]\s|BM{any}{{26}}([\x01\x04\x08\x10]|[\x18\x20]\x00[\x01-\x7f])"
_HEADER = 34
_ANY_BYTE = r"\C"  # of RE2
#: The place of a PNG file's color type, and the color types of gray (with transparency: 4).
_PNG_COLOR_TYPE, _PNG_GRAY = 25, (b"", b"\0", b"\4")
#: Modes of Pillow without colors.
_GRAY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def pillow_installed() -> bool:
    return importlib.util.find_spec("PIL") is not None


def decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """The first frame of an image file as pixels `[H, W, C]` uint8, from the bytes of the file (a string scalar).

    Transparency is dropped. Of 16-bit channels, the high byte is kept. Raises InvalidArgumentError for bytes that can't be
    decoded.
    """
    by_pillow = tf.strings.regex_full_match(
        tf.strings.substr(data, 0, _HEADER), f"({_FOR_PILLOW.format(any=_ANY_BYTE)}){_ANY_BYTE}*"
    )
    return tf.cond(
        by_pillow,
        no_autograph(lambda: _decode_by_pillow(data, channels)),
        no_autograph(lambda: tf.io.decode_image(data, channels=channels, expand_animations=False)),
    )


def decode_stored(content: bytes, channels: int, dtype: tf.DType) -> tf.Tensor:
    """An image as a dataset stores it: `[H, W, channels]` of a dtype uint8 or uint16, from the bytes of any image file.

    For uint16, all bits of a PNG are kept, and the 8 bits of other formats become 16. The gray of a GIF or a BMP is made
    from its colors. Raises InvalidArgumentError for bytes that can't be decoded.
    """
    if dtype == tf.uint16 and content.startswith(_PNG):
        return tf.io.decode_png(content, channels=channels, dtype=tf.uint16)
    in_colors = channels == 1 and content.startswith((_BMP, _GIF))
    image = decode(tf.constant(content), 3 if in_colors else channels)
    image = tf.image.rgb_to_grayscale(image) if in_colors else image
    return image if dtype == tf.uint8 else tf.cast(image, tf.uint16) * 257


def has_colors(path: str) -> bool:
    """Whether the header of an image file says that the image has colors. False for a damaged file.

    GIF files always count as images with colors, and so do BMP files that TensorFlow reads.
    """
    try:
        with pathlib.Path(path).open("rb") as file:
            data = file.read(_HEADER)
            if data.startswith(_PNG):
                return data[_PNG_COLOR_TYPE : _PNG_COLOR_TYPE + 1] not in _PNG_GRAY
            data += file.read()
    except OSError:  # Reading the pixels fails as well, and that error names the file.
        return False
    if re.match(_FOR_PILLOW.format(any=".").encode(), data, re.DOTALL):
        return _mode(data) not in ("", *_GRAY_MODES)
    if not data.startswith(_JPEG):
        return data.startswith((_GIF, _BMP))
    try:
        return int(tf.io.extract_jpeg_shape(data)[2]) > 1
    except tf.errors.OpError:
        return False


def _mode(data: bytes) -> str:
    """Pillow's mode of an image, or an empty text if Pillow can't open it or isn't installed."""
    if not pillow_installed():
        return ""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode
    except (OSError, ValueError, SyntaxError):
        return ""


def _decode_by_pillow(data: tf.Tensor, channels: int) -> tf.Tensor:
    def read(content: Any) -> tuple[np.ndarray, bytes]:
        return _pixels(np.asarray(content, object).item(), channels)  # Eagerly, NumPy gets an array and not bytes.

    pixels, problem = tf.numpy_function(read, [data], (tf.uint8, tf.string), stateful=False)
    tf.debugging.Assert(tf.equal(problem, ""), [problem])
    return tf.ensure_shape(pixels, [None, None, channels])


def _pixels(data: bytes, channels: int) -> tuple[np.ndarray, bytes]:
    """The pixels `[H, W, C]` as Pillow converts them to RGB or gray, and an empty text; or no pixels, and what is wrong."""
    nothing = np.zeros((0, 0, channels), np.uint8)
    if not pillow_installed():
        return nothing, f"Unknown image file format for TensorFlow; to read other formats, {INSTALL_PILLOW}".encode()
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as file:
            image: Image.Image = file
            if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM"):
                image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))  # Pillow would cut values at 255.
            elif file.mode in ("I", "F"):
                return (
                    nothing,
                    f"pixels of mode {file.mode!r} have no fixed range; save the image with 8 or 16 bits".encode(),
                )
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        return nothing, f"Unknown image file format, or a damaged file{reason}".encode()
    return pixels.reshape(*pixels.shape[:2], channels), b""
