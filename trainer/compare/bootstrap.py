"""Confidence intervals of medians by the percentile bootstrap (Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_DRAWS = 4000


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median of independent samples."""
    import numpy as np

    values = np.asarray(samples, np.float64)
    return _percentiles(np.median(values[_draws(len(values))], axis=1))


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the first samples divided by that of the second. For seconds, above 1 means the second is faster."""
    return statistics.median(first) / statistics.median(second)


def median_ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of `median_ratio`. Samples at the same place were measured in turn, and are drawn as a pair.

    Raises ValueError for samples of different lengths.
    """
    import numpy as np

    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} samples can't be paired; give as many first as second samples"
        )
    draws = _draws(len(first))
    medians = [np.median(np.asarray(samples, np.float64)[draws], axis=1) for samples in (first, second)]
    return _percentiles(medians[0] / medians[1])


def is_tie(interval: tuple[float, float]) -> bool:
    """Whether the interval of a ratio contains 1. Neither side counts as faster then."""
    return interval[0] <= 1 <= interval[1]


def _draws(count: int) -> np.ndarray:
    """Places of samples `[draws, count]`, drawn with replacement. The same places are drawn every time."""
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (_DRAWS, count))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
