"""From a name to a dataset: a frozen description of what TFDS holds, and the feeds over it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import pkgutil
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import prepare
from loopwright.data.errors import DataError
from loopwright.data.feed import RandomAccessFeed, array_feed

#: Datasets of our own, by name. Every other name is a TFDS builder's.
DATASETS = {"mnist_5k": "loopwright.data.mnist_5k:Mnist5k"}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared classification dataset: images or other dense features, and integer labels.

    `train_split` and `eval_split` are in TFDS syntax; `input_shape` is that of one sample, without the batch.
    """

    name: str
    builder: tfds.core.DatasetBuilder
    train_split: str
    eval_split: str
    input_key: str
    label_key: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over what both splits hold: name and version, features, sizes, first samples."""
        digest = hashlib.sha256()
        facts = [self.builder.info.full_name, self.builder.info.features.to_json()]
        for split in (self.train_split, self.eval_split):
            info = self.builder.info.splits[split]
            facts += [split, info.num_examples]
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for split in (self.train_split, self.eval_split):
            for sample in self._in_order(split).take(64):
                digest.update(sample[self.label_key].numpy().tobytes())
                digest.update(sample[self.input_key].numpy().tobytes())
        return digest.hexdigest()[:16]

    def train_feed(self, batch_size: int, *, seed: int = 0, drop_remainder: bool = False) -> RandomAccessFeed:
        """The shuffled, endless feed over the training split."""
        return self._feed(self.train_split, batch_size, seed=seed, shuffle=True, drop_remainder=drop_remainder)

    def eval_feed(self, batch_size: int) -> RandomAccessFeed:
        """The evaluation split in fixed order, every sample once; the last batch may be ragged."""
        size = self.builder.info.splits[self.eval_split].num_examples
        return self._feed(self.eval_split, min(batch_size, size), shuffle=False)

    def _feed(self, split: str, batch_size: int, **options: Any) -> RandomAccessFeed:
        size = self.builder.info.splits[split].num_examples
        if batch_size > size:
            raise DataError(
                f"--batch_size={batch_size} is larger than the split {split!r} of {self.name} ({size} samples); "
                f"choose at most {size}",
                exit_code=2,
            )
        x, y = self.arrays(split)
        return array_feed(x, y, batch_size, **options)

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """A split decoded into dense arrays: x `[N, ...]` of the builder's dtype and y `[N]` int64, in fixed order.

        Raises DataError for labels outside the classes.
        """
        size = self.builder.info.splits[split].num_examples
        x = np.empty((size, *self.input_shape), self.builder.info.features[self.input_key].np_dtype)
        y = np.empty((size,), np.int64)
        start = 0
        for batch in self._in_order(split).batch(512).prefetch(2):
            stop = start + len(batch[self.label_key])
            x[start:stop], y[start:stop] = batch[self.input_key].numpy(), batch[self.label_key].numpy()
            start = stop
        wrong = np.flatnonzero((y < 0) | (y >= self.num_classes))
        if len(wrong):
            raise DataError(
                f"{self.name}, split {split!r}: sample {wrong[0]} has label {y[wrong[0]]}, outside the "
                f"{self.num_classes} classes (0 to {self.num_classes - 1}); {len(wrong)} such samples in all"
            )
        return x, y

    def _in_order(self, split: str) -> tf.data.Dataset:
        """Decoded samples, shard by shard in the order of the files."""
        return self.builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            decoders=tfds.decode.PartialDecoding({self.input_key: True, self.label_key: True}),
        )


def load(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    download: bool = True,
    train_split: str = "train",
    eval_split: str | None = None,
) -> Dataset:
    """Finds, prepares and describes a dataset.

    Args:
      name: a key of `DATASETS`, or a TFDS builder as `name`, `name/config` or `name/config:version`.
      data_dir: folder of prepared datasets; TFDS's own by default.
      manual_dir: folder with the builder's source files, for preparing without a network.
      download: whether TFDS may download.
      train_split, eval_split: TFDS split syntax; `eval_split` is `test` by default, or else `validation`.

    Raises:
      DataError: an unknown name or split, a dataset that is no classification, that can't be prepared, or is empty.
    """
    builder = _builder(name, data_dir)
    prepare.ensure_prepared(builder, manual_dir=manual_dir, download=download)
    info = builder.info
    splits = list(info.splits)
    if eval_split is None:
        eval_split = next((split for split in ("test", "validation") if split in splits), None)
        if eval_split is None:
            raise DataError(
                f"{name} has no test or validation split (it has {', '.join(splits)}); name one with --eval_split, "
                "such as --train_split='train[:90%]' --eval_split='train[90%:]'",
                exit_code=2,
            )
    for flag, split in (("--train_split", train_split), ("--eval_split", eval_split)):
        _check_split(name, info, flag, split)
    input_key, label_key = _keys(name, info)
    shape = info.features[input_key].shape
    if None in shape:
        raise DataError(f"{name}: samples have no fixed shape ({input_key} is {shape}); choose a dataset with one size")
    return Dataset(
        name=name,
        builder=builder,
        train_split=train_split,
        eval_split=eval_split,
        input_key=input_key,
        label_key=label_key,
        input_shape=tuple(shape),
        class_names=tuple(info.features[label_key].names),
    )


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    if name in DATASETS:
        return pkgutil.resolve_name(DATASETS[name])(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*DATASETS, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise DataError(
            f"--dataset={name}: no such dataset; {hint}'loopwright datasets' lists them", exit_code=2
        ) from None
    except (ValueError, AssertionError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"--dataset={name}: {first_line}", exit_code=2) from None


def _check_split(name: str, info: tfds.core.DatasetInfo, flag: str, split: str) -> None:
    try:
        size = info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        raise DataError(
            f"{flag}={split}: no such split of {name}; it has {', '.join(info.splits)}, and slices such as train[:90%]",
            exit_code=2,
        ) from None
    if size == 0:
        raise DataError(f"{flag}={split}: this split of {name} is empty", exit_code=2)


def _keys(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """The feature names of the input and of the label."""
    keys = info.supervised_keys
    if not keys or not all(isinstance(key, str) for key in keys):
        keys = ("image", "label")
    if any(key not in info.features for key in keys) or not isinstance(
        info.features[keys[1]], tfds.features.ClassLabel
    ):
        raise DataError(
            f"{name} is no classification dataset of one input and one class label (its features are "
            f"{', '.join(info.features)})",
            exit_code=2,
        )
    return keys[0], keys[1]
