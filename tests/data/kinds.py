"""A TFDS builder with a feature of every kind, for tests of targets and preprocessing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

SAMPLES = {"train": 60, "test": 17}
CITIES = ("Bern", "Rom", "Wien")
_WORDS = ("red", "green", "Blue!", "sky", "sea", "sun", "a", "the")


class EveryKind(tfds.core.GeneratorBasedBuilder):
    """Samples that are a function of their number."""

    name = "every_kind"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Made up."}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = tfds.features
        features = kinds.FeaturesDict(
            {
                "image": kinds.Image(shape=(6, 5, 1), dtype=np.uint8),
                "segments": kinds.LabeledImage(labels=["earth", "sky", "sea"], shape=(6, 5, 1)),
                "label": kinds.ClassLabel(names=["low", "high"]),
                "truth": kinds.Scalar(np.bool_),
                "number": kinds.Scalar(np.float32),
                "whole": kinds.Scalar(np.int64),
                "numbers": kinds.Tensor(shape=(2,), dtype=np.float32),
                "counts": kinds.Tensor(shape=(2,), dtype=np.int64),
                "bits": kinds.Tensor(shape=(3,), dtype=np.bool_),
                "zeros_and_ones": kinds.Tensor(shape=(3,), dtype=np.int64),
                "labels": kinds.Sequence(kinds.ClassLabel(names=["p", "q", "r", "s"])),
                "tags": kinds.Sequence(kinds.ClassLabel(names=["noun", "verb"])),
                "three_tags": kinds.Sequence(kinds.ClassLabel(names=["noun", "verb"]), length=3),
                "text": kinds.Text(),
                "words": kinds.Sequence(kinds.Text()),
                "signal": kinds.Sequence(np.float32),
                "vectors": kinds.Sequence(kinds.Tensor(shape=(2,), dtype=np.float32)),
                "age": kinds.Scalar(np.float32),
                "city": kinds.Text(),
                "boxes": kinds.Sequence(kinds.BBoxFeature()),
                "sound": kinds.Audio(),
                "film": kinds.Video(shape=(None, 4, 4, 1)),
                "translation": kinds.Translation(("en", "de")),
                "parts": kinds.Sequence({"a": np.int64}),
                "weight": kinds.Scalar(np.float32),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {split: ((number, sample(number)) for number in range(count)) for split, count in SAMPLES.items()}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        return iter(())


def sample(number: int) -> dict[str, Any]:
    """The sample of a number. Every eighth age is missing."""
    rng = np.random.default_rng(number)
    length = 1 + number % 6
    words = [str(word) for word in rng.choice(_WORDS, length)]
    return {
        "image": rng.integers(0, 256, (6, 5, 1), np.uint8),
        "segments": rng.integers(0, 3, (6, 5, 1), np.uint8),
        "label": number % 2,
        "truth": bool(number % 3),
        "number": number / 2,
        "whole": number,
        "numbers": np.array([number, -number], np.float32),
        "counts": np.array([number, 1], np.int64),
        "bits": rng.integers(0, 2, 3).astype(bool),
        "zeros_and_ones": rng.integers(0, 2, 3),
        "labels": rng.choice(4, number % 4, replace=False),
        "tags": rng.integers(0, 2, length),
        "three_tags": rng.integers(0, 2, 3),
        "text": " ".join(words),
        "words": words,
        "signal": rng.normal(size=length).astype(np.float32),
        "vectors": rng.normal(size=(length, 2)).astype(np.float32),
        "age": np.float32(np.nan if number % 8 == 0 else 20 + number),
        "city": CITIES[number % len(CITIES)] if number % 10 else "",
        "boxes": [],
        "sound": np.zeros(length, np.int64),
        "film": np.zeros((1, 4, 4, 1), np.uint8),
        "translation": {"en": "a", "de": "b"},
        "parts": [{"a": 1}],
        "weight": np.float32(1 + number % 3),
    }
