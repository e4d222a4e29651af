"""Datasets: a frozen description of the data, and the feeds over it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import array_records, augment, bad_samples
from loopwright.data.decoding import Keys, holds_images
from loopwright.data.errors import DataError
from loopwright.data.feed import Epochs, RandomAccessFeed
from loopwright.data.feed_kind import choose_kind
from loopwright.data.image_folder import ImageFiles
from loopwright.data.memory import MemorySource
from loopwright.data.options import Options as Options  # where users of a dataset look for them
from loopwright.data.options import default_memory_budget as default_memory_budget
from loopwright.data.preprocessing import Preprocessing
from loopwright.data.protocols import Augmentation, Feed, StoredSplit
from loopwright.data.record_files import ARRAY_RECORD
from loopwright.data.scaling import Scaling
from loopwright.data.sequential_feed import sequential_feed
from loopwright.data.splits import RecordSplit, decode_all, good_batches, rows_of
from loopwright.data.target import CLASS, NUMBER, OF_CLASSES, TOKENS, Target, is_padded

_SAMPLES_IN_FINGERPRINT = 64
#: How far to look for a bad sample before and after a step. Nobody knows how far a failed call had come, or how far the
#: feed had read ahead.
_STEPS_AROUND_AN_ERROR = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset of inputs and of targets: classes, labels, numbers or tokens.

    Attributes:
      name: the name that `load` was given; `full_name` adds configuration and version.
      features: the features as TFDS describes them.
      split_sizes: the number of samples in each named split.
      train_split, eval_split: the two splits, in TFDS syntax.
      keys: which features are inputs, label and sample weight.
      input_shape: the shape of one sample, without the batch; a dict by name if there are several inputs.
      targets: what a model learns to give, by the name of the label; for a language model, by that of the text.
      preprocessing: what was done with texts or tables to get the inputs, or None.
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
    targets: Mapping[str, Target]
    open_split: Callable[[str], StoredSplit]
    options: Options = dataclasses.field(default_factory=Options)
    preprocessing: Preprocessing | None = None
    _cache: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def target(self) -> Target | None:
        """The target, if there is a single one."""
        return next(iter(self.targets.values())) if len(self.targets) == 1 else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; empty unless the target is a class, for a sample or for each of its positions."""
        of_classes = self.target is not None and self.target.kind in OF_CLASSES and self.target.kind != TOKENS
        return self.target.names if of_classes and self.target else ()

    @property
    def num_classes(self) -> int:
        """The number of classes, or 0 where the target isn't a class."""
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
    def input_kind(self) -> str:
        """What the inputs are: `images`, `tokens`, `table` (a vector out of columns), `numbers`, or `several` inputs."""
        if self.preprocessing is not None:
            return self.preprocessing.kind
        if isinstance(self.images, dict):
            return "several"
        return "images" if self.images else "numbers"

    @functools.cached_property
    def model_facts(self) -> dict[str, Any]:
        """What a model may want to know beside shapes, from the training split.

        `vocabulary_size` and `sequence_length` of tokens; `target_mean` and `target_std` of a number (the deviation is 1
        where all numbers are equal).
        """
        facts = {} if self.preprocessing is None else dict(self.preprocessing.facts)
        if self.target is not None and self.target.kind == NUMBER:
            if self.kind(self.train_split) == "memory":
                self._memory(self.train_split)  # Training needs it anyway, and it holds the labels.
            values = self.labels(self.train_split).astype(np.float64)
            facts |= {"target_mean": float(values.mean()), "target_std": float(values.std()) or 1.0}
        return facts

    @property
    def images(self) -> Any:
        """Whether each input is an image, in the structure of `x`. The features of the dataset say it."""
        if self.preprocessing is not None:
            return False
        found = {key: holds_images(self.features[key]) for key in self.keys.inputs}
        return found if len(found) > 1 else next(iter(found.values()))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over name and version, features, and the sizes and first samples of both splits.

        For a folder of images, the list of its files is part of it, too; for texts and tables, it is what was learned for
        their preprocessing. The fingerprint is the same for every file format and every feed.
        """
        digest = hashlib.sha256()
        splits = (self.train_split, self.eval_split)
        facts = [self.full_name, self.features.to_json(), self.class_names, dataclasses.asdict(self.keys)]
        facts += [[split, self.split(split).num_examples] for split in splits]
        facts += [stored.listing for stored in map(self.split, splits) if isinstance(stored, ImageFiles)]
        facts += [] if self.preprocessing is None else [self.preprocessing.state()]
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
        if not size:
            raise DataError(
                f"the split {split!r} of {self.name} holds no good sample ({len(places)} are left out); repair the data, or "
                "choose another split"
            )
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} is too small; choose at least 1", exit_code=2)
        if batch_size > size and not pad:
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
            self._cache["kind", split] = choose_kind(
                split, (self.train_split, self.eval_split), self.split, self.options
            )
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
            self.know_bad({split: found})
            for index, reason in sorted(found.items()):
                self._say(f"{self.name}, split {split!r}: sample {index} is left out: {reason}")
        return self._cache["bad", split]

    def know_bad(self, found: Mapping[str, dict[int, str]]) -> None:
        """Takes note of the bad samples of splits that have been searched already."""
        self._cache.update({("bad", split): bad for split, bad in found.items()})

    def arrays(self, split: str) -> tuple[Any, Any]:
        """A split as dense arrays in fixed order: x `[N, ...]` as stored and y. Several of them are dicts.

        The places of bad samples that are left out hold zeros. Raises DataError for any other bad sample.
        """
        tensors = tf.nest.map_structure(lambda tensor: tensor.numpy(), self._memory(split).tensors)
        return tensors["x"], tensors["y"]

    def labels(self, split: str) -> Any:
        """The labels `[N, ...]` of the good samples of a split, in the order of their places; a dict if there are several.

        Only labels are decoded, unless the samples are in memory already.
        """
        stored, places = self.split(split), self.bad(split)
        if ("memory", split) in self._cache:
            y = self._memory(split).tensors["y"]
            return tf.nest.map_structure(lambda part: np.delete(part.numpy(), list(places), axis=0), y)
        if isinstance(stored, RecordSplit):
            stored = RecordSplit(stored.files, stored.decoder.only_labels())
        found = []
        with self._explained(split):
            for place, batch in good_batches(stored, stored.num_examples, places):
                found.append(tf.nest.map_structure(lambda part: part.numpy(), batch["y"]))
                if self.options.progress:
                    self.options.progress(f"counting {split}", place + rows_of(batch), stored.num_examples)
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *found)

    def class_counts(self, split: str) -> list[int]:
        """How often each class comes among the labels of the good samples. Positions of padding aren't counted."""
        stored = self.split(split)
        if isinstance(stored, RecordSplit):
            stored = RecordSplit(stored.files, stored.decoder.only_labels())
        counts = np.zeros(self.num_classes, np.int64)
        with self._explained(split):
            for _, batch in good_batches(stored, stored.num_examples, self.bad(split)):
                y = batch["y"].numpy()
                y = y[batch["sample_weight"].numpy() > 0] if self._pads_labels else y
                counts += np.bincount(y.ravel(), minlength=len(counts))
        return counts.tolist()

    @property
    def _pads_labels(self) -> bool:
        """Whether labels are padded to one length. Weights `[B, T]` then say which positions are real."""
        return self.target is not None and is_padded(self.features[self.keys.label], self.target)

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
            if self.target is not None and self.target.kind == CLASS:
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

    def _check_classes(self, split: str, labels: np.ndarray) -> None:
        if split == self.train_split and len(labels) and (labels == labels[0]).all():
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
