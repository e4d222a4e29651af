"""`text:FOLDER`: texts in files, with a folder for each class: `FOLDER/SPLIT/CLASS/*.txt`, or `FOLDER/CLASS/*.txt`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from loopwright.data import file_builder
from loopwright.data.errors import DataError
from loopwright.data.file_builder import SPLITS, UNDIVIDED, Files, SourceFile, Wanted, divide, no_such
from loopwright.data.file_records import serializer

_SUFFIX = ".txt"
_CLASSES_NAMED = 5


def find(dataset: str, path: pathlib.Path) -> Files:
    """The texts of each split. The name of a text is its path below the split, which begins with its class.

    Splits are folders that are called so (`train`, `test`, `validation`, …) and hold folders with texts. Otherwise the
    folders are classes, and all texts are one split. Files that don't end in `.txt` or lie outside a class are left out,
    and hidden ones are, too.

    Raises DataError (exit 2) if there are no texts, or no split `train`.
    """
    if not path.is_dir():
        raise no_such(dataset, path, "folder")
    folders = _folders(dataset, path)
    splits: dict[str, list[SourceFile]] = {}
    for folder in folders:
        split = SPLITS.get(folder.name.lower())
        texts = _texts(dataset, folder) if split else []
        if split and texts:
            if split in splits:
                raise DataError(f"dataset={dataset!r}: two folders are the split {split!r}; rename one", exit_code=2)
            splits[split] = texts
    if not splits:
        splits = {UNDIVIDED: _texts(dataset, path)}
    if not any(splits.values()):
        raise DataError(
            f"dataset={dataset!r}: no texts found; put them into {path}/train/CLASS/ and {path}/test/CLASS/, or into "
            f"{path}/CLASS/, as files that end in {_SUFFIX}",
            exit_code=2,
        )
    if UNDIVIDED not in splits and "train" not in splits:
        raise DataError(f"dataset={dataset!r}: there is no folder train beside {', '.join(splits)}", exit_code=2)
    if len(splits) == 1:
        return {UNDIVIDED: next(iter(splits.values()))}
    return {"train": splits.pop("train"), **splits}


def survey(dataset: str, files: Files, wanted: Wanted) -> TextFolder:
    """Reads all texts. Raises DataError (exit 2) for one that isn't UTF-8, and for fewer than two classes."""
    left_out: list[str] = []
    empty = 0
    good: dict[str, list[SourceFile]] = {split: [] for split in files}
    for split, texts in files.items():
        for text in texts:
            try:
                empty += not _read(text.path).strip()
                good[split].append(text)
            except UnicodeDecodeError as error:
                left_out.append(f"{text.path} is not UTF-8 ({error.reason} at byte {error.start})")
            file_builder.refuse_bad(dataset, left_out, wanted.max_bad_records)
    names = tuple(sorted({_class(text) for texts in good.values() for text in texts}))
    if len(names) < 2:
        found = f"only one class ({names[0]!r})" if names else "no text that can be read"
        raise DataError(f"dataset={dataset!r}: there is {found}; a classifier needs two or more classes", exit_code=2)
    classes = {
        split: np.array([names.index(_class(text)) for text in texts], np.int64) for split, texts in good.items()
    }
    if UNDIVIDED in good:
        texts = good[UNDIVIDED]
        test = divide(dataset, len(texts), [classes[UNDIVIDED]])
        good = {
            "train": [text for text, held_out in zip(texts, test, strict=True) if not held_out],
            "test": [text for text, held_out in zip(texts, test, strict=True) if held_out],
        }
    for split in [split for split in classes if split not in (UNDIVIDED, "train")]:
        file_builder.refuse_unseen(dataset, split, "label", names, classes["train"], classes[split])
    return TextFolder(good, names, left_out, empty, UNDIVIDED in files)


@dataclasses.dataclass(frozen=True, eq=False)
class TextFolder:
    """A folder of texts that was looked through (a `file_builder.Source`)."""

    files: Mapping[str, Sequence[SourceFile]]
    class_names: tuple[str, ...]
    left_out: list[str]
    empty: int
    divided: bool

    supervised_keys = ("text", "label")

    @functools.cached_property
    def features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict(
            {
                "label": tfds.features.ClassLabel(names=list(self.class_names)),
                "text": tfds.features.Text(doc="text"),
            }
        )

    @property
    def sizes(self) -> dict[str, int]:
        return {split: len(texts) for split, texts in self.files.items()}

    @functools.cached_property
    def remarks(self) -> list[str]:
        names = ", ".join(self.class_names[:_CLASSES_NAMED]) + ", …" * (len(self.class_names) > _CLASSES_NAMED)
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.sizes.items())
        divided = ", divided 80/20 by the order of their names" if self.divided else ""
        found = [f"{len(self.class_names)} classes ({names}), {sizes} texts{divided}"]
        for split, texts in self.files.items():
            count = collections.Counter(map(_class, texts))
            missing = [name for name in self.class_names if not count[name]]
            if missing:
                found.append(f"the split {split!r} holds no text of {', '.join(missing[:_CLASSES_NAMED])}")
        return found + ([f"{self.empty} texts are empty"] if self.empty else [])

    def records(self, split: str) -> Iterator[tuple[int, bytes]]:
        serialize = serializer(self.features)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for key, text in enumerate(self.files[split]):
            yield key, serialize({"text": _read(text.path).encode(), "label": numbers[_class(text)]})


def _read(path: pathlib.Path) -> str:
    return path.read_bytes().decode("utf-8-sig")


def _class(text: SourceFile) -> str:
    return text.name.partition("/")[0]


def _texts(dataset: str, root: pathlib.Path) -> list[SourceFile]:
    """The texts below the class folders of a split, in the order of their names."""
    found = []
    for folder in _folders(dataset, root):
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [
                pathlib.Path(parent) / name for name in names if name.lower().endswith(_SUFFIX) and name[0] != "."
            ]
    texts = [SourceFile(path, path.relative_to(root).as_posix()) for path in found if path.is_file()]
    return sorted(texts, key=lambda text: text.name)


def _folders(dataset: str, path: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"dataset={dataset!r}: {path} can't be read ({error.strerror})", exit_code=2) from None
