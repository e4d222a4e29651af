"""Medians of repeated measurements, and how sure they are: percentile bootstrap (Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_DRAWS = 4000


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median of independent samples."""
    import numpy as np

    values = np.asarray(samples, np.float64)
    return _percentiles(np.median(values[_draws(len(values))], axis=1))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The ratio of two medians: above 1 where the second takes less time."""
    return statistics.median(slow) / statistics.median(fast)


def ratio_interval(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of `ratio`. Samples of one place were measured one after the other, and are drawn together.

    Raises ValueError for samples of different lengths.
    """
    import numpy as np

    if len(slow) != len(fast):
        raise ValueError(f"{len(slow)} and {len(fast)} samples: a ratio needs pairs")
    draws = _draws(len(slow))
    medians = [np.median(np.asarray(samples, np.float64)[draws], axis=1) for samples in (slow, fast)]
    return _percentiles(medians[0] / medians[1])


def is_tie(between: tuple[float, float]) -> bool:
    """Whether an interval of a ratio holds 1: then neither is said to be faster."""
    return between[0] <= 1 <= between[1]


def _draws(count: int) -> np.ndarray:
    """Places `[draws, count]` of samples, drawn with replacement; the same ones every time."""
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (_DRAWS, count))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
