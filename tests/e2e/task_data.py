"""What the tests of tasks train on: a TFDS builder with a label for each task, small tables and texts, and models."""

import csv
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from keras import layers

SAMPLES = {"train": 40, "test": 11}
_WORDS = {"noun": ("sky", "sea", "Sun"), "verb": ("see", "go", "be"), "other": ("the", "a")}


class TaskData(tfds.core.GeneratorBasedBuilder):
    """Samples that are a function of their number."""

    name = "task_data"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Made up."}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = tfds.features
        features = {
            "image": kinds.Image(shape=(8, 6, 1), dtype=np.uint8),
            "segments": kinds.LabeledImage(labels=["earth", "sky"], shape=(8, 6, 1)),
            "size": kinds.Tensor(shape=(2,), dtype=np.float32),
            "kind": kinds.ClassLabel(names=["cat", "dog", "owl"]),
            "price": kinds.Scalar(np.float32),
            "traits": kinds.Tensor(shape=(3,), dtype=np.bool_),
            "words": kinds.Sequence(kinds.Text()),
            "tags": kinds.Sequence(kinds.ClassLabel(names=list(_WORDS))),
        }
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        starts = {"train": 0, "test": 1000}
        return {
            split: ((start + number, sample(start + number)) for number in range(SAMPLES[split]))
            for split, start in starts.items()
        }

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        return iter(())


def sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    tags = rng.integers(0, 3, 1 + number % 5)
    image = rng.integers(0, 256, (8, 6, 1), np.uint8)
    return {
        "image": image,
        "segments": (image > 127).astype(np.uint8),
        "size": rng.normal(size=2).astype(np.float32),
        "kind": number % 3,
        "price": np.float32(number % 7),
        "traits": rng.integers(0, 2, 3).astype(bool),
        "words": [str(rng.choice(_WORDS[list(_WORDS)[tag]])) for tag in tags],
        "tags": tags,
    }


def write_table(path: pathlib.Path) -> None:
    """60 rows: numbers, some of them missing, a category, and a price."""
    rng = np.random.default_rng(5)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["area (m²)", "town", "age", "price"])
        for row in range(60):
            area, town, age = rng.uniform(20, 90), ("Bern", "Rom, Lazio", "")[row % 3], rng.integers(0, 99)
            writer.writerow(
                [f"{area:.1f}", town, "" if row % 9 == 0 else age, f"{1000 * area + 5000 * (row % 3) - age:.1f}"]
            )


def write_texts(path: pathlib.Path) -> None:
    """60 lines without a header: ham or spam, and a text."""
    rng = np.random.default_rng(6)
    words = {"ham": ("home", "mother", "late", "you"), "spam": ("win", "cash", "prize", "you")}
    lines = []
    for row in range(60):
        label = ("ham", "spam")[row % 2]
        lines.append(f"{label}\t{' '.join(rng.choice(words[label], 4))}\n")
    path.write_text("".join(lines), encoding="utf-8")


class TaskText(tfds.core.GeneratorBasedBuilder):
    """A text, for a language model."""

    name = "task_text"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Made up."}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        text = "to be or not to be, that is the question:\nwhether it is nobler in the mind to suffer\n"
        return {split: iter([(0, {"text": text * times})]) for split, times in {"train": 12, "test": 3}.items()}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        return iter(())


def prepare(folder: pathlib.Path) -> None:
    """Prepares both builders in a `data_dir`."""
    for builder in (TaskData, TaskText):
        builder(data_dir=str(folder)).download_and_prepare()


def segmenter(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A class for each pixel."""
    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    return keras.Model(image, layers.Conv2D(num_classes, 1)(layers.Dropout(0.1)(x)))


def multi_hot(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A probability for each label."""
    flat = layers.Flatten()
    return keras.Sequential([keras.Input(input_shape), flat, layers.Dense(num_classes, activation="sigmoid")])


@keras.saving.register_keras_serializable("task_data")
class TwoHeads(keras.Model):
    """Two inputs and two outputs, by name, in a subclassed model."""

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.flat, self.drop = layers.Flatten(), layers.Dropout(0.1)
        self.kind, self.price = layers.Dense(classes, name="kind"), layers.Dense(1, name="price")

    def call(self, inputs: Any, training: Any = None) -> Any:
        x = layers.concatenate([self.flat(inputs["image"]), inputs["size"]])
        x = self.drop(x, training=training)
        return {"kind": self.kind(x), "price": self.price(x)}


def two_heads(input_shape: Any, num_classes: Any) -> keras.Model:
    return TwoHeads(num_classes["kind"])
