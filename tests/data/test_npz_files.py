"""Arrays in `.npz` files: which features they become, and what is refused."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from loopwright.data import npz_arrays
from loopwright.data.errors import DataError
from loopwright.data.file_builder import open_files
from loopwright.data.options import Options
from loopwright.data.prepare import ensure_prepared

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (30, 4, 3, 3), np.uint8)
CLASSES = np.arange(30) % 3
FRACTIONS = RNG.normal(size=(30, 2))


def said(given: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """The parameters of `open_files`. What is said goes into `lines`."""
    limit = given.pop("max_bad_records", 0)
    return {**given, "options": Options(max_bad_records=limit, say=lines.append)}


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """`opened(arrays, …)` writes a file and gives its builder, prepared, and what was said."""

    def open_arrays(arrays: dict[str, Any], save: Any = np.savez, **options: Any) -> tuple[Any, list[str]]:
        path = tmp_path / "arrays.npz"
        save(path, **arrays)
        lines: list[str] = []
        builder = open_files(f"npz:{path}", str(tmp_path / "data"), **said(options, lines))
        ensure_prepared(builder, manual_dir=None, download=False)
        return builder, [line.split(": ", 1)[1] for line in lines]

    return open_arrays


def samples(builder: Any, split: str) -> list[dict[str, Any]]:
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def all_samples(builder: Any) -> list[dict[str, Any]]:
    return [sample for split in builder.info.splits for sample in samples(builder, split)]


def same_rows(found: list[Any], expected: Any) -> bool:
    return sorted(np.asarray(row).tobytes() for row in found) == sorted(np.asarray(row).tobytes() for row in expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_splits_of_keras_are_taken(opened: Callable[..., Any], save: Any) -> None:
    arrays = {
        "x_train": PIXELS[:20],
        "y_train": CLASSES[:20, None],
        "x_test": PIXELS[20:],
        "y_test": CLASSES[20:, None],
    }
    builder, lines = opened(arrays, save)
    assert lines == [
        "x_train uint8 [20, 4, 3, 3]: images",
        "y_train int64 [20, 1]: label, 3 classes",
        "train 20, test 10 samples",
    ]
    assert builder.info.supervised_keys == ("x", "y")
    assert same_rows([sample["x"] for sample in samples(builder, "train")], PIXELS[:20])
    for sample in samples(builder, "test"):
        number = next(i for i in range(20, 30) if (PIXELS[i] == sample["x"]).all())
        assert sample["y"] == CLASSES[number]


def test_one_pair_is_divided(opened: Callable[..., Any]) -> None:
    builder, lines = opened({"x": PIXELS[..., 0], "y": FRACTIONS[:, 0], "names": np.array(["a", "b"])})
    assert lines[0] == "x uint8 [30, 4, 3]: images of one channel"
    assert lines[1:] == [
        "y float64 [30]: label, numbers",
        "not used: names",
        "train 24, test 6 samples, divided 80/20 by the numbers of the samples",
    ]
    assert builder.info.features["x"].shape == (4, 3, 1)
    assert same_rows([sample["y"] for sample in all_samples(builder)], FRACTIONS[:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("x", "kind", "stored"),
    [
        (FRACTIONS, tfds.features.Tensor, np.float32),
        (FRACTIONS.astype(">f4"), tfds.features.Tensor, np.float32),
        (np.asfortranarray(FRACTIONS), tfds.features.Tensor, np.float32),
        (FRACTIONS[:, 0], tfds.features.Scalar, np.float32),
        (PIXELS[:, 0, 0], tfds.features.Tensor, np.uint8),
        (PIXELS[..., :2], tfds.features.Tensor, np.uint8),
        (np.arange(60, dtype=np.int32).reshape(30, 2), tfds.features.Tensor, np.int64),
        (FRACTIONS > 0, tfds.features.Tensor, np.float32),
        (np.array([f"wörd {i}" for i in range(30)]), tfds.features.Text, object),
        (np.array([f"word {i}".encode() for i in range(30)]), tfds.features.Text, object),
    ],
)
def test_inputs_of_other_kinds(opened: Callable[..., Any], x: Any, kind: type, stored: Any) -> None:
    builder, _ = opened({"x": x, "y": CLASSES})
    assert isinstance(builder.info.features["x"], kind)
    found = [sample["x"] for sample in all_samples(builder)]
    if stored is object:
        assert {text.decode() for text in found} == {
            text if isinstance(text, str) else text.decode() for text in x.tolist()
        }
    else:
        assert builder.info.features["x"].np_dtype == stored
        assert same_rows(found, x.astype(stored))


@pytest.mark.parametrize(
    ("y", "task", "kind", "names"),
    [
        (CLASSES, "auto", tfds.features.ClassLabel, 3),
        (CLASSES, "regression", tfds.features.Scalar, None),
        (CLASSES + 100, "auto", tfds.features.Scalar, None),
        (CLASSES + 100, "classification", tfds.features.ClassLabel, 103),
        (CLASSES - 1, "auto", tfds.features.Scalar, None),
        (CLASSES > 0, "auto", tfds.features.ClassLabel, 2),
        (np.array(["cat", "dog"])[CLASSES % 2], "auto", tfds.features.ClassLabel, 2),
        (FRACTIONS, "auto", tfds.features.Tensor, None),
        (np.stack([CLASSES > 0, CLASSES < 2], 1).astype(int), "auto", tfds.features.Tensor, None),
        (np.arange(60).reshape(30, 2) % 5, "auto", tfds.features.Sequence, 5),
        (np.arange(180).reshape(30, 3, 2) % 5, "auto", tfds.features.LabeledImage, 5),
    ],
)
def test_labels_of_every_kind(opened: Callable[..., Any], y: Any, task: str, kind: type, names: int | None) -> None:
    builder, _ = opened({"x": np.arange(30.0), "y": y}, task=task)
    label = builder.info.features["y"]
    assert type(label) is kind
    assert names is None or (label.feature if kind is tfds.features.Sequence else label).num_classes == names
    for sample in all_samples(builder):
        expected = y[int(sample["x"])]
        if y.dtype.kind == "U":
            assert label.names[sample["y"]] == expected
        else:
            np.testing.assert_array_equal(
                np.squeeze(sample["y"]), np.squeeze(expected).astype(np.asarray(sample["y"]).dtype)
            )


def test_arrays_of_any_name_are_named(opened: Callable[..., Any]) -> None:
    arrays = {
        "train_images": PIXELS[:20],
        "train_labels": CLASSES[:20],
        "val_images": PIXELS[20:],
        "val_labels": CLASSES[20:],
    }
    builder, _ = opened(arrays)
    assert builder.info.supervised_keys == ("images", "labels")
    assert {*builder.info.splits} == {"train", "validation"}
    builder, _ = opened({"a": FRACTIONS, "b": PIXELS, "c": FRACTIONS, "d": CLASSES}, input_key="b,a", label_key="d,c")
    assert builder.info.supervised_keys == (("b", "a"), ("d", "c"))


def test_blocks_are_read_one_after_another(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_arrays, "_BYTES_A_BLOCK", 100)
    builder, _ = opened({"x": PIXELS, "y": CLASSES})
    assert same_rows([sample["x"] for sample in all_samples(builder)], PIXELS)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (
            {"x": np.array([[1], [2, 3]], dtype=object), "y": [0, 1]},
            {},
            r"the array 'x' is of dtype object, which isn't loaded; save sequences",
        ),
        (
            {"x": FRACTIONS.astype(complex), "y": CLASSES},
            {},
            r"the array 'x' is of dtype complex128, which isn't loaded",
        ),
        ({"x": FRACTIONS, "y": CLASSES[:20]}, {}, r"these have different lengths: x float64 \[30, 2\], y int64 \[20\]"),
        ({"x": FRACTIONS[:0], "y": CLASSES[:0]}, {}, r"there are no samples in x float64 \[0, 2\]"),
        (
            {"a": FRACTIONS, "b": CLASSES},
            {},
            r"name the arrays of inputs and labels with input_key and label_key, out of a, b",
        ),
        (
            {"x": FRACTIONS, "y": CLASSES},
            {"label_key": "z"},
            r"label_key='z': npz:.* holds no such array \(it holds x, y\)",
        ),
        ({"x": FRACTIONS, "y": np.zeros(30, int)}, {}, r"the label 'y' has only one value \(0\); it needs two or more"),
        ({"x": FRACTIONS, "y": np.full(30, np.nan)}, {}, r"the label 'y' holds NaN or infinity"),
        ({"x": FRACTIONS, "y": np.eye(3)[CLASSES]}, {}, r"the label 'y' is one-hot; save the numbers of the classes"),
        ({"x": FRACTIONS, "y": CLASSES - 1}, {"task": "classification"}, r"holds -1 and 1; number the classes from 0"),
        (
            {"x": FRACTIONS, "y": CLASSES / 2},
            {"task": "classification"},
            r"holds 0 and 1; number the classes from 0, as integers",
        ),
        (
            {"x_train": FRACTIONS, "y_train": CLASSES, "x_test": FRACTIONS},
            {},
            r"label_key='y': npz:.* holds no such array in the split 'test'",
        ),
        (
            {"x_train": FRACTIONS, "y_train": CLASSES, "x_test": FRACTIONS[:, :1], "y_test": CLASSES},
            {},
            r"x_test float64 \[30, 1\] doesn't suit x_train",
        ),
        (
            {"x_train": FRACTIONS, "y_train": CLASSES % 2, "x_test": FRACTIONS, "y_test": CLASSES},
            {},
            r"the class '2' of 'y' is in the split 'test' \(10 samples\)",
        ),
        (
            {"x_train": FRACTIONS, "y_train": CLASSES, "x_val": FRACTIONS, "x_eval": FRACTIONS, "y_val": CLASSES},
            {},
            r"both x_val and x_eval are 'x' of the split 'validation'; leave one of them out of the file",
        ),
        (
            {"x": np.array([["a", "b"]] * 30), "y": CLASSES},
            {},
            r"x .*: a sample holds several texts; join them into one",
        ),
        (
            {"x": np.array([b"\xff" + bytes([65 + n]) for n in range(30)]), "y": CLASSES},
            {},
            r"is not UTF-8; save texts as str",
        ),
    ],
)
def test_bad_arrays_are_refused(
    opened: Callable[..., Any], arrays: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(arrays, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x93NUMPY"])
def test_file_that_is_no_archive_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"it can't be read as an \.npz file \(File is not a zip file\)"):
        open_files(f"npz:{path}", None)


def test_cut_off_array_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, x=np.zeros([30, 5000]), y=CLASSES)
    damaged = bytearray(path.read_bytes())
    damaged[600_000] ^= 1
    path.write_bytes(damaged)
    builder = open_files(f"npz:{path}", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"the array 'x' can't be read \(Bad CRC-32 for file 'x\.npy'\)"):
        ensure_prepared(builder, manual_dir=None, download=False)
    assert not builder.is_prepared()
