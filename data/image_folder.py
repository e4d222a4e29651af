"""`folder:PATH`: a dataset that is a folder of images, one folder a class."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import random
from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data.decoding import resize
from loopwright.data.errors import DataError
from loopwright.data.records import first_line
from loopwright.data.splits import READ_AT_ONCE
from loopwright.data.stacked_feed import plain

_SUFFIXES = (".jpg", ".jpeg", ".png")  # those of tfds.folder_dataset.ImageFolder
#: The first bytes of a PNG file; where it says which colors it has, and how it says gray, without and with transparency.
_PNG, _PNG_COLOR_TYPE, _PNG_GRAY = b"\x89PNG\r\n\x1a\n", 25, (b"", b"\0", b"\4")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """A folder of images: `PATH/SPLIT/CLASS/*.png`, or `PATH/CLASS/*.png`, which is all one split named `train`.

    Images come in the order of `tfds.folder_dataset.ImageFolder`: shuffled, the same on every machine. They are gray where
    all of them are, else RGB.

    Raises DataError for a folder that isn't there, holds no images, holds images in both ways, holds no image of some class,
    or one class only.
    """

    root: pathlib.Path
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise DataError(f"--dataset=folder:{self.root}: no such folder", exit_code=2)
        if not self.split_sizes:
            raise DataError(
                f"--dataset=folder:{self.root}: no images found; put them into {self.root}/train/CLASS/ and "
                f"{self.root}/test/CLASS/, or into {self.root}/CLASS/ ({', '.join(_SUFFIXES)})"
            )
        for split, files in self.files.items():
            for name in self.class_names:
                if not any(label == name for _, label in files):
                    raise DataError(f"{self.root}: the split {split!r} holds no image of the class {name!r}")
        if len(self.class_names) < 2:
            raise DataError(f"{self.root}: one class only ({self.class_names[0]!r}); a classifier needs two or more")

    @functools.cached_property
    def files(self) -> dict[str, list[tuple[str, str]]]:
        """Path and class of each image, by split."""
        flat = next((folder for folder in _folders(self.root) if _images(folder)), None)
        deep = next((sub for folder in _folders(self.root) for sub in _folders(folder) if _images(sub)), None)
        if flat and deep:
            raise DataError(
                f"--dataset=folder:{self.root}: images both in {flat} and in {deep}; a folder is SPLIT/CLASS/ or CLASS/ "
                "throughout: move one of them away"
            )
        roots = {"train": self.root} if flat else {folder.name: folder for folder in _folders(self.root)}
        files = {}
        for split, root in roots.items():
            files[split] = [(path, folder.name) for folder in _folders(root) for path in _images(folder)]
            random.Random(split).shuffle(files[split])
        return {split: found for split, found in files.items() if found}

    @property
    def split_sizes(self) -> dict[str, int]:
        return {split: len(files) for split, files in self.files.items()}

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({label for files in self.files.values() for _, label in files}))

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width (those of the first image, unless there is an `image_size`) and channels."""
        paths = [path for files in self.files.values() for path, _ in files]
        try:
            image = tf.io.decode_image(tf.io.read_file(os.fsencode(paths[0])), expand_animations=False)
        except tf.errors.OpError as error:
            raise DataError(f"{paths[0]}: {first_line(error)}") from None
        height, width = self.image_size or image.shape[:2]
        return height, width, 3 if any(map(_is_colored, paths)) else 1

    @functools.cached_property
    def features(self) -> tfds.features.FeaturesDict:
        image = tfds.features.Image(shape=self.shape, dtype=np.uint8)
        return tfds.features.FeaturesDict(
            {"image": image, "label": tfds.features.ClassLabel(names=list(self.class_names))}
        )

    def open_split(self, split: str) -> ImageFiles:
        """A split in TFDS syntax, such as `train[:90%]`. Raises ValueError or KeyError for one that isn't there."""
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
    """A split of image files: their paths and, for each, its class."""

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
        """Name, class and bytes of every file: another list is another dataset."""
        paths = map(pathlib.Path, self.paths)
        return [(path.name, label, path.stat().st_size) for path, label in zip(paths, self.labels, strict=True)]

    def gather(self, index: tf.Tensor) -> dict[str, Any]:
        """The samples of places `[B]` int64."""
        paths = tf.gather(tf.constant([os.fsencode(path) for path in self.paths]), index)
        labels = tf.gather(tf.constant(self.labels, tf.int64), index)
        return {"x": tf.map_fn(plain(self._decode_one), paths, fn_output_signature=self.specs["x"]), "y": labels}

    def in_order(self, start: int, stop: int, *, bad: Collection[int] = ()) -> tf.data.Dataset:
        """The samples of a range of places, in batches."""
        index = tf.data.Dataset.range(start, stop).batch(READ_AT_ONCE)
        return index.map(plain(self.gather), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def read_one(self, index: int) -> None:
        """Reads and decodes one image. Raises tf.errors.OpError if that can't be done."""
        self.gather(tf.constant([index], tf.int64))

    def describe(self, index: int) -> str:
        """Where a sample lies."""
        return self.paths[index]

    def _decode_one(self, path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(path), channels=self.shape[2], expand_animations=False)
        if self.image_size:
            return tf.ensure_shape(resize(tf.ensure_shape(image, [None, None, None]), self.image_size), self.shape)
        same = tf.reduce_all(tf.shape(image) == self.shape)
        size = "x".join(map(str, self.shape))
        tf.debugging.Assert(same, [f"not {size} as the first image is (give --image_size), but", tf.shape(image)])
        return tf.ensure_shape(image, self.shape)


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(path: pathlib.Path) -> list[str]:
    return sorted(
        str(entry)
        for entry in path.iterdir()
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def _is_colored(path: str) -> bool:
    """Whether a PNG or JPEG file says that it has colors; one that can't be read says nothing."""
    with pathlib.Path(path).open("rb") as file:
        data = file.read(_PNG_COLOR_TYPE + 1)
        if data.startswith(_PNG):
            return data[_PNG_COLOR_TYPE:] not in _PNG_GRAY
        data += file.read()
    try:
        return int(tf.io.extract_jpeg_shape(data)[2]) > 1
    except tf.errors.OpError:
        return False
