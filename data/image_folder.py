"""`folder:PATH`: a dataset that is a folder of images, with a folder for each class."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
import random
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.autograph import no_autograph
from loopwright.data.catalog import FOLDER, IMAGE_SUFFIXES, PILLOW_SUFFIXES
from loopwright.data.decoding import resize
from loopwright.data.errors import DataError, short_reason
from loopwright.data.image_decoding import (
    INSTALL_PILLOW,
    decode,
    has_colors,
    pillow_installed,
)
from loopwright.data.splits import READ_AT_ONCE

#: Names of splits. A folder that has one of them, in any case, is a split and not a class.
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
#: Files of file managers. They are left out without a word, as hidden files are.
_OF_FILE_MANAGERS = ("thumbs.db", "desktop.ini")
_CLASSES_NAMED = 5


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """A folder of images: `PATH/SPLIT/CLASS/*.png`, or `PATH/CLASS/*.png`, which makes a single split named `train`.

    The folder of a class may hold folders, whose images belong to the class, too. The classes are those of all splits
    together. Images come in the order of `tfds.folder_dataset.ImageFolder`: shuffled, but the same on every machine.
    They are gray if all of them are gray, and RGB otherwise.

    Raises DataError if the folder doesn't exist, can't be read, holds no images, mixes the two layouts, has fewer than
    two classes, or holds images for which Pillow is missing.
    """

    root: pathlib.Path
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise DataError(f"{self._named}: no such folder", exit_code=2)
        if not self.split_sizes:
            raise DataError(
                f"{self._named}: no images found; put them into {self.root}/train/CLASS/ and {self.root}/test/CLASS/, "
                f"or into {self.root}/CLASS/ ({', '.join(IMAGE_SUFFIXES)})"
            )
        if len(self.class_names) < 2:
            raise DataError(
                f"{self._named}: there is only one class ({self.class_names[0]!r}); a classifier needs two or more"
            )
        foreign = [path for path in self._paths if path.lower().endswith(PILLOW_SUFFIXES)]
        if foreign and not pillow_installed():
            raise DataError(
                f"{self._named}: TensorFlow can't read {len(foreign)} of the images, such as {foreign[0]}; "
                f"{INSTALL_PILLOW}"
            )

    @property
    def _named(self) -> str:
        """How messages name this folder."""
        name = f"{FOLDER}{self.root}"
        return f"dataset={name!r}"

    @functools.cached_property
    def files(self) -> dict[str, list[tuple[str, str]]]:
        """The path and the class of each image, by split."""
        files = {}
        for split, root in self._roots.items():
            files[split] = [(path, folder.name) for folder in _folders(root) for path in _images(_files(folder))]
            random.Random(split).shuffle(files[split])
        return {split: found for split, found in files.items() if found}

    @functools.cached_property
    def _roots(self) -> dict[str, pathlib.Path]:
        """The folder of each split. With the layout `PATH/CLASS/`, that is this folder, and the split is `train`."""
        folders = _folders(self.root)
        flat = next((folder for folder in folders if _images(_files(folder, deep=False))), None)
        splits = [folder for folder in folders if not flat or folder.name.lower() in _SPLITS]
        deep = next((sub for folder in splits for sub in _folders(folder) if _images(_files(sub))), None)
        if flat and deep:
            raise DataError(
                f"{self._named}: there are images both in {flat} and in {deep}; a folder is either SPLIT/CLASS/ or "
                "CLASS/ throughout: move one of the two away"
            )
        return {"train": self.root} if flat else {folder.name: folder for folder in folders}

    @property
    def _paths(self) -> Iterator[str]:
        return (path for files in self.files.values() for path, _ in files)

    @functools.cached_property
    def remarks(self) -> list[str]:
        """What a user should know: which files are left out, and which splits lack a class."""
        left_out = sorted({*_files(self.root)} - {*self._paths})
        kinds = collections.Counter(map(_kind, left_out)).most_common()
        found = [f"skipped {len(left_out)} files: {', '.join(f'{kind} {count}' for kind, count in kinds)}"] * bool(
            kinds
        )
        for split, files in self.files.items():
            missing = sorted({*self.class_names} - {label for _, label in files})
            names = ", ".join(missing[:_CLASSES_NAMED]) + ", …" * (len(missing) > _CLASSES_NAMED)
            if missing:
                found.append(
                    f"the split {split!r} holds no image of {len(missing)} of the {len(self.class_names)} classes: {names}"
                )
        return [f"{FOLDER}{self.root}: {remark}" for remark in found]

    @property
    def split_sizes(self) -> dict[str, int]:
        return {split: len(files) for split, files in self.files.items()}

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({label for files in self.files.values() for _, label in files}))

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of all images. Without `image_size`, the first good image gives height and width."""
        height, width = self.image_size or self._first_size()
        return height, width, 3 if any(map(has_colors, self._paths)) else 1

    def _first_size(self) -> tuple[int, int]:
        """Height and width of the first image that can be decoded. The feeds name those that can't."""
        reasons = []
        for path in self._paths:
            try:
                return tuple(decode(tf.io.read_file(os.fsencode(path)), 3).shape[:2])
            except tf.errors.OpError as error:
                reasons.append(f"{path}: {short_reason(error)}")
        raise DataError(f"{self._named}: none of the {len(reasons)} images can be read; {reasons[0]}")

    @functools.cached_property
    def features(self) -> tfds.features.FeaturesDict:
        image = tfds.features.Image(shape=self.shape, dtype=np.uint8)
        return tfds.features.FeaturesDict(
            {"image": image, "label": tfds.features.ClassLabel(names=list(self.class_names))}
        )

    def open_split(self, split: str) -> ImageFiles:
        """A split in TFDS syntax, such as `train[:90%]`. Raises ValueError or KeyError if there is no such split."""
        infos = {
            name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
            for name, size in self.split_sizes.items()
        }
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        files = [file for part in parts for file in self.files[part.splitname][part.from_ : part.to]]
        labels = [self.class_names.index(label) for _, label in files]
        return ImageFiles(tuple(path for path, _ in files), tuple(labels), self.shape, self.image_size)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """A split of image files: the path and the class of each image."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    shape: tuple[int, int, int]
    image_size: tuple[int, int] | None = None

    @property
    def num_examples(self) -> int:
        return len(self.paths)

    @property
    def specs(self) -> dict[str, Any]:
        return {"x": tf.TensorSpec(self.shape, tf.uint8), "y": tf.TensorSpec([], tf.int64)}

    @property
    def listing(self) -> list[tuple[str, int, int]]:
        """The name, class and size in bytes of every file. Datasets with different lists are different datasets."""
        paths = map(pathlib.Path, self.paths)
        return [(path.name, label, path.stat().st_size) for path, label in zip(paths, self.labels, strict=True)]

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        """The samples at places `[B]` int64."""
        paths = tf.gather(tf.constant([os.fsencode(path) for path in self.paths]), index)
        labels = tf.gather(tf.constant(self.labels, tf.int64), index)
        return {"x": tf.map_fn(no_autograph(self._decode_one), paths, fn_output_signature=self.specs["x"]), "y": labels}

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The samples at places `start` to `stop - 1`, in batches."""
        index = tf.data.Dataset.range(start, stop).batch(READ_AT_ONCE)
        return index.map(no_autograph(self.gather), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def read_one(self, index: int) -> None:
        """Reads and decodes one image. Raises tf.errors.OpError if that fails."""
        self.gather(tf.constant([index], tf.int64))

    def describe(self, index: int) -> str:
        """The path of an image."""
        return self.paths[index]

    def _decode_one(self, path: tf.Tensor) -> tf.Tensor:
        image = decode(tf.io.read_file(path), self.shape[2])
        if self.image_size:
            return tf.ensure_shape(resize(tf.ensure_shape(image, [None, None, None]), self.image_size), self.shape)
        same = tf.reduce_all(tf.shape(image) == self.shape)
        size = "x".join(map(str, self.shape))
        tf.debugging.Assert(same, [f"not {size} like the first image (give image_size), but", tf.shape(image)])
        return tf.ensure_shape(image, self.shape)


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(pathlib.Path(entry.path) for entry in _entries(path) if entry.is_dir())


def _files(folder: pathlib.Path, *, deep: bool = True, above: tuple[pathlib.Path, ...] = ()) -> list[str]:
    """The files of a folder and, if `deep`, of the folders inside it, in the order of their paths.

    A link to a folder further up isn't followed.
    """
    here = (*above, folder.resolve())
    found = []
    for entry in _entries(folder):
        if not entry.is_dir():
            found.append(entry.path)
        elif deep and pathlib.Path(entry.path).resolve() not in here:
            found += _files(pathlib.Path(entry.path), above=here)
    return sorted(found)


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, apart from hidden files and those of file managers."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in _OF_FILE_MANAGERS
            ]
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror})") from None


def _images(paths: Iterable[str]) -> list[str]:
    """The images among files. A link whose file is gone isn't one."""
    return [path for path in paths if path.lower().endswith(IMAGE_SUFFIXES) and pathlib.Path(path).is_file()]


def _kind(path: str) -> str:
    """How a message calls a file that is left out: by its suffix."""
    suffix = os.fsencode(pathlib.Path(path).suffix.lower()).decode("utf-8", "backslashreplace") or "without a suffix"
    if not suffix.endswith(IMAGE_SUFFIXES):
        return suffix
    return f"{suffix} {'outside a class folder' if pathlib.Path(path).is_file() else 'that links to nothing'}"
