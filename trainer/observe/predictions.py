"""A classifier's predictions for all samples of a split, their confusion matrix, accuracy by class, and calibration."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from loopwright.trainer.base.atomic import replace_path
from loopwright.trainer.base.paths import local_path

#: How many inputs are kept: of the split's first samples, and of the mistakes with the highest confidence.
FIRST, MISTAKES = 16, 24


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
    """

    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    shown: np.ndarray
    inputs: np.ndarray
    num_classes: int
    step: int

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

    def class_accuracy(self) -> np.ndarray:
        """The accuracy on the samples of each class, `[C]` float64; NaN for a class without samples."""
        confusion = self.confusion()
        counts = confusion.sum(axis=1)
        return np.divide(np.diag(confusion), counts, out=np.full(self.num_classes, np.nan), where=counts > 0)

    def calibration(self, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean confidence, the accuracy and the count in each of `bins` equal intervals of confidence.

        Intervals without samples are left out, and so are samples whose confidence is NaN or infinite.
        """
        known = np.isfinite(self.confidence)
        given, right = self.confidence[known], (self.labels == self.predicted)[known]
        place = np.minimum((given * bins).astype(int), bins - 1)
        count = np.bincount(place, minlength=bins)
        kept = count > 0
        confidence = np.bincount(place, given, bins)[kept] / count[kept]
        accuracy = np.bincount(place, right, bins)[kept] / count[kept]
        return confidence, accuracy, count[kept]

    def calibration_error(self) -> float:
        """The expected calibration error over ten bins (Guo et al. 2017, eq. 3); NaN if no confidence is finite."""
        confidence, accuracy, count = self.calibration()
        return float(np.sum(np.abs(confidence - accuracy) * count) / np.sum(count)) if len(count) else float("nan")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the predictions to one `.npz` file, atomically."""

        def write(temporary: pathlib.Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **vars(self))

        replace_path(local_path(path), write)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Reads a file of `save`. Raises ValueError for any other file."""
        try:
            with np.load(path) as arrays:
                loaded: dict[str, Any] = {name: arrays[name] for name in arrays.files}
            return cls(**loaded | {name: int(loaded[name]) for name in ("num_classes", "step")})
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no predictions ({error})") from error
