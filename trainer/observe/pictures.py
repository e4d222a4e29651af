"""Pictures of a classifier's predictions, drawn with Pillow (extra `plots`). They are fast enough to draw during a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: A sheet is 320 pixels wide. TensorBoard shrinks wider pictures to this width without smoothing.
_COLUMNS, _TILE, _CAPTION, _GAP = 4, 70, 40, 8
_RIGHT, _WRONG, INK = (20, 120, 60), (190, 30, 30), (40, 40, 40)
#: Classes up to which a confusion matrix has names and numbers.
_NAMED = 30


def image_png(pixels: np.ndarray, side: int = 0) -> bytes:
    """A PNG of one image `[H, W, 1 or 3]`, in [0, 1] or as stored. A small image is enlarged to at most `side` pixels."""
    return encoded(as_image(pixels, side))


def is_image(inputs: np.ndarray) -> bool:
    """Whether inputs `[N, ...]` can be shown as images: `[N, H, W, 1 or 3]`."""
    return inputs.ndim == 4 and inputs.shape[-1] in (1, 3)


def sheet_png(
    images: np.ndarray, labels: Sequence[str], predicted: Sequence[str], confidence: Sequence[float]
) -> bytes:
    """A PNG with a tile for each image of `[N, H, W, 1 or 3]`. Under it stand the prediction and, if wrong, the label."""
    captions = []
    for label, said, sure in zip(labels, predicted, confidence, strict=True):
        lines = [said, f"{sure:.0%} sure"] + ([] if label == said else [f"is {label}"])
        captions.append((label == said, lines))
    return captioned_png(images, captions)


def captioned_png(images: np.ndarray, captions: Sequence[tuple[bool, Sequence[str]]]) -> bytes:
    """A PNG with a tile for each image of `[N, H, W, 1 or 3]`, and up to three lines under it.

    A caption begins with whether the prediction is right, which the colour of its first line shows.
    """
    rows = -(-len(images) // _COLUMNS)
    size = _COLUMNS * (_TILE + _GAP) + _GAP, rows * (_TILE + _CAPTION + _GAP) + _GAP
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for place, pixels in enumerate(images):
        x = _GAP + place % _COLUMNS * (_TILE + _GAP)
        y = _GAP + place // _COLUMNS * (_TILE + _CAPTION + _GAP)
        canvas.paste(as_image(pixels, _TILE).resize((_TILE, _TILE), Image.Resampling.BILINEAR), (x, y))
        right, lines = captions[place]
        for line, text in enumerate(lines):
            ink = INK if line else (_RIGHT if right else _WRONG)
            draw.text((x, y + _TILE + 1 + 13 * line), fitted(text, font, _TILE), fill=ink, font=font)
    return encoded(canvas)


def confusion_png(confusion: np.ndarray, names: Sequence[str], *, cell: int = 24) -> bytes:
    """A PNG of a confusion matrix `[C, C]` of counts. Each row is a true class, and a cell's colour shows its share.

    `cell` is the side of a cell in pixels. With more than 30 classes, there are no names and no numbers.
    """
    classes = len(confusion)
    if classes > _NAMED:
        return encoded(as_image(1 - _shares(confusion)[..., np.newaxis], 600))
    size = max(9, cell // 3 + 1)
    font = ImageFont.load_default(size)
    shown = [fitted(name, font, 5 * cell // 2) for name in names]
    margin = int(max(font.getlength(name) for name in shown)) + max(30, size + 18)
    side = margin + classes * cell + _GAP
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    for row, shares in enumerate(_shares(confusion)):
        y = margin + row * cell
        draw.text((margin - 6, y + cell / 2), shown[row], fill=INK, font=font, anchor="rm")
        for column, share in enumerate(shares):
            x = margin + column * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_colour(share, row == column))
            if confusion[row, column]:
                ink = "white" if share > 0.6 else INK
                number = fitted(str(confusion[row, column]), font, cell)
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), number, fill=ink, font=font, anchor="mm")
    for column, name in enumerate(shown):
        vertical(canvas, name, font, (margin + column * cell + cell // 2, margin - 6))
    draw.text((margin + classes * cell / 2, 2), "predicted", fill=INK, font=font, anchor="ma")
    half = int(max(16, font.getlength("true") / 2 + 1))
    vertical(canvas, "true", font, (max(8, int(size * 0.6) + 2), margin + classes * cell // 2 + half))
    return encoded(canvas)


def _shares(confusion: np.ndarray) -> np.ndarray:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _colour(share: float, diagonal: bool) -> tuple[int, int, int]:
    full = (32, 96, 176) if diagonal else (200, 60, 40)
    strength = share**0.6 if share else 0.0
    red, green, blue = (round(246 + (colour - 246) * strength) for colour in full)
    return red, green, blue


def vertical(canvas: Any, text: str, font: Any, bottom: tuple[int, int]) -> None:
    """Draws a text that reads from bottom to top, centered above a point."""
    left, top, right, low = font.getbbox(text)
    label = Image.new("L", (int(right - left) + 2, int(low - top) + 4), 0)
    ImageDraw.Draw(label).text((1 - left, 1 - top), text, fill=255, font=font)
    label = label.rotate(90, expand=True)
    canvas.paste(INK, (bottom[0] - label.width // 2, bottom[1] - label.height), label)


def _in_unit_range(pixels: np.ndarray) -> np.ndarray:
    """The pixels of an image in [0, 1]. A model that scales its inputs itself gets whole numbers up to 255 or 65535."""
    largest = pixels.max(initial=0)
    if largest <= 1 or (pixels != np.rint(pixels)).any():
        return pixels
    return pixels / (255 if largest <= 255 else 65535)


def as_image(pixels: np.ndarray, side: int) -> Any:
    values = np.clip(_in_unit_range(np.nan_to_num(pixels)) * 255 + 0.5, 0, 255).astype(np.uint8)
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values[..., :3]).convert("RGB")
    scale = side // max(image.size) if side else 1
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST) if scale > 1 else image


def fitted(text: str, font: Any, width: int) -> str:
    """The text, or as much of its beginning as fits into the width, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    return next(f"{text[:n]}…" for n in range(len(text) - 1, -1, -1) if font.getlength(f"{text[:n]}…") <= width)


def encoded(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
