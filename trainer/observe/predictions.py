"""A classifier's predictions for all samples of a split, their confusion matrix, accuracy by class, and calibration."""

from __future__ import annotations

import dataclasses
import os
from typing import ClassVar

import numpy as np

from loopwright.trainer.observe import prediction_files
from loopwright.trainer.observe.scores import Scores, binned, share

#: How many inputs are kept: of the split's first samples, and of the mistakes with the highest confidence.
FIRST, MISTAKES = 16, 24
#: The most classes for which a matrix of all pairs of classes is kept.
MOST_PAIRED = 1000


def no_texts() -> np.ndarray:
    """An empty array of texts."""
    return np.zeros(0, "U1")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions over N samples, C classes.

    Attributes:
      index: `[N]` int64, the places of the samples in the split.
      labels, predicted: `[N]` int64.
      confidence: `[N]` float32, the probability of the predicted class.
      shown: int64, the rows of the arrays above whose inputs are kept, in rising order: the first samples, and the
        mistakes with the highest confidence.
      inputs: `[len(shown), ...]` float32, the inputs of these rows.
      num_classes: C.
      step: the training step of the model.
      names: the names of the classes. Empty where they aren't known.
      texts: the inputs of the shown rows as texts. Empty where they have none.
      binary: whether one output told the two classes apart.
    """

    kind: ClassVar[str] = "classes"

    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    shown: np.ndarray
    inputs: np.ndarray
    num_classes: int
    step: int
    names: np.ndarray = dataclasses.field(default_factory=no_texts)
    texts: np.ndarray = dataclasses.field(default_factory=no_texts)
    binary: bool = False

    @property
    def first(self) -> np.ndarray:
        """The places in `shown` of the first samples."""
        return np.flatnonzero(self.shown < FIRST)

    @property
    def mistakes(self) -> np.ndarray:
        """The places in `shown` of the mistakes with the highest confidence, in falling order of confidence."""
        wrong = np.flatnonzero(self.labels[self.shown] != self.predicted[self.shown])
        return wrong[np.argsort(-self.confidence[self.shown[wrong]], kind="stable")][:MISTAKES]

    def confusion(self) -> np.ndarray:
        """Counts `[C, C]` int64. Rows are true classes, and columns are predicted classes."""
        flat = np.bincount(self.labels * self.num_classes + self.predicted, minlength=self.num_classes**2)
        return flat.reshape(self.num_classes, self.num_classes)

    def scores(self) -> Scores:
        """Precision, recall and F1 of each class."""
        right = self.labels[self.labels == self.predicted]
        return Scores.of(
            *(np.bincount(part, minlength=self.num_classes) for part in (right, self.labels, self.predicted))
        )

    def class_accuracy(self) -> np.ndarray:
        """The accuracy on the samples of each class, `[C]` float64; NaN for a class without samples."""
        return self.scores().recall

    def curve_counts(self) -> np.ndarray:
        """The counts `[2, BINS]` from which `Curve` is made, for the second of two classes."""
        return binned(np.where(self.predicted == 1, self.confidence, 1 - self.confidence), self.labels == 1)

    def calibration(self, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean confidence, the accuracy and the count in each of `bins` equal intervals of confidence.

        Intervals without samples are left out, and so are samples whose confidence is NaN or infinite.
        """
        known = np.isfinite(self.confidence)
        given, right = self.confidence[known], (self.labels == self.predicted)[known]
        place = np.minimum((given * bins).astype(int), bins - 1)
        return calibration_of(
            np.stack([np.bincount(place, weights, bins) for weights in (given, right, np.ones_like(given))])
        )

    def calibration_error(self) -> float:
        """The expected calibration error over ten bins (Guo et al. 2017, eq. 3); NaN if no confidence is finite."""
        return calibration_error(*self.calibration())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the predictions to one `.npz` file, atomically."""
        prediction_files.save(path, {"": self})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Reads a file of `save`. Raises ValueError for any other file."""
        found = prediction_files.load(path).get("")
        if not isinstance(found, cls):
            raise ValueError(f"{path} holds no predictions of classes")
        return found


def calibration_of(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and count of the intervals that aren't empty.

    `sums` `[3, bins]` are the confidence, the right ones and the count of each interval.
    """
    confidence, right, count = sums[:, sums[2] > 0]
    return share(confidence, count), share(right, count), count.astype(np.int64)


def calibration_error(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> float:
    """The expected calibration error (Guo et al. 2017, eq. 3) of intervals; NaN if there are none."""
    return float(np.sum(np.abs(confidence - accuracy) * count) / np.sum(count)) if len(count) else float("nan")
