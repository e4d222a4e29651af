"""Datasets by name, and feeds: deterministic tf.data streams that are functions of the step.

dataset = data.load("fashion_mnist")
train_feed = dataset.train_feed(batch_size=32, seed=0)
for batch in train_feed(start_step=1000).take(3): ...   # dicts with x, y and index
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopwright.data.catalog import DATASETS, FEEDS, prepared
    from loopwright.data.dataset import Dataset
    from loopwright.data.errors import DataError
    from loopwright.data.feed import RandomAccessFeed, array_feed
    from loopwright.data.loading import load
    from loopwright.data.protocols import Feed
    from loopwright.data.sequential_feed import SequentialFeed
    from loopwright.data.stacked_feed import StackedFeed

_HOME = {
    "DATASETS": "loopwright.data.catalog",
    "FEEDS": "loopwright.data.catalog",
    "DataError": "loopwright.data.errors",
    "Dataset": "loopwright.data.dataset",
    "Feed": "loopwright.data.protocols",
    "RandomAccessFeed": "loopwright.data.feed",
    "SequentialFeed": "loopwright.data.sequential_feed",
    "StackedFeed": "loopwright.data.stacked_feed",
    "array_feed": "loopwright.data.feed",
    "load": "loopwright.data.loading",
    "prepared": "loopwright.data.catalog",
}

__all__ = [
    "DATASETS",
    "FEEDS",
    "DataError",
    "Dataset",
    "Feed",
    "RandomAccessFeed",
    "SequentialFeed",
    "StackedFeed",
    "array_feed",
    "load",
    "prepared",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
