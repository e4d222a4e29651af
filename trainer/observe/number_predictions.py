"""What a model says of numbers, over all samples of a split: errors by output, and a bounded number of pairs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from loopwright.trainer.observe.predictions import MISTAKES
from loopwright.trainer.observe.scores import share

#: The most numbers that are kept of all samples. Beyond them, every second sample is dropped, again and again.
MOST_NUMBERS = 1_000_000


@dataclasses.dataclass(frozen=True)
class NumberPredictions:
    """Predictions of K numbers for each of N samples.

    Attributes:
      index: int64 `[n]`, the places in the split of the samples below: all N, or every so many-th where N times K is large.
      labels, predicted: float32 `[n, K]`.
      samples: N.
      squares: float64 `[K]`, the sums of squared errors over all samples.
      absolute: float64 `[K]`, the sums of absolute errors.
      spread: float64 `[K]`, the sums of squared differences of the targets from their mean.
      shown: int64, the places in the split of the samples with the largest errors.
      inputs: their inputs.
      shown_labels, shown_predicted: float32 `[len(shown), K]`.
      name: of the target.
      texts: the inputs as texts. Empty where they have none.
      step: the training step of the model.
    """

    kind: ClassVar[str] = "numbers"

    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    samples: int
    squares: np.ndarray
    absolute: np.ndarray
    spread: np.ndarray
    shown: np.ndarray
    inputs: np.ndarray
    shown_labels: np.ndarray
    shown_predicted: np.ndarray
    name: np.ndarray
    texts: np.ndarray
    step: int

    @property
    def largest(self) -> np.ndarray:
        """The places in `shown`, the largest error first."""
        error = np.abs(self.shown_predicted - self.shown_labels).max(axis=1, initial=0.0)
        return np.argsort(-np.nan_to_num(error, nan=np.inf), kind="stable")[:MISTAKES]

    @property
    def rmse(self) -> float:
        """The root of the mean squared error over all numbers."""
        return float(np.sqrt(self.squares.sum() / max(self.samples * len(self.squares), 1)))

    @property
    def mae(self) -> float:
        """The mean absolute error over all numbers."""
        return float(self.absolute.sum() / max(self.samples * len(self.absolute), 1))

    @property
    def r2(self) -> float:
        """The share of the variance that is explained: the mean over the outputs that vary. NaN if none does."""
        known = 1 - share(self.squares, self.spread)
        known = known[~np.isnan(known)]
        return float(known.mean()) if len(known) else float("nan")

    def by_output(self) -> np.ndarray:
        """Float64 `[K, 3]`: R², root mean squared error and mean absolute error of each output."""
        count = max(self.samples, 1)
        return np.stack(
            [1 - share(self.squares, self.spread), np.sqrt(self.squares / count), self.absolute / count], axis=1
        )
