"""Datasets from files: each file or folder becomes a TFDS builder, which is prepared once for each content."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import os
import pathlib
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import writer as tfds_writer

from loopwright.data import file_names
from loopwright.data.errors import DataError, first_line
from loopwright.data.file_names import CSV, NPZ, TEXT, builder_name, split_name
from loopwright.data.options import Options, Progress
from loopwright.data.paths import local_path

#: Names of splits that files and folders may have, and the name that each gets.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
}

#: The split of files that aren't divided yet. One sample of five becomes `test`, the others `train`.
UNDIVIDED = ""
_TEST_PART = 5

#: What tasks say about whole numbers in a label.
_TASKS = {
    "numbers": ("regression",),
    "classes": ("classification", "binary", "multi_label"),
    "none": ("language_model",),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a user says about files.

    Attributes:
      columns: names for the columns of a table.
      inputs: names of features, or empty for all but the labels. Only `npz:` uses them, to find its arrays.
      labels: names of features, or empty for the one that is called so.
      task: `numbers` or `classes` if the task says what whole numbers in a label are, `none` if it needs no label, and
        otherwise `auto`.
      max_bad_records: the most rows or files that are left out.
    """

    columns: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    task: str = "auto"
    max_bad_records: int = 0


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, and its name within the dataset. The name is part of the content: the class of a text is in it."""

    path: pathlib.Path
    name: str = ""


#: The files of each split.
Files = Mapping[str, Sequence[SourceFile]]


class Source(Protocol):
    """Files that were looked through.

    Attributes:
      features, supervised_keys: what TFDS is told.
      sizes: the number of samples in each split.
      remarks: lines for the user: the types that were inferred, and what is left out.
      left_out: what is wrong with each row or file that is left out.
    """

    @property
    def features(self) -> tfds.features.FeaturesDict: ...
    @property
    def supervised_keys(self) -> Any: ...
    @property
    def sizes(self) -> dict[str, int]: ...
    @property
    def remarks(self) -> list[str]: ...
    @property
    def left_out(self) -> list[str]: ...

    def records(self, split: str) -> Iterator[tuple[int, bytes]]:
        """For each sample a key, which no other one of the split has, and its record."""
        ...


#: For each kind a module with `find(dataset, path) -> Files` and `survey(dataset, files, wanted) -> Source`.
_MODULES = {
    CSV: "loopwright.data.table_files",
    NPZ: "loopwright.data.npz_files",
    TEXT: "loopwright.data.text_folder",
}


def open_files(
    dataset: str,
    data_dir: str | None,
    *,
    columns: str | None = None,
    input_key: str | None = None,
    label_key: str | None = None,
    task: str = "auto",
    options: Options = Options(),  # noqa: B008
) -> tfds.core.DatasetBuilder:
    """The builder of `csv:PATH`, `npz:PATH` or `text:FOLDER`. It isn't prepared yet, unless it was before.

    The builder's name holds a hash of the content, so a file that changes is another dataset. Files that are prepared
    already are only hashed. `columns`, `input_key` and `label_key` hold names, separated by commas.

    Raises DataError (exit 2) for files that don't exist or can't be understood. The error names the line or the file.
    """
    kind, path = split_name(dataset)
    module = pkgutil.resolve_name(_MODULES[kind])
    files = module.find(dataset, local_path("dataset", path))
    meant = next((meant for meant, tasks in _TASKS.items() if task in tasks), "auto")
    wanted = Wanted(
        _names(columns), _names(input_key) if kind == NPZ else (), _names(label_key), meant, options.max_bad_records
    )
    if columns is not None and kind != CSV and options.say:
        options.say(f"{dataset} doesn't use columns")
    stamps = _stamps(dataset, files)
    digest = _content(dataset, files, wanted)
    name = builder_name(dataset, digest)
    source: Source
    try:
        source = _Prepared.of(tfds.builder(f"{name}:{file_names.VERSION}", data_dir=data_dir, try_gcs=False), digest)
    except tfds.core.DatasetNotFoundError:
        source = module.survey(dataset, files, wanted)
    refuse_bad(dataset, source.left_out, options.max_bad_records)
    for line in [*source.remarks, *(f"left out: {reason}" for reason in source.left_out)] if options.say else ():
        options.say(f"{dataset}: {line}")  # type: ignore[misc]
    return FileBuilder(name, source, digest, lambda: _stamps(dataset, files) == stamps, data_dir, options.progress)


@dataclasses.dataclass(frozen=True, eq=False)
class _Prepared:
    """What is known of files that are prepared already (a `Source` without records)."""

    features: tfds.features.FeaturesDict
    supervised_keys: Any
    sizes: dict[str, int]
    remarks: list[str]
    left_out: list[str]

    @classmethod
    def of(cls, builder: tfds.core.DatasetBuilder, content: str) -> _Prepared:
        info, facts = builder.info, builder.info.metadata
        if facts["content"] != content:
            raise DataError(f"{builder.data_path} holds the data of other files; remove it, or choose another data_dir")
        features = tfds.features.FeaturesDict(dict(sorted(info.features.items())))  # TFDS reads them in any order.
        sizes = {split: found.num_examples for split, found in info.splits.items()}
        return cls(features, info.supervised_keys, sizes, facts["remarks"], facts["left_out"])

    def records(self, split: str) -> Iterator[tuple[int, bytes]]:
        """TFDS never asks for them, because they are prepared."""
        return iter(())


class FileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS builder of files. It writes the records of a `Source`.

    TFDS puts the samples of a split into the order of a hash of their keys. The order depends neither on the machine nor
    on the number of processes.
    """

    VERSION = tfds.core.Version(file_names.VERSION)
    # TFDS would look for these two below the top package, but a namespace package doesn't lie in one place.
    pkg_dir_path = epath.Path(__file__).parent
    code_path = epath.Path(__file__)
    RELEASE_NOTES = {file_names.VERSION: "Made from files."}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        source: Source,
        content: str,
        unchanged: Callable[[], bool],
        data_dir: str | None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._content = content
        self._unchanged = unchanged
        self._progress = progress
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        facts = {"content": self._content, "remarks": self._source.remarks, "left_out": self._source.left_out}
        return tfds.core.DatasetInfo(
            builder=self,
            description=" ".join(self._source.remarks),
            features=self._source.features,
            supervised_keys=self._source.supervised_keys,
            metadata=tfds.core.MetadataDict(facts),
        )

    def download_and_prepare(self, **options: Any) -> None:
        """Writes the record files. Raises DataError for a folder that can't be written, and for files that change."""
        try:
            super().download_and_prepare(**options)
        except OSError as error:
            if self.data_path.exists():  # Another process was faster.
                raise
            raise DataError(
                f"{self.name} can't be written to {self.data_dir}: {first_line(error)}; choose another data_dir"
            ) from error

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._source.records(split) for split in self._source.sizes}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        """TFDS never calls this, because `_split_generators` gives the generators."""
        return iter(())

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """As TFDS does it, but the generators give records already."""
        shards = download_config.get_shard_config()
        changed = DataError(f"{self.name}: the files changed while they were read; run this again")
        try:
            generators = self._split_generators(dl_manager)
            found = [self._write(split, records, shards) for split, records in generators.items()]
        except Exception as error:
            if self._unchanged():
                raise
            raise changed from error
        if not self._unchanged():
            raise changed
        return found

    def _write(self, split: str, records: Iterator[tuple[int, bytes]], shards: Any) -> tfds.core.SplitInfo:
        template = self._get_filename_template(split_name=split)
        writer = tfds_writer.Writer(
            serializer=_Records(),
            filename_template=template,
            hash_salt=split,
            disable_shuffling=False,
            example_writer=self._example_writer(),
            shard_config=shards,
        )
        for done, (key, record) in enumerate(records, start=1):
            writer.write(key, record)
            if self._progress and done % 1000 == 0:
                self._progress(f"preparing {split}", done, self._source.sizes[split])
        lengths, size = writer.finalize()
        return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)


class _Records:
    """The serializer of samples that are records already."""

    example_specs = None

    def serialize_example(self, example: bytes) -> bytes:
        return example


def held_out(count: int) -> np.ndarray:
    """Which of `count` samples are for testing: bool `[count]`, true for one of five (and at least one).

    Samples are chosen by a hash of their number (the finaliser of SplitMix64), so this is a function of the count alone.
    """
    number = np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    chosen = np.zeros(count, bool)
    chosen[np.argsort(bits)[: max(1, round(count / _TEST_PART))]] = True
    return chosen


def divide(dataset: str, count: int, labels: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Which of `count` samples are for testing, bool `[count]`.

    This is `held_out`, except that training gets each class that it would miss otherwise. `labels` are the classes, int
    `[count]` for each label. Raises DataError (exit 2) if no sample is left to train or to test.
    """
    test = held_out(count)
    for classes in labels:
        test &= np.isin(classes, classes[~test])
    if not test.any() or test.all():
        raise DataError(
            f"dataset={dataset!r}: {count} samples are too few: training needs one of each class, and testing one more",
            exit_code=2,
        )
    return test


def refuse_unseen(
    dataset: str, split: str, label: str, names: Sequence[str], train: np.ndarray, other: np.ndarray
) -> None:
    """Raises DataError if a split holds a class that the training split doesn't. Both are int `[N]`."""
    unseen = np.setdiff1d(other, train)
    if len(unseen):
        count = int((other == unseen[0]).sum())
        raise DataError(
            f"{dataset}: the class {names[unseen[0]]!r} of {label!r} is in the split {split!r} ({count} samples), but not "
            "in 'train'; training would never see it: move some of its samples, or leave them out",
            exit_code=2,
        )


def refuse_bad(dataset: str, left_out: Collection[str], limit: int) -> None:
    """Raises DataError if more rows or files are bad than may be left out."""
    if len(left_out) > limit:
        raise DataError(
            f"{dataset}: {list(left_out)[limit]}; repair it, or leave out up to N of them with max_bad_records=N",
            exit_code=2,
        )


def no_such(dataset: str, path: pathlib.Path, what: str) -> DataError:
    """The error for a path that doesn't exist. It suggests the most similar name in the folder."""
    siblings: list[str] = []
    with contextlib.suppress(OSError):  # Without a folder that can be read there is nothing to suggest.
        siblings = os.listdir(path.parent)  # noqa: PTH208
    return DataError(f"dataset={dataset!r}: no such {what}{nearest(path.name, siblings)}", exit_code=2)


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean 'label'?`, or nothing if no known name is similar."""
    close = difflib.get_close_matches(name, [*known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _stamps(dataset: str, files: Files) -> list[tuple[int, int]]:
    """Size and time of change of each file."""
    stats = [_readable(dataset, file.path, file.path.stat) for chosen in files.values() for file in chosen]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _content(dataset: str, files: Files, wanted: Wanted) -> str:
    """A SHA-256 of the content of files, and of what a user says about them. Where they lie doesn't matter."""

    said = [wanted.columns, wanted.inputs, wanted.labels, wanted.task]
    found = [
        (split, file.name, _readable(dataset, file.path, functools.partial(_digest, file.path)))
        for split, chosen in files.items()
        for file in chosen
    ]
    return hashlib.sha256(json.dumps([split_name(dataset)[0], file_names.VERSION, said, found]).encode()).hexdigest()


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _readable(dataset: str, path: pathlib.Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        raise DataError(f"dataset={dataset!r}: {path} can't be read ({error.strerror})", exit_code=2) from None
