"""Datasets: a frozen description of the data, and the feeds over it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import array_records, augment, bad_samples
from loopwright.data.decoding import Keys, holds_images, nbytes
from loopwright.data.errors import DataError
from loopwright.data.feed import Epochs, RandomAccessFeed
from loopwright.data.image_folder import ImageFiles
from loopwright.data.memory import MemorySource
from loopwright.data.protocols import Augmentation, Feed, StoredSplit
from loopwright.data.record_files import ARRAY_RECORD
from loopwright.data.scaling import Scaling
from loopwright.data.sequential_feed import sequential_feed
from loopwright.data.splits import RecordSplit, decode_all, good_batches

#: Called as `progress(what, done, total)`: what is being done, how much of it is done, and how much there is in all.
Progress = Callable[[str, int, int], None]

_SAMPLES_IN_FINGERPRINT = 64
#: How far to look for a bad sample before and after a step. Nobody knows how far a failed call had come, or how far the
#: feed had read ahead.
_STEPS_AROUND_AN_ERROR = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """How the feeds of a dataset are made.

    Attributes:
      feed: `memory`, `streaming`, `sequential` or `auto`. `auto` takes `memory` if the samples fit into the budget. If
        not, it takes `streaming` if ArrayRecord files exist or may be written, and `sequential` otherwise.
      memory_budget: bytes that decoded samples may take.
      prepare_array_record: whether an ArrayRecord copy may be written beside TFRecord files.
      max_bad_records: the most bad samples that are left out of each split. More than these are an error.
      progress: called while a split is decoded, copied or searched.
      say: called with a line for the user when a choice has a price.
    """

    feed: str = "auto"
    memory_budget: int = 1 << 30
    prepare_array_record: bool = True
    max_bad_records: int = 0
    progress: Progress | None = None
    say: Callable[[str], None] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset of inputs and class labels, or regression targets.

    Attributes:
      name: the name that `load` was given; `full_name` adds configuration and version.
      features: the features as TFDS describes them.
      split_sizes: the number of samples in each named split.
      train_split, eval_split: the two splits, in TFDS syntax.
      keys: which features are inputs, label and sample weight.
      input_shape: the shape of one sample, without the batch; a dict by name if there are several inputs.
      class_names: the names of the classes; empty if the label is a regression target.
      open_split: gives the stored samples of a split.
      options: how the feeds are made.
    """

    name: str
    full_name: str
    features: tfds.features.FeaturesDict
    split_sizes: Mapping[str, int]
    train_split: str
    eval_split: str
    keys: Keys
    class_names: tuple[str, ...]
    open_split: Callable[[str], StoredSplit]
    options: Options = Options()
    _cache: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes, or 0 for regression."""
        return len(self.class_names)

    @property
    def input_key(self) -> str:
        return ",".join(self.keys.inputs)

    @property
    def label_key(self) -> str:
        return self.keys.label

    @property
    def input_shape(self) -> Any:
        return tf.nest.map_structure(lambda spec: tuple(spec.shape), self.split(self.train_split).specs["x"])

    @property
    def images(self) -> Any:
        """Whether each input is an image, in the structure of `x`. The features of the dataset say it."""
        found = {key: holds_images(self.features[key]) for key in self.keys.inputs}
        return found if len(found) > 1 else next(iter(found.values()))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over name and version, features, and the sizes and first samples of both splits.

        For a folder of images, the list of its files is part of it, too. The fingerprint is the same for every file
        format and every feed.
        """
        digest = hashlib.sha256()
        splits = (self.train_split, self.eval_split)
        facts = [self.full_name, self.features.to_json(), self.class_names, dataclasses.asdict(self.keys)]
        facts += [[split, self.split(split).num_examples] for split in splits]
        facts += [stored.listing for stored in map(self.split, splits) if isinstance(stored, ImageFiles)]
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for split in splits:
            places = self.bad(split)
            stop = min(self.split(split).num_examples, _SAMPLES_IN_FINGERPRINT)
            with self._explained(split, range(stop)):
                for _, batch in good_batches(self.split(split), stop, places):
                    for tensor in tf.nest.flatten(batch):
                        digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def train_feed(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        drop_remainder: bool = False,
        augment: str | Augmentation | None = None,
        scale: str = "auto",
    ) -> Feed:
        """The shuffled, endless feed over the training split.

        `augment` is a text like `flip,crop:4`, or a function. `scale` is the mode of `Scaling`.
        """
        return self.feed(
            self.train_split, batch_size, seed=seed, drop_remainder=drop_remainder, augment=augment, scale=scale
        )

    def eval_feed(self, batch_size: int, *, pad: bool = False, scale: str = "auto") -> Feed:
        """The feed over the evaluation split, in fixed order. Every sample comes once.

        The last batch may be ragged. With `pad` it is filled up to `batch_size` rows, and `mask` says which rows are
        samples.
        """
        size = self.split(self.eval_split).num_examples - len(self.bad(self.eval_split))
        rows = batch_size if pad else min(batch_size, size)
        return self.feed(self.eval_split, rows, shuffle=False, pad=pad, scale=scale)

    def feed(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int = 0,
        augment: str | Augmentation | None = None,
        shuffle: bool = True,
        drop_remainder: bool = False,
        pad: bool = False,
        scale: str = "auto",
    ) -> Feed:
        """A feed over any split. Raises DataError for a batch size out of range, and for too many bad samples."""
        places = tuple(sorted(self.bad(split)))
        size = self.split(split).num_examples - len(places)
        if not 1 <= batch_size <= (batch_size if pad and size else size):
            raise DataError(
                f"batch_size={batch_size} is larger than the split {split!r} of {self.name} ({size} samples); "
                f"choose at most {size}",
                exit_code=2,
            )
        epochs = Epochs(size, batch_size, shuffle=shuffle, drop_remainder=drop_remainder, pad=pad)
        change = parse_augment(augment, seed)
        scaling = Scaling(scale, self.images)
        kind = self.kind(split)
        if kind == "memory":
            return RandomAccessFeed(self._memory(split), epochs, seed, change, places, scaling)
        if kind == "streaming":
            return RandomAccessFeed(self._random_access(split), epochs, seed, change, places, scaling)
        stored = self.split(split)
        return sequential_feed(
            stored,  # type: ignore[arg-type]
            epochs,
            seed=seed,
            augment=change,
            bad=places,
            scaling=scaling,
        )

    def kind(self, split: str) -> str:
        """The feed that the options choose for a split: `memory`, `streaming` or `sequential`."""
        if ("kind", split) not in self._cache:
            self._cache["kind", split] = self._choose(split)
        return self._cache["kind", split]

    def split(self, split: str) -> StoredSplit:
        """A split as it is stored on disk."""
        if ("split", split) not in self._cache:
            self._cache["split", split] = self.open_split(split)
        return self._cache["split", split]

    def bad(self, split: str) -> dict[int, str]:
        """The bad samples of a split, and what is wrong with each. Empty unless `max_bad_records` allows some."""
        if self.options.max_bad_records == 0:
            return {}
        if ("bad", split) not in self._cache:
            found = bad_samples.find_bad(
                self._random_access(split) if self.kind(split) == "streaming" else self.split(split),
                f"{self.name}, split {split!r}",
                limit=self.options.max_bad_records,
                progress=self._progress(f"checking {split}"),
            )
            self._cache["bad", split] = found
            for index, reason in sorted(found.items()):
                self._say(f"{self.name}, split {split!r}: sample {index} is left out: {reason}")
        return self._cache["bad", split]

    def arrays(self, split: str) -> tuple[Any, np.ndarray]:
        """A split as dense arrays in fixed order: x `[N, ...]` as stored (a dict if there are several inputs), and y.

        The places of bad samples that are left out hold zeros. Raises DataError for any other bad sample.
        """
        tensors = tf.nest.map_structure(lambda tensor: tensor.numpy(), self._memory(split).tensors)
        return tensors["x"], tensors["y"]

    def labels(self, split: str) -> np.ndarray:
        """The labels `[N]` of the good samples of a split, in the order of their places. Only labels are decoded."""
        stored, places = self.split(split), self.bad(split)
        if isinstance(stored, RecordSplit):
            only = dataclasses.replace(self.keys, inputs=(self.keys.label,), weight=None)
            stored = RecordSplit(stored.files, dataclasses.replace(stored.decoder, keys=only))
        found = []
        with self._explained(split):
            for place, batch in good_batches(stored, stored.num_examples, places):
                found.append(batch["y"].numpy())
                if self.options.progress:
                    self.options.progress(f"counting {split}", place + len(found[-1]), stored.num_examples)
        return np.concatenate(found)

    def explain(self, feed: Any, step: int) -> DataError | None:
        """The error that explains why reading failed near a step of a feed, or None if no sample there is bad."""
        source = getattr(feed, "source", None)
        if source is not None and not isinstance(source, MemorySource):
            steps = (
                feed.places(tf.constant([s], tf.int64))[0]
                for s in range(max(step - _STEPS_AROUND_AN_ERROR, 0), step + _STEPS_AROUND_AN_ERROR)
            )
            places = [index for places in steps for index in places.numpy().ravel().tolist()]
            found = bad_samples.explain(source, f"{self.name}, split {self.train_split!r}", places)
            if found:
                return found
        try:
            for split in (self.train_split, self.eval_split):
                if self.kind(split) == "sequential" or (split == self.eval_split and self.kind(split) == "streaming"):
                    bad_samples.find_bad(
                        self.split(split), f"{self.name}, split {split!r}", limit=0, known=self.bad(split)
                    )
        except DataError as error:
            return error
        return None

    def _memory(self, split: str) -> MemorySource:
        if ("memory", split) not in self._cache:
            places = self.bad(split)
            with self._explained(split):
                arrays = decode_all(self.split(split), bad=places, progress=self._progress(f"decoding {split}"))
            self._check_classes(split, np.delete(arrays["y"], list(places), axis=0))
            self._cache["memory", split] = MemorySource.of(arrays["x"], arrays["y"], arrays.get("sample_weight"))
        return self._cache["memory", split]

    def _random_access(self, split: str) -> StoredSplit:
        stored = self.split(split)
        if not isinstance(stored, RecordSplit) or stored.files.file_format == ARRAY_RECORD:
            return stored
        if ("array_record", split) not in self._cache:
            files = array_records.copy_to_array_record(
                stored.files,
                skip_damaged=self.options.max_bad_records > 0,
                progress=self._progress(f"copying {split} to ArrayRecord files"),
            )
            self._cache["array_record", split] = RecordSplit(files, stored.decoder)
        return self._cache["array_record", split]

    def _choose(self, split: str) -> str:
        wanted, budget = self.options.feed, self.options.memory_budget
        if wanted == "memory":
            return wanted
        stored = self.split(split)
        if not isinstance(stored, RecordSplit):
            reads_at_random, why_not = True, ""
        else:
            reads_at_random, why_not = self._can_stream(stored)
        if wanted == "sequential":
            return "streaming" if not isinstance(stored, RecordSplit) else wanted
        if wanted == "streaming":
            if not reads_at_random:
                raise DataError(
                    f"feed='streaming' reads ArrayRecord files, but {why_not}; choose feed='memory' or "
                    "feed='sequential'",
                    exit_code=2,
                )
            return wanted
        both = sum(self._decoded_bytes(name) for name in {self.train_split, self.eval_split, split})
        if both <= budget or (split != self.train_split and self._decoded_bytes(split) <= budget / 4):
            return "memory"
        size = (
            f"{split} takes {self._decoded_bytes(split) / 1e9:.1f} GB decoded, over the budget of {budget / 1e9:.1f} GB"
        )
        if reads_at_random:
            self._say(f"{size}: streaming it")
            return "streaming"
        self._say(
            f"{size}, and {why_not}: reading it in sequence (samples mix only within a buffer, and resuming inside an "
            "epoch reads that epoch from its start)"
        )
        return "sequential"

    def _can_stream(self, stored: RecordSplit) -> tuple[bool, str]:
        if not array_records.installed():
            return False, "the package array_record isn't installed (it exists for Linux only)"
        copied = stored.files.file_format == ARRAY_RECORD or stored.files.as_format(ARRAY_RECORD).exist()
        if copied or self.options.prepare_array_record:
            return True, ""
        return False, "there are only TFRecord files, and prepare_array_record=False forbids a copy"

    def _decoded_bytes(self, split: str) -> int:
        stored = self.split(split)
        return stored.num_examples * nbytes(stored.specs)

    def _check_classes(self, split: str, labels: np.ndarray) -> None:
        if self.class_names and split == self.train_split and len(labels) and (labels == labels[0]).all():
            raise DataError(
                f"{self.name}, split {split!r}: all {len(labels)} samples are of one class "
                f"({self.class_names[labels[0]]!r}); train on a split with two or more"
            )

    @contextlib.contextmanager
    def _explained(self, split: str, places: range | None = None) -> Iterator[None]:
        """Turns TensorFlow's error about a bad sample of a split into a DataError that names the sample."""
        try:
            yield
        except tf.errors.OpError as error:
            name = f"{self.name}, split {split!r}"
            if places is None:
                bad_samples.find_bad(self.split(split), name, limit=0, known=self.bad(split))
            found = bad_samples.explain(self.split(split), name, places or ())
            raise (found or error) from error

    def _progress(self, what: str) -> Callable[[int, int], None] | None:
        report = self.options.progress
        return functools.partial(report, what) if report else None

    def _say(self, line: str) -> None:
        if self.options.say:
            self.options.say(line)


def parse_augment(what: str | Augmentation | None, seed: int) -> Augmentation | None:
    """The augmentation that a text describes. One that is already a function, and None, are returned as they are."""
    return augment.parse(what, seed=seed) if isinstance(what, str) else what


def default_memory_budget() -> int:
    """A third of the memory of this machine, or of the container in which it runs, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return math.floor(min(total, int(text) if text.isdigit() else total) / 3)
