"""What a model says of each position (time step, pixel) of all samples of a split: counts, and a few samples."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from loopwright.trainer.observe.predictions import FIRST, MISTAKES, calibration_of
from loopwright.trainer.observe.scores import Scores, share

#: The number of intervals of confidence.
CONFIDENCES = 10
#: The class of a position that doesn't count.
NONE = -1


@dataclasses.dataclass(frozen=True)
class PositionPredictions:
    """Predictions over the positions of a split, C classes. Padding and positions of weight 0 don't count.

    Attributes:
      pairs: int64 `[C, C]`, the confusion matrix, with a row for each true class. Empty for more than 1000 classes.
      right, true, predicted: int64 `[C]`, how often each class was predicted rightly, is true, and was predicted.
      confidences: float64 `[3, 10]`, the confidence, the right ones and the count of each of ten intervals of confidence.
      samples: the number of samples.
      index: int64, the places in the split of the samples that are shown: the first ones, and those with the smallest share
        of right positions.
      rows: int64, their rows.
      inputs: their inputs.
      labels, said: int64 `[len(rows), ...]`, the true and the predicted classes; -1 where a position doesn't count.
      names: the names of the classes.
      texts: the input at each position as a text, `[len(rows), T]`. Empty where it has none.
      step: the training step of the model.
    """

    kind: ClassVar[str] = "positions"

    pairs: np.ndarray
    right: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    confidences: np.ndarray
    samples: int
    index: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    said: np.ndarray
    names: np.ndarray
    texts: np.ndarray
    step: int

    @property
    def first(self) -> np.ndarray:
        """The places in `rows` of the first samples."""
        return np.flatnonzero(self.rows < FIRST)

    @property
    def mistakes(self) -> np.ndarray:
        """The places in `rows` of samples with wrong positions, the smallest share of right positions first."""
        shares = self.shares()
        wrong = np.flatnonzero(shares < 1)
        return wrong[np.argsort(shares[wrong], kind="stable")][:MISTAKES]

    def shares(self) -> np.ndarray:
        """The share of right positions of each shown sample, float64; NaN for a sample without positions that count."""
        axes = tuple(range(1, self.labels.ndim))
        counts = self.labels != NONE
        return share(((self.labels == self.said) & counts).sum(axis=axes), counts.sum(axis=axes))

    def scores(self) -> Scores:
        """Precision, recall and F1 of each class over positions. The recall of a class is its accuracy."""
        return Scores.of(self.right, self.true, self.predicted)

    def iou(self) -> np.ndarray:
        """The intersection over union of each class, `[C]` float64; NaN for a class that is neither true nor predicted."""
        return share(self.right, self.true + self.predicted - self.right)

    @property
    def accuracy(self) -> float:
        """The share of right positions."""
        return float(share(self.right.sum(), self.true.sum()))

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean confidence, the accuracy and the count of positions in each interval of confidence that isn't empty."""
        return calibration_of(self.confidences)
