"""`folder:PATH`: a dataset that is a folder of images, with a folder for each class."""

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

from loopwright.data.autograph import no_autograph
from loopwright.data.decoding import resize
from loopwright.data.errors import DataError, short_reason
from loopwright.data.splits import READ_AT_ONCE

#: The prefix of such a dataset's name.
FOLDER = "folder:"

_SUFFIXES = (".jpg", ".jpeg", ".png")  # those of tfds.folder_dataset.ImageFolder
#: The first bytes of a PNG file, the place of its color type, and the color types of gray (with transparency: 4).
_PNG, _PNG_COLOR_TYPE, _PNG_GRAY = b"\x89PNG\r\n\x1a\n", 25, (b"", b"\0", b"\4")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """A folder of images: `PATH/SPLIT/CLASS/*.png`, or `PATH/CLASS/*.png`, which makes a single split named `train`.

    Images come in the order of `tfds.folder_dataset.ImageFolder`: shuffled, but the same on every machine. They are
    gray if all of them are gray, and RGB otherwise.

    Raises DataError if the folder doesn't exist, holds no images, mixes the two layouts, has a split without images of
    some class, or has fewer than two classes.
    """

    root: pathlib.Path
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise DataError(f"{self._named}: no such folder", exit_code=2)
        if not self.split_sizes:
            raise DataError(
                f"{self._named}: no images found; put them into {self.root}/train/CLASS/ and {self.root}/test/CLASS/, "
                f"or into {self.root}/CLASS/ ({', '.join(_SUFFIXES)})"
            )
        for split, files in self.files.items():
            for name in self.class_names:
                if not any(label == name for _, label in files):
                    raise DataError(
                        f"{self._named}: the split {split!r} holds no image of the class {name!r}; every split needs "
                        "images of every class"
                    )
        if len(self.class_names) < 2:
            raise DataError(
                f"{self._named}: there is only one class ({self.class_names[0]!r}); a classifier needs two or more"
            )

    @property
    def _named(self) -> str:
        """How messages name this folder."""
        name = f"{FOLDER}{self.root}"
        return f"dataset={name!r}"

    @functools.cached_property
    def files(self) -> dict[str, list[tuple[str, str]]]:
        """The path and the class of each image, by split."""
        flat = next((folder for folder in _folders(self.root) if _images(folder)), None)
        deep = next((sub for folder in _folders(self.root) for sub in _folders(folder) if _images(sub)), None)
        if flat and deep:
            raise DataError(
                f"{self._named}: there are images both in {flat} and in {deep}; a folder is either SPLIT/CLASS/ or "
                "CLASS/ throughout: move one of the two away"
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
        """Height, width and channels of all images. Without `image_size`, the first image gives height and width."""
        paths = [path for files in self.files.values() for path, _ in files]
        try:
            image = tf.io.decode_image(tf.io.read_file(os.fsencode(paths[0])), expand_animations=False)
        except tf.errors.OpError as error:
            raise DataError(f"{paths[0]}: {short_reason(error)}; repair or delete this image") from None
        height, width = self.image_size or image.shape[:2]
        return height, width, 3 if any(map(_is_colored, paths)) else 1

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
        image = tf.io.decode_image(tf.io.read_file(path), channels=self.shape[2], expand_animations=False)
        if self.image_size:
            return tf.ensure_shape(resize(tf.ensure_shape(image, [None, None, None]), self.image_size), self.shape)
        same = tf.reduce_all(tf.shape(image) == self.shape)
        size = "x".join(map(str, self.shape))
        tf.debugging.Assert(same, [f"not {size} like the first image (give image_size), but", tf.shape(image)])
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
    """Whether the header of a PNG or JPEG file says that the image has colors. False for a damaged file."""
    with pathlib.Path(path).open("rb") as file:
        data = file.read(_PNG_COLOR_TYPE + 1)
        if data.startswith(_PNG):
            return data[_PNG_COLOR_TYPE:] not in _PNG_GRAY
        data += file.read()
    try:
        return int(tf.io.extract_jpeg_shape(data)[2]) > 1
    except tf.errors.OpError:
        return False
