"""`npz:PATH`: arrays in a NumPy file, named as `keras.datasets` names them (`x_train`, `y_train`, `x_test`, `y_test`).

Arrays are read in blocks of rows, so a file may be larger than the memory. Pickled objects are never loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from loopwright.data import file_builder
from loopwright.data.errors import DataError
from loopwright.data.file_builder import SPLITS, UNDIVIDED, Files, SourceFile, Wanted, divide, nearest, no_such
from loopwright.data.file_records import serializer
from loopwright.data.npz_arrays import StoredArray, explained, look, stored_arrays, text_of

_LABELS = ("y", "label", "labels", "target", "targets")
_SPLIT = "|".join(sorted(SPLITS, key=len, reverse=True))
_NAMED = re.compile(rf"(?:(?P<key>.+)_(?P<split>{_SPLIT})|(?P<first>{_SPLIT})_(?P<rest>.+))", re.IGNORECASE)
_CHANNELS = (1, 3, 4)
#: Labels of whole numbers with more values than this are numbers, unless the task says that they are classes.
_MOST_CLASSES = 10_000


#: For each split the arrays by the names of features.
Arrays = Mapping[str, Mapping[str, StoredArray]]


def find(dataset: str, path: pathlib.Path) -> Files:
    """The file. Raises DataError (exit 2) if there is none."""
    if not path.is_file():
        raise no_such(dataset, path, "file")
    return {UNDIVIDED: [SourceFile(path)]}


def survey(dataset: str, files: Files, wanted: Wanted) -> NpzFile:
    """Looks at all arrays, and through the labels. Raises DataError (exit 2) for arrays that can't be trained on."""
    with explained(dataset):
        stored = stored_arrays(dataset, files[UNDIVIDED][0].path)
        arrays = _by_split(dataset, stored)
        inputs, labels = _keys(dataset, arrays, wanted)
        used = {split: {key: of_split[key] for key in (*inputs, *labels)} for split, of_split in arrays.items()}
        _check_shapes(dataset, used, labels)
        kinds = {key: _label(dataset, key, used, wanted.task) for key in labels}
        classes = {
            split: {key: _classes(of_split[key], kinds[key]) for key in labels if kinds[key].names and kinds[key].flat}
            for split, of_split in used.items()
        }
    sizes = {split: next(iter(of_split.values())).shape[0] for split, of_split in used.items()}
    test = None
    if UNDIVIDED in sizes:
        test = divide(dataset, sizes[UNDIVIDED], list(classes[UNDIVIDED].values()))
        sizes = {"train": int((~test).sum()), "test": int(test.sum())}
    for split, found in classes.items() if test is None else ():
        for key, numbers in found.items():
            file_builder.refuse_unseen(dataset, split, key, kinds[key].names, classes["train"][key], numbers)
    unused = [name for name in stored if name not in {array.name for of in used.values() for array in of.values()}]
    return NpzFile(used, inputs, kinds, sizes, test, unused)


@dataclasses.dataclass(frozen=True)
class Label:
    """What a label holds.

    Attributes:
      names: of the classes; empty if it holds numbers.
      flat: whether there is one class for each sample, and not one for each position.
      words: whether the classes are stored as words.
      several: whether it says of each of several labels whether it holds.
    """

    names: tuple[str, ...] = ()
    flat: bool = True
    words: bool = False
    several: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class NpzFile:
    """A file of arrays that was looked through (a `file_builder.Source`)."""

    arrays: Arrays
    inputs: tuple[str, ...]
    labels: Mapping[str, Label]
    sizes: dict[str, int]
    test: np.ndarray | None
    unused: Sequence[str]

    @property
    def left_out(self) -> list[str]:
        return []

    @property
    def _first(self) -> Mapping[str, StoredArray]:
        return next(iter(self.arrays.values()))

    @functools.cached_property
    def features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict(
            {
                key: _label_feature(array, self.labels[key]) if key in self.labels else _input_feature(array)
                for key, array in sorted(self._first.items())
            }
        )

    @property
    def supervised_keys(self) -> Any:
        labels = tuple(self.labels)
        return (_one_or_all(self.inputs), _one_or_all(labels)) if labels else None

    @functools.cached_property
    def remarks(self) -> list[str]:
        found = [f"{array.described}: {self._meaning(key)}" for key, array in self._first.items()]
        if self.unused:
            found.append(f"not used: {', '.join(self.unused)}")
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.sizes.items())
        divided = "" if self.test is None else ", divided 80/20 by the numbers of the samples"
        return [*found, f"{sizes} samples{divided}"]

    def _meaning(self, key: str) -> str:
        feature, array = self.features[key], self._first[key]
        if key in self.labels:
            names = self.labels[key].names
            each = "" if self.labels[key].flat else " at each position"
            several = f"{array.shape[-1]} labels of 0 and 1" if self.labels[key].several else "numbers"
            return f"label, {len(names)} classes{each}" if names else f"label, {several}"
        if isinstance(feature, tfds.features.Image):
            return "images" + (" of one channel" if len(array.shape) == 3 else "")
        return "text" if isinstance(feature, tfds.features.Text) else "numbers"

    def records(self, split: str) -> Iterator[tuple[int, bytes]]:
        serialize = serializer(self.features)
        arrays = self.arrays[split if self.test is None else UNDIVIDED]
        columns = [map(self._reader(key), array.rows()) for key, array in arrays.items()]
        for key, values in enumerate(zip(*columns, strict=True)):
            if self.test is None or self.test[key] == (split == "test"):
                yield key, serialize(dict(zip(arrays, values, strict=True)))

    def _reader(self, key: str) -> Any:
        feature = self.features[key]
        if key in self.labels and self.labels[key].words:
            numbers = {name: number for number, name in enumerate(self.labels[key].names)}
            return lambda value: numbers[text_of(value)]
        if isinstance(feature, tfds.features.Text):
            return lambda value: text_of(value).encode()
        if isinstance(feature, tfds.features.Image):
            return lambda value: np.asarray(value, np.uint8).reshape(feature.shape)
        if feature.shape:
            return lambda value: value.astype(feature.np_dtype)
        return lambda value: value.reshape(()).astype(feature.np_dtype).item()


def _one_or_all(names: Sequence[str]) -> Any:
    return names[0] if len(names) == 1 else tuple(names)


def _by_split(dataset: str, stored: Mapping[str, StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """The arrays of each split by the names of features: `x` is `x_train` or `train_x` in the split `train`."""
    arrays: dict[str, dict[str, StoredArray]] = {}
    for name, array in stored.items():
        match = _NAMED.fullmatch(name)
        if match:
            key, split = (match["key"] or match["rest"]), (match["split"] or match["first"])
            of_split = arrays.setdefault(SPLITS[split.lower()], {})
            if key in of_split:
                raise DataError(
                    f"dataset={dataset!r}: both {of_split[key].name} and {name} are {key!r} of the split "
                    f"{SPLITS[split.lower()]!r}; leave one of them out of the file",
                    exit_code=2,
                )
            of_split[key] = array
    if "train" not in arrays:
        return {UNDIVIDED: {name: array for name, array in stored.items() if not _NAMED.fullmatch(name)}}
    if len(arrays) == 1:
        return {UNDIVIDED: arrays["train"]}
    return {"train": arrays.pop("train"), **arrays}


def _keys(dataset: str, arrays: Arrays, wanted: Wanted) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and of the labels: those given, or otherwise those that the names of the arrays tell."""
    known = [*next(iter(arrays.values()))]
    if wanted.task == "none" and not wanted.labels:
        labels: tuple[str, ...] = ()
    else:
        labels = wanted.labels or tuple(key for key in known if key.lower() in _LABELS)[:1]
    inputs = wanted.inputs or (("x",) if "x" in known else tuple(key for key in known if key not in labels))
    for parameter, names in (("input_key", inputs), ("label_key", labels)):
        for name in names:
            for split, of_split in arrays.items():
                if name not in of_split:
                    where = f" in the split {split!r}" if split and name in known else ""
                    raise DataError(
                        f"{parameter}={name!r}: {dataset} holds no such array{where} (it holds "
                        f"{', '.join(of_split)}){nearest(name, [*of_split])}",
                        exit_code=2,
                    )
    if not inputs or not (labels or wanted.task == "none"):
        raise DataError(
            f"dataset={dataset!r}: name the arrays of inputs and labels with input_key and label_key, out of "
            f"{', '.join(known)}; arrays called x_train, y_train, x_test and y_test need no name",
            exit_code=2,
        )
    return inputs, labels


def _check_shapes(dataset: str, arrays: Arrays, labels: Sequence[str]) -> None:
    """Raises DataError (exit 2) unless all arrays of a split are equally long, and agree with those of other splits."""
    first = next(iter(arrays.values()))
    for of_split in arrays.values():
        lengths = {array.shape[0] if array.shape else 0 for array in of_split.values()}
        if len(lengths) > 1 or 0 in lengths:
            what = "there are no samples in" if 0 in lengths else "these have different lengths:"
            raise DataError(
                f"dataset={dataset!r}: {what} {', '.join(array.described for array in of_split.values())}", exit_code=2
            )
        for key, array in of_split.items():
            alike = _stored_dtype(array.dtype) == _stored_dtype(first[key].dtype) or key in labels
            if array.shape[1:] != first[key].shape[1:] or not alike or array.kind != first[key].kind:
                raise DataError(
                    f"dataset={dataset!r}: {array.described} doesn't suit {first[key].described}", exit_code=2
                )


def _label(dataset: str, key: str, arrays: Arrays, task: str) -> Label:
    """What a label holds. All values are read.

    Words and truth values are classes. Whole numbers are classes from 0 to the highest, unless one is negative or the
    highest isn't below the number of samples. Whole numbers `[N, L]` of 0 and 1 are several labels; other whole numbers
    with more axes are the classes of positions. Fractions are numbers.

    Raises DataError (exit 2) for NaN, for one-hot labels, for a label of one class, and for what the task can't use.
    """
    parts = [of_split[key] for of_split in arrays.values()]
    kind, flat = parts[0].kind, int(np.prod(parts[0].shape[1:])) == 1
    if kind == "words":
        if not flat or task == "numbers":
            raise DataError(f"dataset={dataset!r}: the label {key!r} holds words; save numbers", exit_code=2)
        names = tuple(sorted({text_of(value) for part in parts for value in part.rows()}))
        return _checked(dataset, key, Label(names, words=True))
    seen = look(parts)
    why_not = None
    if not seen.finite:
        why_not = "holds NaN or infinity; leave these samples out"
    elif seen.one_hot and not flat and task == "auto":
        why_not = "is one-hot; save the numbers of the classes, such as with y.argmax(-1)"
    elif task == "classes" and flat and (kind == "fractions" or seen.low < 0):
        why_not = f"holds {seen.low:g} and {seen.high:g}; number the classes from 0, as integers"
    if why_not:
        raise DataError(f"dataset={dataset!r}: the label {key!r} {why_not}", exit_code=2)
    if kind == "fractions" or task == "numbers" or seen.low < 0:
        return Label()
    if not flat and len(parts[0].shape) == 2 and seen.high <= 1:
        return Label(several=True)
    count = sum(part.shape[0] for part in parts)
    if flat and task != "classes" and seen.high >= min(_MOST_CLASSES, count):
        return Label()
    return _checked(dataset, key, Label(tuple(map(str, range(int(seen.high) + 1))), flat))


def _checked(dataset: str, key: str, label: Label) -> Label:
    if len(label.names) < 2:
        raise DataError(
            f"dataset={dataset!r}: the label {key!r} has only one value ({', '.join(label.names)}); it needs two or more",
            exit_code=2,
        )
    return label


def _classes(array: StoredArray, label: Label) -> np.ndarray:
    """The class of each sample, int64 `[N]`."""
    if label.words:
        numbers = {name: number for number, name in enumerate(label.names)}
        return np.array([numbers[text_of(value)] for value in array.rows()], np.int64)
    return np.concatenate([block.reshape(len(block)).astype(np.int64) for block in array.blocks()])


def _label_feature(array: StoredArray, label: Label) -> Any:
    shape = array.shape[1:]
    if label.several:
        return tfds.features.Tensor(shape=shape, dtype=np.bool_)
    if not label.names:
        one = int(np.prod(shape)) == 1
        return tfds.features.Scalar(np.float32) if one else tfds.features.Tensor(shape=shape, dtype=np.float32)
    if label.flat:
        return tfds.features.ClassLabel(names=list(label.names))
    if len(shape) == 1:
        return tfds.features.Sequence(tfds.features.ClassLabel(names=list(label.names)), length=shape[0])
    if len(label.names) <= 256 and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)):
        return tfds.features.LabeledImage(labels=list(label.names), shape=(*shape[:2], 1), encoding_format="png")
    return _tensor(array)


def _input_feature(array: StoredArray) -> Any:
    shape = array.shape[1:]
    if array.dtype.kind in "US":
        if math.prod(shape) != 1:
            raise DataError(f"{array.described}: a sample holds several texts; join them into one", exit_code=2)
        return tfds.features.Text(doc="text")
    if array.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)):
        return tfds.features.Image(
            shape=shape if len(shape) == 3 else (*shape, 1), dtype=np.uint8, encoding_format="png"
        )
    return _tensor(array) if shape else tfds.features.Scalar(_stored_dtype(array.dtype))


def _tensor(array: StoredArray) -> Any:
    return tfds.features.Tensor(shape=array.shape[1:], dtype=_stored_dtype(array.dtype))


def _stored_dtype(dtype: np.dtype[Any]) -> Any:
    """Numbers with fractions and truth values are stored as float32, others as int64 or, where they are, uint8."""
    if dtype.kind in "fb":
        return np.float32
    return np.uint8 if dtype == np.uint8 else np.int64
