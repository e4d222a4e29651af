"""Windows of metrics for hooks that read at different cadences, kept in one variable of the state.

The variable begins with the sums since any hook last read, one row `(total, weight)` for each of M metrics. Where hooks read
at two or more cadences, a block follows for each cadence: a row `(cadence, 0)`, and M rows with the sums from earlier reads
of other hooks. So each hook gets the means over its own window, and a checkpoint holds every window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.shapes import named_scalars


def fit(variable: tf.Variable, rows: int, cadences: Sequence[int]) -> None:
    """Gives the variable the blocks of these cadences. Sums that it holds stay, unless its number of metrics differs."""
    held = variable.numpy()
    count, rest = divmod(len(held) - rows, 1 + rows)
    if rest or count < 0:
        held, count = np.zeros([rows, 2]), 0
    blocks = {int(block[0, 0]): block[1:] for block in held[rows:].reshape([count, 1 + rows, 2])}
    live = held[:rows]
    if len(cadences) < 2:
        live = live + sum(blocks[cadence] for cadence in cadences if cadence in blocks)
    value = _joined(live, {cadence: blocks.get(cadence, np.zeros([rows, 2])) for cadence in cadences})
    if value.shape != variable.shape or not np.array_equal(value, variable.numpy()):
        variable.assign(value)


def take(variable: tf.Variable, rows: int, cadences: Sequence[int], due: Collection[int]) -> dict[int, np.ndarray]:
    """The sums `[M, 2]` of the windows of the cadences that are due. Those windows begin again."""
    held = variable.numpy()
    live = held[:rows]
    blocks = {int(block[0, 0]): block[1:] + live for block in held[rows:].reshape([len(cadences), 1 + rows, 2])}
    empty = np.zeros([rows, 2])
    variable.assign(_joined(empty, {cadence: empty if cadence in due else sums for cadence, sums in blocks.items()}))
    return {cadence: blocks[cadence] for cadence in due}


def _joined(live: np.ndarray, blocks: dict[int, np.ndarray]) -> np.ndarray:
    if len(blocks) < 2:
        return live
    return np.concatenate([live, *(np.concatenate([[[cadence, 0.0]], sums]) for cadence, sums in blocks.items())])


class WindowMeans(Mapping[str, float]):
    """Means of a window. They are worked out when the first one is read, so training doesn't wait for unread numbers.

    Args:
      names: the names of the metrics that are summed.
      window: float64 `[M, 2]`, the total and the weight of each. Without a weight the mean is NaN.
      results: the results of Keras metrics, scalars.
    """

    def __init__(self, names: Sequence[str], window: Any, results: Mapping[str, Any]) -> None:
        self._names, self._window, self._results = tuple(names), window, results
        self._all = dict.fromkeys((*names, *results))

    @functools.cached_property
    def _means(self) -> dict[str, float]:
        # Divided in Python: one call of TensorFlow takes longer than all of it.
        means = [total / weight if weight else math.nan for total, weight in np.asarray(self._window).tolist()]
        results = {name: float(value) for name, value in self._results.items()}
        return dict(zip(self._names, means, strict=True)) | results

    def __getitem__(self, name: str) -> float:
        return self._means[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def metric_results(metrics: Iterable[Any]) -> dict[str, tf.Tensor]:
    """The results of Keras metrics as they are now, scalars by name."""
    results: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        results |= result if isinstance(result, dict) else {metric.name: result}
    return named_scalars(results)
