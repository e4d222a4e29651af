"""Ranges and round numbers for the axes of charts and pictures."""

from __future__ import annotations

import math


def widened(low: float, high: float) -> tuple[float, float]:
    """A range with some space at its ends, and with a width in any case."""
    space = 0.03 * (high - low) or 0.5 * abs(low) or 1.0
    return float(low - space), float(high + space)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within a range."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """A number in a few characters: 250k, 1.5M, 0.05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.4g}" if value else "0"
