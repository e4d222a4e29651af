"""What a model says of several labels at once, over all samples of a split: counts by label and probability."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from loopwright.trainer.observe.predictions import FIRST, MISTAKES
from loopwright.trainer.observe.scores import BINS, Curve, Scores


@dataclasses.dataclass(frozen=True)
class LabelPredictions:
    """Predictions of L labels over a split, of which counts and a few samples are kept. A label holds above one half.

    Attributes:
      counts: `[L, 2, BINS]` int64, the samples by the interval of their probability: those for which the label is false,
        and those for which it is true.
      samples, all_right: the number of samples, and of those with all labels right.
      index: int64, the places in the split of the samples that are shown: the first ones, and those with the surest
        mistakes.
      rows: int64, their rows.
      inputs: their inputs.
      labels: bool `[len(rows), L]`.
      chances: float32 `[len(rows), L]`, the probabilities.
      names: the names of the labels.
      texts: the inputs as texts. Empty where they have none.
      step: the training step of the model.
    """

    kind: ClassVar[str] = "labels"

    counts: np.ndarray
    samples: int
    all_right: int
    index: np.ndarray
    rows: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    chances: np.ndarray
    names: np.ndarray
    texts: np.ndarray
    step: int

    @property
    def first(self) -> np.ndarray:
        """The places in `rows` of the first samples."""
        return np.flatnonzero(self.rows < FIRST)

    @property
    def mistakes(self) -> np.ndarray:
        """The places in `rows` of samples with a wrong label, the surest mistake first."""
        distance = np.abs(self.chances - self.labels).max(axis=1, initial=0.0)
        wrong = np.flatnonzero(((self.chances > 0.5) != self.labels).any(axis=1))
        return wrong[np.argsort(-distance[wrong], kind="stable")][:MISTAKES]

    def confusion(self) -> np.ndarray:
        """Counts `[L, 4]` int64 at a threshold of one half: true positives, false positives, false and true negatives."""
        below, above = self.counts[..., : BINS // 2].sum(axis=-1), self.counts[..., BINS // 2 :].sum(axis=-1)
        return np.stack([above[:, 1], above[:, 0], below[:, 1], below[:, 0]], axis=1)

    def scores(self) -> Scores:
        """Precision, recall and F1 of each label."""
        right, false, missed, _ = self.confusion().T
        return Scores.of(right, right + missed, right + false)

    def curve(self, label: int | None = None) -> Curve:
        """Precision over recall for a label, or for all of them together."""
        return Curve.of(self.counts.sum(axis=0) if label is None else self.counts[label])
