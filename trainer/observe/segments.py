"""Pictures of a class for each pixel: the input, the truth and the prediction side by side (extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loopwright.trainer.observe.pictures import INK, as_image, encoded, fitted, is_image

#: The colours of the classes, which begin again after the last.
_COLOURS = (
    *((43, 52, 64), (230, 130, 30), (44, 140, 80), (200, 50, 60), (120, 90, 190), (140, 86, 75), (225, 120, 190)),
    *(
        (80, 150, 210),
        (188, 189, 34),
        (23, 170, 190),
        (150, 150, 150),
        (174, 199, 232),
        (255, 187, 120),
        (152, 223, 138),
    ),
)
#: The colour of a pixel that doesn't count.
_NONE = (250, 250, 250)
_TILE, _GAP, _LINE = 100, 5, 15
_MOST_NAMES = 20


def segments_png(inputs: np.ndarray, labels: np.ndarray, said: np.ndarray, names: Sequence[str]) -> bytes:
    """A PNG with a row for each of S samples: its input, if that is an image, its true classes and the predicted ones.

    Args:
      inputs: `[S, H, W, 1 or 3]`, or anything that isn't an image.
      labels, said: int64 `[S, H, W]`; -1 for a pixel that doesn't count.
      names: of the classes. Those that occur stand below.
    """
    panels: list[tuple[str, Any]] = [("input", inputs)] if is_image(inputs) else []
    panels += [("true", labels), ("predicted", said)]
    font = ImageFont.load_default(11)
    width = len(panels) * (_TILE + _GAP) + _GAP
    present = [k for k in np.unique([*np.unique(labels), *np.unique(said)]).tolist() if k >= 0]
    legend = _legend(present, names, font, width)
    height = _fitted_size(labels.shape[2], labels.shape[1])[1]
    top = 18
    below = top + len(labels) * (height + _GAP)
    canvas = Image.new("RGB", (width, below + _LINE * (1 + max(line for line, *_ in legend)) + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (title, values) in enumerate(panels):
        x = _GAP + column * (_TILE + _GAP)
        draw.text((x + _TILE / 2, 3), title, fill=INK, font=font, anchor="ma")
        for row, one in enumerate(values):
            image = _resized(as_image(one, 0), Image.Resampling.BILINEAR) if one.ndim == 3 else colored(one)
            canvas.paste(image, (x + (_TILE - image.width) // 2, top + row * (height + _GAP)))
    for line, x, k, text in legend:
        y = below + line * _LINE
        draw.rectangle((x, y + 3, x + 8, y + 11), fill=_COLOURS[k % len(_COLOURS)])
        draw.text((x + 13, y), text, fill=INK, font=font)
    return encoded(canvas)


def colored(classes: np.ndarray) -> Any:
    """An image of classes `[H, W]` in colours."""
    palette = np.array([*_COLOURS, _NONE], np.uint8)
    return _resized(
        Image.fromarray(palette[np.where(classes < 0, len(_COLOURS), classes % len(_COLOURS))]),
        Image.Resampling.NEAREST,
    )


def _legend(present: Sequence[int], names: Sequence[str], font: Any, width: int) -> list[tuple[int, int, int, str]]:
    """The line, the place, the class and the text of each entry."""
    found, line, x = [(0, _GAP, 0, "")][:0], 0, _GAP
    shown = present[:_MOST_NAMES]
    for k in shown:
        text = fitted(names[k], font, width - 30)
        size = 13 + int(font.getlength(text)) + 12
        if x > _GAP and x + size > width:
            line, x = line + 1, _GAP
        found.append((line, x, k, text))
        x += size
    return found or [(0, _GAP, 0, names[0])]


def _fitted_size(width: int, height: int) -> tuple[int, int]:
    """The size of a picture within a tile."""
    scale = _TILE / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _resized(image: Any, how: Any) -> Any:
    return image.resize(_fitted_size(image.width, image.height), how)
