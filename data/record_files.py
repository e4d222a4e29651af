"""The record files of a split as TFDS lays them out: which files, in which order, and how to read records from them.

The `index` of a sample is its place in its split: the number of records before it, in the order of the files. It is the
same in TFRecord and in ArrayRecord files, because a copy in the other format keeps the files and their order.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import os
import pathlib
import struct
import threading
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.autograph import no_autograph
from loopwright.data.crc import masked_crc32c
from loopwright.data.errors import DataError, short_reason

TFRECORD = "tfrecord"
ARRAY_RECORD = "array_record"

_OPEN_READERS = 256
_RECORDS_A_READ = 256


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """The part of a file that belongs to a split: `take` records after the first `skip`, out of `size`."""

    path: str
    skip: int
    take: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class RecordFiles:
    """The files of a split, all in the same format (`tfrecord` or `array_record`)."""

    files: tuple[RecordFile, ...]
    file_format: str

    @classmethod
    def of(cls, builder: tfds.core.DatasetBuilder, split: str) -> RecordFiles:
        """The files of a split in TFDS syntax. Raises DataError for any other format, and if a file is missing."""
        file_format = builder.info.file_format.value
        if file_format not in (TFRECORD, ARRAY_RECORD):
            raise DataError(
                f"{builder.info.full_name} is prepared as {file_format}; prepare it as {TFRECORD} or {ARRAY_RECORD}"
            )
        parts = builder.info.splits[split].file_instructions
        files = tuple(
            RecordFile(os.fspath(part.filename), int(part.skip), int(part.take), int(part.examples_in_shard))
            for part in parts
            if part.take
        )
        missing = next((file.path for file in files if not pathlib.Path(file.path).is_file()), None)
        if missing:
            raise DataError(
                f"{builder.info.full_name}, split {split!r}: the file {missing} is missing; prepare it again"
            )
        return cls(files, file_format)

    def as_format(self, file_format: str) -> RecordFiles:
        """The same files in another format. They need not exist."""
        adapters = tfds.core.file_adapters
        wanted = adapters.FileFormat.from_value(file_format)
        files = [
            dataclasses.replace(file, path=os.fspath(adapters.convert_path_to_file_format(file.path, wanted)))
            for file in self.files
        ]
        return RecordFiles(tuple(files), file_format)

    def exist(self) -> bool:
        return all(pathlib.Path(file.path).is_file() for file in self.files)

    @functools.cached_property
    def starts(self) -> list[int]:
        """The index of each file's first record, followed by the number of all records."""
        return [0, *np.cumsum([file.take for file in self.files]).tolist()]

    @property
    def num_examples(self) -> int:
        return self.starts[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """The number of the file that holds the record `index`, and the record's place in that file."""
        number = bisect.bisect_right(self.starts, index) - 1
        return number, self.files[number].skip + index - self.starts[number]

    def describe(self, index: int) -> str:
        """Where a record is, in words such as "record 17 of /…/fashion_mnist-train.tfrecord-00000-of-00001"."""
        number, position = self.locate(index)
        return f"record {position} of {self.files[number].path}"

    @functools.cached_property
    def readers(self) -> Readers:
        return Readers(self.file_format)

    def read(self, index: np.ndarray, *, verify: bool = False) -> list[bytes]:
        """The records at the given places, in that order. Several threads may call this at the same time.

        ArrayRecord always verifies its records. For TFRecord files, `verify` says whether checksums are verified.
        Raises DataError for a record that is damaged or cut off; the error names file and place.
        """
        by_file: dict[int, list[int]] = collections.defaultdict(list)
        rows: dict[int, list[int]] = collections.defaultdict(list)
        for row, place in enumerate(index.tolist()):
            number, position = self.locate(place)
            by_file[number].append(position)
            rows[number].append(row)
        records = [b""] * len(index)
        for number, positions in by_file.items():
            found = self.readers.read(self.files[number].path, positions, verify)
            for row, record in zip(rows[number], found, strict=True):
                records[row] = record
        return records

    def read_tensor(self, index: tf.Tensor, *, verify: bool = False) -> tf.Tensor:
        """`read` as an op: from places `[B]` int64 to records `[B]` string."""
        records = tf.numpy_function(
            lambda places: np.array(self.read(places, verify=verify), dtype=object), [index], tf.string, stateful=False
        )
        return tf.ensure_shape(records, index.shape)

    def in_order(self, start: int = 0, stop: int | None = None, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The records at places `start` to `stop - 1`, as strings.

        TensorFlow reads a TFRecord file only up to its first damaged record. A file that holds records in `bad` is
        therefore read by place, and its records are verified here.
        """
        stop = self.num_examples if stop is None else stop
        parts = []
        for first, file in zip(self.starts, self.files, strict=False):
            low, high = max(start, first), min(stop, first + file.take)
            if low >= high:
                continue
            if any(first <= place < high for place in bad):
                parts.append(self._by_place(low, high))
            else:
                parts.append(self.of_file(file.path, file.skip + low - first, high - low))
        if not parts:
            return tf.data.Dataset.from_tensor_slices(tf.constant([], tf.string))
        return functools.reduce(lambda left, right: left.concatenate(right), parts)

    def of_file(self, path: Any, skip: Any, take: Any) -> tf.data.Dataset:
        """`take` records of a file after its first `skip` records, in sequence. `path` may be a string tensor."""
        if self.file_format == TFRECORD:
            return tf.data.TFRecordDataset(path).skip(skip).take(take)

        def read(first: tf.Tensor) -> tf.Tensor:
            positions = tf.range(first, tf.minimum(first + _RECORDS_A_READ, skip + take))
            return tf.ensure_shape(self.readers.read_tensor(path, positions), [None])

        return tf.data.Dataset.range(skip, skip + take, _RECORDS_A_READ).map(no_autograph(read)).unbatch()

    def _by_place(self, start: int, stop: int) -> tf.data.Dataset:
        places = tf.data.Dataset.range(start, stop).batch(_RECORDS_A_READ)
        return places.map(no_autograph(lambda index: self.read_tensor(index, verify=True))).unbatch()


class Readers:
    """Record files that are open for reading at any place. The least recently used ones are closed.

    An ArrayRecord file has its own index. For a TFRecord file, opening it makes an index by going from length to
    length. This takes one seek for each record, so it is only meant for the search for damaged records.
    """

    def __init__(self, file_format: str) -> None:
        self._open = ArrayRecordReader if file_format == ARRAY_RECORD else TFRecordReader
        self._lock = threading.Lock()
        self._readers: collections.OrderedDict[str, Any] = collections.OrderedDict()

    def read(self, path: str, positions: Sequence[int], verify: bool = False) -> list[bytes]:
        """The records at the given places of a file, in their order."""
        with self._lock:
            reader = self._readers.pop(path, None) or self._open(path)
            self._readers[path] = reader
            if len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)
        return reader.read(positions, verify)

    def read_tensor(self, path: Any, positions: tf.Tensor) -> tf.Tensor:
        """`read` as an op."""

        def read(name: bytes, places: np.ndarray) -> np.ndarray:
            return np.array(self.read(os.fsdecode(name), places.tolist()), dtype=object)

        return tf.numpy_function(read, [path, positions], tf.string, stateful=False)


class ArrayRecordReader:
    """An ArrayRecord file. Raises DataError if the file is damaged or the reader isn't installed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._reader = self._guard(
            lambda: array_record_module().ArrayRecordReader(
                path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
            )
        )

    def read(self, positions: Sequence[int], verify: bool = True) -> list[bytes]:
        try:
            return self._reader.read(list(positions))
        except (RuntimeError, ValueError, IndexError, OSError):
            return [self._read_one(position) for position in positions]  # finds the damaged one

    def _read_one(self, position: int) -> bytes:
        return self._guard(lambda: self._reader.read([position])[0], f"record {position} of ")

    def _guard(self, call: Any, what: str = "") -> Any:
        try:
            return call()
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise DataError(f"{what}{self.path}: damaged or cut off ({short_reason(error)})") from error


class TFRecordReader:
    """A TFRecord file, read by place. Raises DataError for a record that is damaged or cut off."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._offsets: list[int] = []
        size, offset = pathlib.Path(path).stat().st_size, 0
        with pathlib.Path(path).open("rb") as file:
            while offset + 12 <= size:
                file.seek(offset)
                length = struct.unpack("<Q", file.read(8))[0]
                if offset + length + 16 > size:
                    break
                self._offsets.append(offset)
                offset += length + 16

    def read(self, positions: Sequence[int], verify: bool = True) -> list[bytes]:
        with pathlib.Path(self.path).open("rb") as file:
            return [self._read_one(file, position, verify) for position in positions]

    def _read_one(self, file: Any, position: int, verify: bool) -> bytes:
        if position >= len(self._offsets):
            raise DataError(
                f"record {position} of {self.path}: cut off (the file ends after {len(self._offsets)} records)"
            )
        file.seek(self._offsets[position])
        header = file.read(12)
        length, length_crc = struct.unpack("<QI", header)
        record = file.read(length)
        (record_crc,) = struct.unpack("<I", file.read(4))
        if verify and (masked_crc32c(header[:8]) != length_crc or masked_crc32c(record) != record_crc):
            raise DataError(f"record {position} of {self.path}: damaged (its checksum is wrong)")
        return record


def array_record_module() -> Any:
    """The module that reads and writes ArrayRecord files. Raises DataError if it isn't installed."""
    try:
        from array_record.python import array_record_module as module
    except ImportError:
        raise DataError(
            "ArrayRecord files can't be read on this machine: the package array_record isn't installed (it exists for "
            "Linux only); choose feed='memory' or feed='sequential'"
        ) from None
    return module
