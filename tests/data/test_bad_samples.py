"""Errors about bad data name sample, file and place. A limited number of bad samples can be left out."""

import dataclasses
import pathlib
import resource
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright.data import bad_samples
from loopwright.data.array_records import copy_to_array_record
from loopwright.data.crc import masked_crc32c
from loopwright.data.decoding import Decoder, Keys
from loopwright.data.errors import DataError
from loopwright.data.feed import Epochs
from loopwright.data.record_files import RecordFiles
from loopwright.data.sequential_feed import sequential_feed
from loopwright.data.splits import RecordSplit, decode_all

DAMAGED = 12  # the sample: record 2 of the third file


@pytest.fixture
def files(record_files: RecordFiles, tmp_path: pathlib.Path) -> RecordFiles:
    """A copy of the files, which a test may damage."""
    copies = []
    for file in record_files.files:
        path = shutil.copy(file.path, tmp_path)
        copies.append(dataclasses.replace(file, path=str(path)))
    return RecordFiles(tuple(copies), record_files.file_format)


@pytest.fixture
def split(files: RecordFiles, features: Any) -> Callable[[], RecordSplit]:
    return lambda: RecordSplit(
        RecordFiles(files.files, files.file_format), Decoder(features, Keys(("image",), "label"))
    )


def offset_of(path: str, record: int) -> int:
    data, offset = pathlib.Path(path).read_bytes(), 0
    for _ in range(record):
        offset += int.from_bytes(data[offset : offset + 8], "little") + 16
    return offset


def flip_byte(path: str, offset: int) -> None:
    data = bytearray(pathlib.Path(path).read_bytes())
    data[offset] ^= 0xFF
    pathlib.Path(path).write_bytes(data)


def rewrite(path: str, record: int, content: bytes) -> None:
    records = [r.numpy() for r in tf.data.TFRecordDataset(path)]
    records[record] = content
    with tf.io.TFRecordWriter(path) as writer:
        for content in records:
            writer.write(content)


def test_damaged_record_is_named(files: RecordFiles, split: Callable[[], RecordSplit]) -> None:
    path = files.files[2].path
    flip_byte(path, offset_of(path, 2) + 30)
    with pytest.raises(DataError, match=rf"sample {DAMAGED} is bad: record 2 of {path}: damaged") as caught:
        bad_samples.find_bad(split(), "tiny", limit=0)
    assert "max_bad_records=N" in str(caught.value)
    found = bad_samples.find_bad(split(), "tiny", limit=1)
    assert set(found) == {DAMAGED}


def test_damaged_records_are_left_out_of_memory_and_of_copies(
    files: RecordFiles, split: Callable[[], RecordSplit], images: np.ndarray, make: Callable[..., Any]
) -> None:
    for record in (2, 5):
        flip_byte(files.files[2].path, offset_of(files.files[2].path, record) + 30)
    found = bad_samples.find_bad(split(), "tiny", limit=2)
    assert set(found) == {12, 15}
    good = np.setdiff1d(np.arange(len(images)), [12, 15])
    np.testing.assert_array_equal(decode_all(split(), bad=found)["x"][good], images[good])
    with pytest.raises(DataError, match="record 2"):
        copy_to_array_record(split().files)
    copies = RecordSplit(copy_to_array_record(split().files, skip_damaged=True), split().decoder)
    np.testing.assert_array_equal(copies.gather(tf.constant(good))["x"], images[good])


def test_file_that_is_cut_off_is_named(files: RecordFiles, split: Callable[[], RecordSplit]) -> None:
    path = pathlib.Path(files.files[3].path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"sample 60 is bad: record 23 of {path}: cut off"):
        bad_samples.find_bad(split(), "tiny", limit=0)
    assert set(bad_samples.find_bad(split(), "tiny", limit=3)) == {60}


@pytest.mark.parametrize("at_a_record", [True, False])
def test_file_that_ends_early_is_named(files: RecordFiles, split: Callable[[], RecordSplit], at_a_record: bool) -> None:
    path = files.files[3].path
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data[: offset_of(path, 20) + (0 if at_a_record else 5)])
    with pytest.raises(DataError, match=rf"sample 57 is bad: record 20 of {path}: cut off"):
        bad_samples.find_bad(split(), "tiny", limit=0)
    assert set(bad_samples.find_bad(split(), "tiny", limit=4)) == {57, 58, 59, 60}
    with pytest.raises(DataError, match="sample 60"):
        bad_samples.find_bad(split(), "tiny", limit=3)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("records", [20, 0])
def test_file_that_ends_early_ends_the_sequential_feed(
    files: RecordFiles, split: Callable[[], RecordSplit], records: int, shuffle: bool
) -> None:
    path = pathlib.Path(files.files[3].path)
    path.write_bytes(path.read_bytes()[: offset_of(str(path), records)])
    feed = sequential_feed(split(), Epochs(files.num_examples, 5, shuffle=shuffle), buffer_size=7)
    with pytest.raises(tf.errors.OpError, match="expected to contain 24 elements"):
        list(feed().take(feed.steps_per_epoch))


def test_record_that_is_cut_off_is_left_out_of_the_sequential_feed(
    files: RecordFiles, split: Callable[[], RecordSplit]
) -> None:
    path = pathlib.Path(files.files[3].path)
    path.write_bytes(path.read_bytes()[:-40])
    feed = sequential_feed(split(), Epochs(files.num_examples - 1, 5), buffer_size=7, bad=(60,))
    seen = np.concatenate([batch["index"].numpy() for batch in feed().take(feed.steps_per_epoch)])
    assert sorted(seen.tolist()) == list(range(60))


def test_copy_that_does_not_fit_on_the_disk_is_told(files: RecordFiles) -> None:
    folder = pathlib.Path(files.files[0].path).parent
    before, limits = sorted(folder.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(DataError, match=rf"can't write ArrayRecord copies to {folder} .*feed='sequential'"):
            copy_to_array_record(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(folder.iterdir()) == before


def test_picture_that_does_not_decode_is_named(
    files: RecordFiles, split: Callable[[], RecordSplit], features: Any
) -> None:
    example = {"image": b"no picture", "label": 1}
    info = features.get_serialized_info()
    assert set(info) == set(example)
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"no picture"])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    }
    content = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    rewrite(files.files[2].path, 2, content)
    assert set(bad_samples.find_bad(split(), "tiny", limit=5)) == {DAMAGED}
    assert "record 2 of" in (bad_samples.why_bad(split(), DAMAGED) or "")
    assert bad_samples.why_bad(split(), DAMAGED + 1) is None
    assert bad_samples.explain(split(), "tiny", range(DAMAGED)) is None
    assert f"sample {DAMAGED} is bad" in str(bad_samples.explain(split(), "tiny", range(DAMAGED + 1)))


def test_label_out_of_range_is_named(files: RecordFiles, split: Callable[[], RecordSplit], features: Any) -> None:
    records = [r.numpy() for r in tf.data.TFRecordDataset(files.files[2].path)]
    example = tf.train.Example.FromString(records[2])
    example.features.feature["label"].int64_list.value[0] = 7
    rewrite(files.files[2].path, 2, example.SerializeToString())
    reason = bad_samples.find_bad(split(), "tiny", limit=1)[DAMAGED]
    assert reason.endswith("the label 'label' is outside the 3 classes (0 to 2): 7")


def test_number_that_is_not_finite_is_bad() -> None:
    import tensorflow_datasets as tfds

    numbers = tfds.features.FeaturesDict(
        {"a": tfds.features.Tensor(shape=(2,), dtype=np.float32), "b": tfds.features.Scalar(np.float32)}
    )
    decoder = Decoder(numbers, Keys(("a",), "b"))
    good, nan = (
        numbers.serialize_example(numbers.encode_example({"a": np.array([1, value], np.float32), "b": 0.5}))
        for value in (2, np.nan)
    )
    assert decoder(tf.constant([good]))["y"].dtype == tf.float32
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        decoder(tf.constant([good, nan]))


def test_damaged_array_record_is_named(files: RecordFiles, split: Callable[[], RecordSplit]) -> None:
    copies = copy_to_array_record(files)
    path = copies.files[2].path
    written = pathlib.Path(path).read_bytes().split(bytes(256))[0]  # The file is padded with zeros.
    flip_byte(path, len(written) * 2 // 3)
    damaged = RecordSplit(RecordFiles(copies.files, copies.file_format), split().decoder)
    with pytest.raises(DataError, match=rf"record \d+ of {path}: damaged"):
        bad_samples.find_bad(damaged, "tiny", limit=0)


def test_checksum_is_that_of_tfrecord(record_files: RecordFiles) -> None:
    data = pathlib.Path(record_files.files[0].path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
    assert masked_crc32c(data[12 : 12 + length]) == int.from_bytes(data[12 + length : 16 + length], "little")
