"""Fixtures: a small dataset of colour images in several record files of both formats, and the feeds over it."""

import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

SAMPLES = 61
FILES = 4
SHAPE = (5, 4, 3)
CLASSES = 3


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (SAMPLES, *SHAPE), np.uint8)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.random.default_rng(8).integers(0, CLASSES, SAMPLES)


@pytest.fixture(scope="session")
def features() -> Any:
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=SHAPE, dtype=np.uint8, encoding_format="png")
    return tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=CLASSES)})


@pytest.fixture(scope="session")
def record_files(
    tmp_path_factory: pytest.TempPathFactory, features: Any, images: np.ndarray, labels: np.ndarray
) -> Any:
    """The samples in TFRecord files of unequal lengths."""
    import tensorflow as tf

    from loopwright.data.record_files import TFRECORD, RecordFile, RecordFiles

    folder = tmp_path_factory.mktemp("records")
    edges = [0, 9, 10, 37, SAMPLES]
    files = []
    for number in range(FILES):
        path = str(folder / f"tiny-train.tfrecord-{number:05d}-of-{FILES:05d}")
        with tf.io.TFRecordWriter(path) as writer:
            for row in range(edges[number], edges[number + 1]):
                example = features.encode_example({"image": images[row], "label": int(labels[row])})
                writer.write(features.serialize_example(example))
        size = edges[number + 1] - edges[number]
        files.append(RecordFile(path, 0, size, size))
    return RecordFiles(tuple(files), TFRECORD)


@pytest.fixture(scope="session")
def make(record_files: Any, features: Any, images: np.ndarray, labels: np.ndarray) -> Callable[..., Any]:
    """`make(kind, samples, batch_size, …)` gives a feed of one of the three kinds over the first samples."""
    from loopwright.data import augment as augmentation
    from loopwright.data.array_records import copy_to_array_record
    from loopwright.data.decoding import Decoder, Keys
    from loopwright.data.feed import Epochs, RandomAccessFeed
    from loopwright.data.memory import MemorySource
    from loopwright.data.record_files import RecordFile, RecordFiles
    from loopwright.data.sequential_feed import sequential_feed
    from loopwright.data.splits import RecordSplit

    decoder = Decoder(features, Keys(("image",), "label"))
    copies = copy_to_array_record(record_files)

    def first(files: Any, samples: int) -> Any:
        parts = []
        for start, file in zip(files.starts, files.files, strict=False):
            if start < samples:
                parts.append(RecordFile(file.path, 0, min(file.take, samples - start), file.size))
        return RecordSplit(RecordFiles(tuple(parts), files.file_format), decoder)

    def make_feed(
        kind: str, samples: int, batch_size: int, *, seed: int = 0, augment: str = "", bad: Any = (), **options: Any
    ) -> Any:
        change = augmentation.parse(augment, seed=seed)
        epochs = Epochs(samples - len(bad), batch_size, **options)
        if kind == "sequential":
            split = first(record_files, samples)
            return sequential_feed(split, epochs, seed=seed, augment=change, buffer_size=7, bad=bad)
        source = MemorySource.of(images[:samples], labels[:samples]) if kind == "memory" else first(copies, samples)
        return RandomAccessFeed(source, epochs, seed, change, tuple(bad))

    return make_feed


@pytest.fixture(scope="session")
def fashion_mnist(tmp_path_factory: pytest.TempPathFactory, once: Callable[..., pathlib.Path]) -> pathlib.Path:
    """A data_dir with Fashion-MNIST, which its TFDS builder prepared from the original files, if these are at hand."""
    from loopwright import data

    root = pathlib.Path(__file__).resolve().parents[2]
    sources = pathlib.Path(
        os.environ.get("LOOPWRIGHT_FASHION_MNIST", root.parent / "shared" / "data" / "fashion_mnist")
    )
    if not sources.is_dir():
        pytest.skip("no files of Fashion-MNIST: name their folder in LOOPWRIGHT_FASHION_MNIST")
    return once(
        "fashion", lambda folder: data.load("fashion_mnist", data_dir=str(folder), manual_dir=str(sources)) and None
    )


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data_dir with the dataset `every_kind` (see kinds.py), which has a feature of every kind."""
    path = pathlib.Path(__file__).with_name("kinds.py")
    spec = importlib.util.spec_from_file_location("every_kind", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # TFDS knows the builder from now on.
    folder = tmp_path_factory.mktemp("every_kind")
    module.EveryKind(data_dir=str(folder)).download_and_prepare()
    return str(folder)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], None]:
    """`same(left, right)` asserts that two batches are equal: names, dtypes, shapes and bits."""
    import tensorflow as tf

    def assert_same(left: Any, right: Any) -> None:
        tf.nest.assert_same_structure(left, right)
        for one, other in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one.numpy(), other.numpy(), strict=True)

    return assert_same
