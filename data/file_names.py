"""Names of datasets that are files: `csv:PATH`, `npz:PATH` and `text:FOLDER`. Imports no TensorFlow."""

from __future__ import annotations

import pathlib
import re

#: The prefixes of the names.
CSV, NPZ, TEXT = FILES = ("csv:", "npz:", "text:")

#: The version under which files are prepared. A change of what is written for the same files needs a new one.
VERSION = "1.0.0"

_SUFFIXES = (".gz", ".csv", ".tsv", ".npz")
_LETTERS_OF_A_NAME = 40


def is_files(dataset: str) -> bool:
    """Whether the name of a dataset is that of a file or a folder that is prepared here."""
    return dataset.startswith(FILES)


def split_name(dataset: str) -> tuple[str, str]:
    """The prefix and the path of a name: `csv:` and `/data/houses.csv`."""
    kind, colon, path = dataset.partition(":")
    return kind + colon, path


def builder_name(dataset: str, digest: str) -> str:
    """The name under which TFDS keeps files of a content: `csv_california_housing_1a2b3c4d`."""
    kind, path = split_name(dataset)
    name = pathlib.Path(path).absolute().name.lower()
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    words = re.sub(r"[^a-z0-9]+", "_", name).strip("_")[:_LETTERS_OF_A_NAME]
    return f"{kind.removesuffix(':')}_{words or 'data'}_{digest[:8]}"


def moved_name(dataset: str, full_name: str) -> str:
    """The full name that files would have if they lay where another name says.

    `full_name` is that of a dataset of the same kind. The digest in it stays, so that files of the same content have the
    same full name here, wherever they lie and whatever they are called.
    """
    return f"{builder_name(dataset, full_name.partition('/')[0].rpartition('_')[2])}/{VERSION}"
