"""What is kept of a few samples of a split: the first ones, and those on which a model does worst."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import numpy as np

from loopwright.trainer.observe.predictions import FIRST, MISTAKES

#: How bad a sample is that must not be among the worst.
GOOD = -np.inf


class Shown:
    """Keeps the parts of the first samples and of the worst ones, while batches go by.

    `first` is the number of first samples.
    """

    def __init__(self, first: int = FIRST) -> None:
        self.rows = 0
        self._first = first
        self._kept: dict[int, dict[str, np.ndarray]] = {}
        self._worst: list[tuple[float, int, dict[str, np.ndarray]]] = []

    def add(self, badness: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
        """Looks at a batch: how bad each sample is `[B]`, and what would be kept of it, `[B, ...]` each.

        Of samples that are equally bad, the first one is kept. NaN counts as worst.
        """
        start, count = self.rows, len(badness)
        badness = np.where(np.isnan(badness), np.inf, badness)

        def of(place: int) -> dict[str, np.ndarray]:
            return {name: np.array(part[place]) for name, part in parts.items()}

        self._kept |= {start + place: of(place) for place in range(min(count, self._first - start))}
        least = self._worst[-1][0] if len(self._worst) == MISTAKES else GOOD
        likely = np.flatnonzero(badness > least)
        likely = likely[np.argsort(-badness[likely], kind="stable")][:MISTAKES]
        self._worst += [(float(badness[place]), start + place, of(place)) for place in likely.tolist()]
        self._worst = heapq.nlargest(MISTAKES, self._worst, key=lambda one: (one[0], -one[1]))
        self.rows += count

    def done(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The rows that are kept, int64 in rising order, and their parts, stacked."""
        kept = dict(sorted((self._kept | {row: parts for _, row, parts in self._worst}).items()))
        names = next(iter(kept.values()), {})
        stacked = {name: np.stack([parts[name] for parts in kept.values()]) for name in names}
        return np.array(list(kept), np.int64), stacked


def as_texts(inputs: np.ndarray, text: Callable[[np.ndarray], str] | None) -> np.ndarray:
    """The inputs `[S, ...]` as an array of texts `[S]`; empty without a function that makes texts of them."""
    return np.array([] if text is None else [text(one) for one in inputs], np.str_)
