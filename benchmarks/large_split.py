"""Trains on a split that is larger than its memory budget: how much memory training takes, and how fast the feed is.

Writes a TFDS dataset of 256x256 JPEG images (3 GB by default) into a folder. Run it again to train a small model on the
dataset with a memory budget of 1 GB. The second run also compares the streaming feed with TFDS alone:
`as_dataset().shuffle().batch()`.

    python benchmarks/large_split.py --data_dir=/tmp/large --gigabytes=3
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from loopwright import data, trainer
from loopwright.data.feed import Feed

SIDE, CLASSES, POOL = 256, 10, 512


class GeneratedJpegs(tfds.core.GeneratorBasedBuilder):
    """Smooth random pictures with noise, as many as fill `gigabytes`."""

    name = "generated_jpegs"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Generated."}  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent
    gigabytes = 3.0

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg")
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=CLASSES)})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        return {"train": self._examples(int(self.gigabytes * 1e9)), "test": self._examples(10_000_000)}

    def _examples(self, size: int) -> Iterator[tuple[int, Any]]:
        rng = np.random.default_rng(0)
        pool = []
        for _ in range(POOL):
            smooth = tf.image.resize(rng.uniform(0, 255, (8, 8, 3)), [SIDE, SIDE], "bicubic")
            noisy = np.clip(smooth + rng.normal(0, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            pool.append(tf.io.encode_jpeg(noisy, quality=95).numpy())
        written = number = 0
        while written < size:
            jpeg = pool[number % POOL]
            yield number, {"image": io.BytesIO(jpeg), "label": number % CLASSES}
            written, number = written + len(jpeg), number + 1

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        return iter(())


def rate(stream: tf.data.Dataset, batches: int, warm_up: int = 10) -> float:
    """Images a second."""
    iterator = iter(stream)
    for _ in range(warm_up):
        next(iterator)
    start, images = time.perf_counter(), 0
    for _ in range(batches):
        images += len(next(iterator)["index" if "index" in iterator.element_spec else "label"])
    return images / (time.perf_counter() - start)


def train(dataset: data.Dataset, feed: Feed, steps: int) -> None:
    """A few hundred steps of a small convolutional model."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, strides=4, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input(dataset.input_shape), *layers, keras.layers.Dense(CLASSES)])
    state = trainer.TrainState.create(model, keras.optimizers.Adam())
    step = trainer.gradient_step(trainer.classification(from_logits=True))
    trainer.train(state, feed, step, num_steps=steps, execution=trainer.graph())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--budget_gb", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--train_steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=120)
    arguments = parser.parse_args()
    pathlib.Path(arguments.data_dir).mkdir(parents=True, exist_ok=True)
    GeneratedJpegs.gigabytes = arguments.gigabytes
    tfds.disable_progress_bar()
    builder = tfds.builder("generated_jpegs", data_dir=arguments.data_dir)
    if not builder.is_prepared():
        builder.download_and_prepare()
        print("prepared: run this again, so that preparing doesn't count as memory of training")
        return

    budget = int(arguments.budget_gb * 1e9)
    dataset = data.load("generated_jpegs", data_dir=arguments.data_dir, memory_budget=budget, say=print)
    copying = time.perf_counter()
    feed = dataset.train_feed(arguments.batch_size)
    copying = time.perf_counter() - copying
    train(dataset, feed, arguments.train_steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    ours, theirs = [], []
    for repeat in range(arguments.repeats):
        plain = builder.as_dataset(split="train", shuffle_files=True).shuffle(1000).batch(arguments.batch_size)
        ours.append(rate(feed(repeat * 100), arguments.batches))
        theirs.append(rate(plain.prefetch(tf.data.AUTOTUNE), arguments.batches))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    files = pathlib.Path(builder.data_dir).glob("*train.tfrecord*")
    result = {
        "gigabytes": round(sum(path.stat().st_size for path in files) / 1e9, 2),
        "samples": builder.info.splits["train"].num_examples,
        "feed": dataset.kind("train"),
        "seconds_to_copy": round(copying, 1),
        "trained_steps": arguments.train_steps,
        "peak_resident_gb": round(peak / 1e9, 2),
        "allowed_gb": arguments.budget_gb + 1,
        "images_per_second": round(statistics.median(ours)),
        "images_per_second_tfds": round(statistics.median(theirs)),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
