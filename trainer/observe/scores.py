"""Precision, recall and F1 of classes or labels, and curves of precision over recall, all out of counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: The number of equal intervals of [0, 1] by which probabilities are counted. One half is an edge of two of them.
BINS = 200


class Scores(NamedTuple):
    """Scores of C classes or labels, each float64 `[C]` but for the counts.

    Attributes:
      samples: int64, how often the class is true.
      precision: the share of right ones among what was predicted as the class; NaN where nothing was.
      recall: the share of samples of the class that were found; NaN for a class without samples.
      f1: the harmonic mean of the two, as counts give it; NaN for a class that is neither true nor predicted.
    """

    samples: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @classmethod
    def of(cls, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> Scores:
        """From the counts `[C]` of what is right, of what is true, and of what was predicted."""
        return cls(true, share(right, predicted), share(right, true), share(2 * right, true + predicted))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that are true or predicted anywhere; NaN if there are none."""
        known = self.f1[~np.isnan(self.f1)]
        return float(known.mean()) if len(known) else float("nan")


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` float64; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def interval(chances: np.ndarray) -> np.ndarray:
    """The interval of each probability, int64: number `k` holds those above `k / BINS`, up to `(k + 1) / BINS`.

    So a probability is above one half exactly in the upper half of the intervals. NaN counts as 0.
    """
    return np.clip(np.ceil(np.nan_to_num(chances) * BINS).astype(np.int64) - 1, 0, BINS - 1)


def binned(chances: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Counts int64 `[2, BINS]` of probabilities `[N]` by interval, of what is false (row 0) and of what is true (row 1)."""
    flat = np.bincount(true.astype(np.int64) * BINS + interval(chances), minlength=2 * BINS)
    return flat.reshape(2, BINS)


class Curve(NamedTuple):
    """What is found at each of `BINS` thresholds `k / BINS`, where a probability above the threshold counts as found.

    Each is float64 `[BINS]`: counts of true and of false ones that are found, of those that aren't, and their shares. The
    precision is 1 where nothing is found.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> Curve:
        """From counts `[2, BINS]` of `binned`."""
        above = counts[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
        (false_positives, true_positives), (negatives, positives) = above, counts.sum(axis=1)
        found = true_positives + false_positives
        precision = np.where(found > 0, true_positives / np.maximum(found, 1), 1.0)
        recall = true_positives / max(positives, 1)
        missed = positives - true_positives
        return cls(true_positives, false_positives, negatives - false_positives, missed, precision, recall)

    @property
    def average_precision(self) -> float:
        """The area under precision over recall, as steps; NaN where nothing is true."""
        if not self.true_positives[0] + self.false_negatives[0]:
            return float("nan")
        gained = self.recall - np.append(self.recall[1:], 0.0)
        return float(np.sum(gained * self.precision))
