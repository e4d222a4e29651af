"""Pictures of what a classifier does, drawn with Pillow: quick enough to be drawn while a run goes on. Extra `plots`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TILE, _CAPTION, _GAP = 112, 34, 8
_RIGHT, _WRONG, _INK = (20, 120, 60), (190, 30, 30), (40, 40, 40)
#: Classes up to which a confusion matrix has names and numbers.
_NAMED = 30


def png_of(pixels: np.ndarray, side: int = 0) -> bytes:
    """A PNG of one image: `[H, W, 1 or 3]`, float in [0, 1]; `side` enlarges small ones to that many pixels."""
    return _encoded(_image(pixels, side))


def sheet(
    images: np.ndarray,
    labels: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    *,
    columns: int = 8,
) -> bytes:
    """A PNG with a tile for each image of `[N, H, W, 1 or 3]`: under it the prediction, and the truth where it is wrong."""
    rows = -(-len(images) // columns)
    width, height = columns * (_TILE + _GAP) + _GAP, rows * (_TILE + _CAPTION + _GAP) + _GAP
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for place, pixels in enumerate(images):
        x = _GAP + place % columns * (_TILE + _GAP)
        y = _GAP + place // columns * (_TILE + _CAPTION + _GAP)
        canvas.paste(_image(pixels, _TILE).resize((_TILE, _TILE), Image.Resampling.NEAREST), (x, y))
        right = labels[place] == predicted[place]
        says = f"{_short(predicted[place], 12)} {confidence[place]:.0%}"
        draw.text((x, y + _TILE + 2), says, fill=_RIGHT if right else _WRONG, font=font)
        if not right:
            draw.text((x, y + _TILE + 17), f"is {_short(labels[place], 15)}", fill=_INK, font=font)
    return _encoded(canvas)


def confusion_picture(confusion: np.ndarray, names: Sequence[str]) -> bytes:
    """A PNG of a confusion matrix `[C, C]` of counts: a row for each true class, coloured by its share."""
    classes = len(confusion)
    if classes > _NAMED:
        return _encoded(_image(1 - _shares(confusion)[..., np.newaxis], 600))
    cell, font = 44, ImageFont.load_default(13)
    shown = [_short(name, 14) for name in names]
    margin = int(max(font.getlength(name) for name in shown)) + 34
    side = margin + classes * cell + _GAP
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    for row, shares in enumerate(_shares(confusion)):
        y = margin + row * cell
        draw.text((margin - 8, y + cell / 2), shown[row], fill=_INK, font=font, anchor="rm")
        for column, share in enumerate(shares):
            x = margin + column * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_colour(share, row == column))
            if confusion[row, column]:
                ink = "white" if share > 0.6 else _INK
                number = str(confusion[row, column])
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), number, fill=ink, font=font, anchor="mm")
    for column, name in enumerate(shown):
        _vertical(canvas, name, font, (margin + column * cell + cell // 2, margin - 8))
    draw.text((margin + classes * cell / 2, 4), "predicted", fill=_INK, font=font, anchor="ma")
    _vertical(canvas, "true", font, (12, margin + classes * cell // 2 + 16))
    return _encoded(canvas)


def _shares(confusion: np.ndarray) -> np.ndarray:
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _colour(share: float, diagonal: bool) -> tuple[int, int, int]:
    full = (32, 96, 176) if diagonal else (200, 60, 40)
    strength = share**0.6 if share else 0.0
    red, green, blue = (round(246 + (colour - 246) * strength) for colour in full)
    return red, green, blue


def _vertical(canvas: Any, text: str, font: Any, bottom: tuple[int, int]) -> None:
    """Draws a text from bottom to top, centred over a point."""
    left, top, right, low = font.getbbox(text)
    label = Image.new("L", (int(right - left) + 2, int(low - top) + 4), 0)
    ImageDraw.Draw(label).text((1 - left, 1 - top), text, fill=255, font=font)
    label = label.rotate(90, expand=True)
    canvas.paste(_INK, (bottom[0] - label.width // 2, bottom[1] - label.height), label)


def _image(pixels: np.ndarray, side: int) -> Any:
    values = np.clip(np.nan_to_num(pixels) * 255 + 0.5, 0, 255).astype(np.uint8)
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values[..., :3]).convert("RGB")
    scale = side // max(image.size) if side else 1
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST) if scale > 1 else image


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _encoded(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
