"""Image files of every format give the pixels that Pillow gives, whatever reads them."""

import io
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from loopwright import data
from loopwright.data import image_decoding
from loopwright.data.errors import DataError, short_reason

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
RGBA = Image.fromarray(PIXELS)
RGB = RGBA.convert("RGB")
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [RGB.rotate(180)]}

FILES = {
    "png": (RGB, "PNG", {}),
    "png with a palette": (RGB.quantize(16), "PNG", {}),
    "png with a transparent color": (RGB.quantize(16), "PNG", {"transparency": 3}),
    "png with alpha": (RGBA, "PNG", {}),
    "png of two colors": (RGB.convert("1"), "PNG", {}),
    "gif": (RGB.quantize(16), "GIF", {}),
    "moving gif": (RGB, "GIF", FRAMES),
    "bmp": (RGB, "BMP", {}),
    "bmp with 32 bits": (RGBA, "BMP", {}),
    "bmp with a palette": (RGB.quantize(16), "BMP", {}),
    "gray bmp": (RGB.convert("L"), "BMP", {}),
    "bmp of two colors": (RGB.convert("1"), "BMP", {}),
    "webp": (RGB, "WEBP", {}),
    "webp with alpha": (RGBA, "WEBP", {"lossless": True}),
    "moving webp": (RGB, "WEBP", {**FRAMES, "lossless": True}),
    "tiff": (RGB, "TIFF", {}),
    "cmyk tiff": (RGB.convert("CMYK"), "TIFF", {}),
    "ppm": (RGB, "PPM", {}),
}


def content_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_file_is_decoded_as_pillow_converts_it(name: str, tmp_path: pathlib.Path) -> None:
    image, kind, options = FILES[name]
    (tmp_path / "file").write_bytes(content_of(image, kind, **options))
    with Image.open(tmp_path / "file") as opened:
        expected, gray = np.asarray(opened.convert("RGB")), opened.mode in ("1", "L")
    decode = tf.function(image_decoding.decode, autograph=False)
    got = decode(tf.io.read_file(str(tmp_path / "file")), 3)
    np.testing.assert_array_equal(got, expected, strict=True)
    assert image_decoding.has_colors(str(tmp_path / "file")) == (not gray)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_high_byte_of_16_bits_is_kept(kind: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (8, 9)).astype(np.uint16)
    got = image_decoding.decode(tf.constant(content_of(Image.fromarray(pixels), kind)), 1)
    np.testing.assert_array_equal(got[..., 0], (pixels >> 8).astype(np.uint8), strict=True)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"BM", content_of(RGB, "WEBP")[:60], content_of(RGB, "TIFF")[:80]]
)
def test_damaged_file_is_an_error_of_one_line(content: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        image_decoding.decode(tf.constant(content), 3)
    assert short_reason(caught.value)
    (tmp_path / "file").write_bytes(content)
    image_decoding.has_colors(str(tmp_path / "file"))


def test_pixels_without_a_range_are_refused() -> None:
    floats = Image.fromarray(np.zeros((3, 3), np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="mode 'F' have no fixed range"):
        image_decoding.decode(tf.constant(content_of(floats, "TIFF")), 1)


def test_missing_pillow_is_said_before_training(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("train/a/0.webp", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(content_of(RGB, pathlib.Path(place).suffix[1:].upper()))
    monkeypatch.setattr("loopwright.data.image_folder.pillow_installed", lambda: False)
    with pytest.raises(DataError, match=r"can't read 1 of the images, such as .*0\.webp; install pillow"):
        data.load(f"folder:{tmp_path}")
