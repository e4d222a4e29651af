"""Builders made of files: their names, their order, and what is prepared once."""

import hashlib
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import file_names
from loopwright.data.errors import DataError
from loopwright.data.file_builder import divide, held_out, open_files
from loopwright.data.file_records import serializer
from loopwright.data.options import Options
from loopwright.data.prepare import ensure_prepared

ROWS = "".join(f"{i},{i % 7 / 4},{'ab'[i % 2]}\n" for i in range(300))


def write(path: pathlib.Path, text: str = ROWS) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(f"i,x,label\n{text}")
    return f"csv:{path}"


def prepared(name: str, data_dir: pathlib.Path, **options: Any) -> Any:
    builder = open_files(name, str(data_dir), **options)
    ensure_prepared(builder, manual_dir=None, download=False)
    return builder


def order(builder: Any, split: str = "train") -> list[int]:
    return [int(sample["i"]) for sample in tfds.as_numpy(builder.as_dataset(split=split))]


def test_content_makes_the_name_and_the_place_does_not(tmp_path: pathlib.Path) -> None:
    first, second = write(tmp_path / "a" / "my table.csv"), write(tmp_path / "b" / "my table.csv")
    one, other = prepared(first, tmp_path / "data"), open_files(second, str(tmp_path / "data"))
    assert one.info.full_name == other.info.full_name
    assert other.is_prepared()
    assert one.name.startswith("csv_my_table_") and len(one.name) == len("csv_my_table_") + 8
    renamed = open_files(write(tmp_path / "c" / "other.csv"), str(tmp_path / "data"))
    assert renamed.info.full_name != one.info.full_name
    assert file_names.moved_name(first, renamed.info.full_name) == one.info.full_name
    write(tmp_path / "a" / "my table.csv", ROWS + "5,5,a\n")
    assert open_files(first, str(tmp_path / "data")).name != one.name


def test_what_is_said_about_a_file_is_part_of_its_name(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "t.csv")
    options: list[dict[str, Any]] = [
        {},
        {"label_key": "x"},
        {"label_key": "label"},
        {"columns": "i,x,label"},
        {"task": "classification"},
    ]
    assert len({open_files(name, str(tmp_path / "data"), **given).name for given in options}) == len(options)
    # These don't change what is prepared.
    assert len({open_files(name, str(tmp_path / "data"), **given).name for given in ({}, {"input_key": "x"})}) == 1


def test_reopened_builder_knows_the_same(tmp_path: pathlib.Path) -> None:
    name, lines = write(tmp_path / "t.csv"), ([], [])
    one = prepared(name, tmp_path / "data", options=Options(say=lines[0].append))
    other = open_files(name, str(tmp_path / "data"), options=Options(say=lines[1].append))
    assert lines[0] == lines[1] and len(lines[0]) == 2
    assert one.info.features.to_json() == other.info.features.to_json()
    assert [*one.info.features] == [*other.info.features] == ["i", "label", "x"]
    assert (one.info.supervised_keys, order(one)) == (other.info.supervised_keys, order(other))


def test_damaged_content_hash_is_refused(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "t.csv")
    facts = prepared(name, tmp_path / "data").data_path / "metadata.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"content": "0" * 64}))
    with pytest.raises(DataError, match=r"holds the data of other files; remove it"):
        open_files(name, str(tmp_path / "data"))


def test_order_is_the_same_in_another_process_and_format(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "t.csv")
    one = prepared(name, tmp_path / "one")
    other = open_files(name, str(tmp_path / "other"))
    ensure_prepared(other, manual_dir=None, download=False, file_format="array_record")
    source = other.as_data_source(split="train")
    assert [int(sample["i"]) for sample in source] == order(one)
    program = (
        "import sys; from loopwright.data.file_builder import open_files; "
        "open_files(sys.argv[1], sys.argv[2]).download_and_prepare()"
    )
    environment = {"PYTHONHASHSEED": "77", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "-c", program, name, str(tmp_path / "third")], check=True, env=environment, capture_output=True
    )
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / folder).rglob("*.tfrecord*"))]
        for folder in ("one", "third")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 2


def test_order_is_pinned(tmp_path: pathlib.Path) -> None:
    """A change of the order would change the streams of all runs on files."""
    builder = prepared(write(tmp_path / "t.csv"), tmp_path / "data")
    assert order(builder)[:8] == [247, 243, 39, 135, 55, 143, 28, 289]
    assert order(builder, "test")[:8] == [174, 179, 249, 209, 292, 267, 190, 64]


def test_held_out_depends_on_the_count_alone() -> None:
    assert np.flatnonzero(held_out(20)).tolist() == [2, 4, 6, 18]
    for count in (2, 3, 5, 99, 1000):
        assert held_out(count).sum() == max(1, round(count / 5))


def test_training_gets_every_class_and_a_class_in_the_test_is_known() -> None:
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 12, 60)
        test = divide("csv:t", 60, [labels])
        assert set(labels[test]) <= set(labels[~test])
        assert not (test & ~held_out(60)).any()
    with pytest.raises(DataError, match=r"3 samples are too few"):
        divide("csv:t", 3, [np.arange(3)])


@pytest.mark.parametrize("change", [ROWS + "5,5,a\n", ROWS.replace("299,", "298,")])
def test_file_that_changes_while_it_is_prepared_leaves_nothing(tmp_path: pathlib.Path, change: str) -> None:
    name = write(tmp_path / "t.csv")
    builder = open_files(name, str(tmp_path / "data"))
    write(tmp_path / "t.csv", change)
    with pytest.raises(DataError, match=r"the files changed while they were read; run this again"):
        ensure_prepared(builder, manual_dir=None, download=False)
    assert not builder.is_prepared() and not [*(tmp_path / "data").rglob("*.tfrecord*")]


def test_folder_that_can_not_be_written_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match=r"can't be written to .*; choose another data_dir"):
        prepared(write(tmp_path / "t.csv"), tmp_path / "data")


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (tfds.features.Scalar(np.float32), np.float32(0.1)),
        (tfds.features.Scalar(np.int64), -3),
        (tfds.features.ClassLabel(num_classes=3), 2),
        (tfds.features.Text(), "Köln".encode()),
        (tfds.features.Tensor(shape=(2, 3), dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)),
        (tfds.features.Tensor(shape=(3,), dtype=np.bool_), np.array([True, False, True])),
        (tfds.features.Tensor(shape=(3,), dtype=np.uint8), np.array([0, 255, 3], np.uint8)),
        (tfds.features.Sequence(tfds.features.ClassLabel(num_classes=5), length=3), np.array([4, 0, 1])),
        (
            tfds.features.Image(shape=(2, 3, 1), dtype=np.uint8, encoding_format="png"),
            np.arange(6, dtype=np.uint8).reshape(2, 3, 1),
        ),
        (
            tfds.features.LabeledImage(labels=7, shape=(2, 3, 1), encoding_format="png"),
            np.arange(6, dtype=np.uint8).reshape(2, 3, 1),
        ),
    ],
)
def test_records_are_those_that_tfds_reads(feature: Any, value: Any) -> None:
    features = tfds.features.FeaturesDict({"a/b": feature, "z": tfds.features.Scalar(np.float32)})
    record = serializer(features)({"a/b": value, "z": 1.5})
    expected = features.serialize_example(features.encode_example({"a/b": value, "z": 1.5}))
    found, wanted = map(features.deserialize_example, (record, expected))
    tf.nest.map_structure(lambda one, other: np.testing.assert_array_equal(one, other, strict=True), found, wanted)
    same = dict(tf.train.Example.FromString(expected).features.feature)
    if not isinstance(feature, tfds.features.Image):  # PNG files of equal pixels may differ.
        assert dict(tf.train.Example.FromString(record).features.feature) == same
