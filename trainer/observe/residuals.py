"""Pictures of predicted numbers and of their errors, drawn with Pillow (extra `plots`). They are drawn in milliseconds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loopwright.trainer.observe.axes import short, ticks, widened
from loopwright.trainer.observe.pictures import INK, encoded, fitted, vertical

#: TensorBoard shrinks pictures that are wider than 320 pixels without smoothing.
_WIDTH, _LEFT, _RIGHT = 320, 58, 12
_PLOT = _WIDTH - _LEFT - _RIGHT
_FULL, _FAINT, _GRID = (31, 95, 168), (214, 228, 244), (228, 230, 234)
_BARS = 41
#: The share of the residuals at either end that the histogram leaves out.
_TAIL = 0.005


def residuals_png(labels: np.ndarray, predicted: np.ndarray, name: str) -> bytes:
    """A PNG of predictions over targets, darker where there are more of them, and of a histogram of predicted minus true.

    Numbers that aren't finite are left out.

    Args:
      labels, predicted: arrays of one size.
      name: of the target.
    """
    true, said = np.ravel(labels).astype(np.float64), np.ravel(predicted).astype(np.float64)
    known = np.isfinite(true) & np.isfinite(said)
    true, said = true[known], said[known]
    canvas = Image.new("RGB", (_WIDTH, 540), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    if len(true):
        _density(canvas, draw, font, true, said, name)
        _histogram(draw, font, said - true)
    else:
        draw.text((_WIDTH / 2, 100), "no finite prediction", fill=INK, font=font, anchor="mm")
    return encoded(canvas)


def _density(canvas: Any, draw: Any, font: Any, true: np.ndarray, said: np.ndarray, name: str) -> None:
    top, cell = 26, 2
    low, high = widened(min(true.min(), said.min()), max(true.max(), said.max()))
    cells = _PLOT // cell
    counts = np.histogram2d(said, true, bins=cells, range=[[low, high]] * 2)[0][::-1]
    strength = np.log1p(counts) / math.log1p(max(counts.max(), 1))
    colours = np.array(_FAINT) + (np.array(_FULL) - np.array(_FAINT)) * strength[..., np.newaxis]
    colours[counts == 0] = 255
    picture = Image.fromarray(colours.astype(np.uint8)).resize((cells * cell, cells * cell), Image.Resampling.NEAREST)
    size = cells * cell
    canvas.paste(picture, (_LEFT, top))
    for tick in ticks(low, high):
        place = (tick - low) / (high - low) * size
        draw.line((_LEFT + place, top, _LEFT + place, top + size), fill=_GRID)
        draw.line((_LEFT, top + size - place, _LEFT + size, top + size - place), fill=_GRID)
        _below(draw, font, _LEFT + place, top + size + 3, short(tick))
        draw.text((_LEFT - 5, top + size - place), short(tick), fill=INK, font=font, anchor="rm")
    drawn = np.array(picture)
    visible = Image.fromarray((~(drawn == 255).all(axis=-1) * 255).astype(np.uint8))
    canvas.paste(picture, (_LEFT, top), visible)
    draw.line((_LEFT, top + size, _LEFT + size, top), fill=(190, 60, 40))
    draw.rectangle((_LEFT, top, _LEFT + size, top + size), outline=(160, 164, 170))
    draw.text((_LEFT + size / 2, 6), fitted(name, font, size), fill=INK, font=font, anchor="ma")
    draw.text((_LEFT + size / 2, top + size + 18), "true", fill=INK, font=font, anchor="ma")
    vertical(canvas, "predicted", font, (9, top + size // 2 + 28))


def _histogram(draw: Any, font: Any, residuals: np.ndarray) -> None:
    top, height = 336, 150
    low, high = widened(*np.quantile(residuals, [_TAIL, 1 - _TAIL]))
    counts, _ = np.histogram(residuals, bins=_BARS, range=(low, high))
    bottom = top + height
    for tick in ticks(low, high):
        x = _LEFT + (tick - low) / (high - low) * _PLOT
        draw.line((x, top, x, bottom), fill=_GRID)
        _below(draw, font, x, bottom + 3, short(tick))
    for place, count in enumerate(counts.tolist()):
        left, right = (_LEFT + _PLOT * edge / _BARS for edge in (place, place + 1))
        if count:
            draw.rectangle((left + 1, bottom - height * count / counts.max(), right - 1, bottom), fill=_FULL)
    if low < 0 < high:
        zero = _LEFT - low / (high - low) * _PLOT
        draw.line((zero, top, zero, bottom), fill=(190, 60, 40))
    draw.line((_LEFT, bottom, _LEFT + _PLOT, bottom), fill=(160, 164, 170))
    draw.text((_LEFT - 5, top), f"{counts.max():,}", fill=INK, font=font, anchor="rm")
    draw.text((_LEFT - 5, bottom), "0", fill=INK, font=font, anchor="rm")
    draw.text((_LEFT + _PLOT / 2, top - 22), "number of samples", fill=INK, font=font, anchor="ma")
    draw.text((_LEFT + _PLOT / 2, bottom + 18), "predicted minus true", fill=INK, font=font, anchor="ma")


def _below(draw: Any, font: Any, x: float, y: float, text: str) -> None:
    """A label of an axis, centered below a point and within the picture."""
    half = font.getlength(text) / 2
    draw.text((min(max(x, half + 1), _WIDTH - half - 2), y), text, fill=INK, font=font, anchor="ma")
