"""`csv:PATH`: a table, or a folder with a table for each split.

A table is read twice, row by row: once to find out what its columns hold, and once to write its rows as records.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from loopwright.data import file_builder
from loopwright.data.csv_columns import MOST_VALUES, NOTHING, NUMBER, Column, Label, described, label_of, number
from loopwright.data.csv_rows import CsvFile, Row, shown
from loopwright.data.errors import DataError
from loopwright.data.file_builder import SPLITS, UNDIVIDED, Files, SourceFile, Wanted, divide, nearest, no_such
from loopwright.data.file_records import serializer

_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
#: A column of this name is the label if no other is named.
_LABELS = ("label", "target", "class")
#: Columns that a message names.
_NAMED = 20
_ROWS_AT_ONCE = 512
#: With names given, the first line is a header if its value in some column comes nowhere else in the first thousand rows,
#: while all other values of the column come as often as this.
_OFTEN = 5


def find(dataset: str, path: pathlib.Path) -> Files:
    """The files of each split. Raises DataError (exit 2) if there are none."""
    if path.is_file():
        return {UNDIVIDED: [SourceFile(path)]}
    if not path.is_dir():
        raise no_such(dataset, path, "file")
    found: dict[str, list[SourceFile]] = {}
    others = []
    for entry in sorted(path.iterdir()):
        suffix = next((suffix for suffix in _SUFFIXES if entry.name.lower().endswith(suffix)), None)
        split = SPLITS.get(entry.name.lower().removesuffix(suffix)) if suffix else None
        if split in found:
            raise DataError(
                f"dataset={dataset!r}: both {found[split][0].path.name} and {entry.name} are {split!r}", exit_code=2
            )
        if split:
            found[split] = [SourceFile(entry)]
        elif suffix:
            others.append(entry.name)
    if "train" not in found:
        holds = f"it holds {', '.join(others[:_NAMED])}; give the path of one" if others else "it holds no CSV file"
        raise DataError(f"dataset={dataset!r}: there is no train.csv in this folder, and {holds}", exit_code=2)
    if len(found) == 1:
        return {UNDIVIDED: found["train"]}
    return {"train": found.pop("train"), **found}


def survey(dataset: str, files: Files, wanted: Wanted) -> Table:
    """Looks through all rows. Raises DataError (exit 2) for a table that can't be trained on, in one line."""
    tables = {split: CsvFile.of(chosen[0].path) for split, chosen in files.items()}
    names, skip = _columns(dataset, tables, wanted)
    places = _label_places(dataset, names, wanted)
    columns = [Column(name) for name in names]
    values = {split: [_Values() for _ in places] for split in tables}
    left_out: list[str] = []

    def bad(reason: str) -> None:
        left_out.append(reason)
        file_builder.refuse_bad(dataset, left_out, wanted.max_bad_records)

    sizes = dict.fromkeys(tables, 0)
    for split, table in tables.items():
        for lines, *by_column in _blocks(table.good_rows(len(names), skip, places, bad)):
            sizes[split] += len(lines)
            for column, texts in zip(columns, by_column, strict=True):
                column.add(lines, texts)
            for place, found in zip(places, values[split], strict=True):
                found.add(by_column[place])
        if sizes[split] == 0:
            beside = " beside its header" if skip else ""
            raise DataError(f"dataset={dataset!r}: {table.path.name} holds no rows{beside}", exit_code=2)
    try:
        for column in columns:
            column.check()
        labels = {place: label_of(columns[place], wanted.task) for place in places}
    except DataError as error:
        raise DataError(f"dataset={dataset!r}: {error}", exit_code=2) from None
    classes = {
        split: {
            label.name: found.classes(label)
            for label, found in zip(labels.values(), of_split, strict=True)
            if label.names
        }
        for split, of_split in values.items()
    }
    sizes, test = _divided(dataset, sizes, classes, labels.values())
    return Table(tables, skip, columns, labels, sizes, test, left_out)


def _blocks(rows: Iterator[Row]) -> Iterator[list[Any]]:
    """Rows by columns: the lines of some rows, and then the values of each column."""
    while block := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        yield [[line for line, _ in block], *zip(*(row for _, row in block), strict=True)]


class _Values:
    """The values of a label in the order of the rows, as long as they may be classes."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows = array.array("H")

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            if len(self._numbers) > MOST_VALUES:
                return
            self._rows.append(self._numbers.setdefault(text, len(self._numbers)))

    def classes(self, label: Label) -> np.ndarray:
        """The class of each row, int64 `[N]`."""
        return np.array([label.class_of[text] for text in self._numbers], np.int64)[np.array(self._rows)]


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table that was looked through (a `file_builder.Source`).

    Attributes:
      files: the file of each split.
      skip: the number of rows before the data: 1 if there is a header.
      columns: what each column holds. One without a name or without any value isn't a feature.
      labels: what the labels hold, by the places of their columns.
      sizes: the number of rows in each split.
      test: for a table that isn't divided, which rows are for testing.
    """

    files: Mapping[str, CsvFile]
    skip: int
    columns: Sequence[Column]
    labels: Mapping[int, Label]
    sizes: dict[str, int]
    test: np.ndarray | None
    left_out: list[str]

    @functools.cached_property
    def _kept(self) -> dict[int, Column]:
        return {place: column for place, column in enumerate(self.columns) if column.name and column.kind != NOTHING}

    @functools.cached_property
    def features(self) -> tfds.features.FeaturesDict:
        """A number is a float32 Scalar, NaN where it is missing. The `doc` of a Text is `category` or `text`."""
        features = {column.name: self._feature(place) for place, column in self._kept.items()}
        return tfds.features.FeaturesDict(dict(sorted(features.items())))

    def _feature(self, place: int) -> Any:
        column = self.columns[place]
        if place in self.labels and self.labels[place].names:
            return tfds.features.ClassLabel(names=list(self.labels[place].names))
        return tfds.features.Scalar(np.float32) if column.kind == NUMBER else tfds.features.Text(doc=column.kind)

    @property
    def supervised_keys(self) -> Any:
        """All columns but the labels, and the labels. None without a label."""
        inputs = [column.name for place, column in self._kept.items() if place not in self.labels]
        return (
            (_one_or_all(inputs), _one_or_all([label.name for label in self.labels.values()])) if self.labels else None
        )

    def records(self, split: str) -> Iterator[tuple[int, bytes]]:
        serialize = serializer(self.features)
        readers = [(place, column.name, self._reader(place)) for place, column in self._kept.items()]
        file = self.files[split if self.test is None else UNDIVIDED]
        rows = file.good_rows(len(self.columns), self.skip, tuple(self.labels), lambda reason: None)
        for key, (_, row) in enumerate(rows):
            if self.test is None or self.test[key] == (split == "test"):
                yield key, serialize({name: read(row[place]) for place, name, read in readers})

    def _reader(self, place: int) -> Callable[[str], Any]:
        if place in self.labels and self.labels[place].names:
            return self.labels[place].class_of.__getitem__
        return number if self.columns[place].kind == NUMBER else str.encode

    @functools.cached_property
    def remarks(self) -> list[str]:
        """What was found: columns and their types, missing values, splits, and what may surprise."""
        kept = list(self._kept.values())
        missing = [f"{column.missing:,} values of {column.name} missing" for column in kept if column.missing]
        many = [f"{len(missing) - _NAMED} more columns with missing values"] if len(missing) > _NAMED else []
        found = [", ".join([described(self._kept, self.labels), *missing[:_NAMED], *many])]
        found += dict.fromkeys(remark for file in self.files.values() for remark in file.remarks)
        nameless = [f"column {place + 1}" for place, column in enumerate(self.columns) if not column.name]
        empty = [column.name for column in self.columns if column.name and column.kind == NOTHING]
        found += [f"{', '.join(nameless)} has no name and is left out"] if nameless else []
        found += [f"{', '.join(empty[:_NAMED])}: no value in any row, left out"] if empty else []
        found += [column.remark for column in kept if column.remark]
        sizes = ", ".join(f"{split} {size:,}" for split, size in self.sizes.items())
        return [*found, f"{sizes} rows" + ("" if self.test is None else ", divided 80/20 by the numbers of the rows")]


def _one_or_all(names: Sequence[str]) -> Any:
    return names[0] if len(names) == 1 else tuple(names)


def _divided(
    dataset: str, sizes: dict[str, int], classes: Mapping[str, Mapping[str, np.ndarray]], labels: Iterable[Label]
) -> tuple[dict[str, int], np.ndarray | None]:
    """The sizes of the splits, and which rows of a single file are for testing. Training must see all classes."""
    if UNDIVIDED in sizes:
        count = sizes[UNDIVIDED]
        test = divide(dataset, count, list(classes[UNDIVIDED].values()))
        return {"train": int((~test).sum()), "test": int(test.sum())}, test
    for split, found in classes.items():
        for label in labels:
            if label.names:
                train = classes["train"][label.name]
                file_builder.refuse_unseen(dataset, split, label.name, label.names, train, found[label.name])
    return sizes, None


def _columns(dataset: str, tables: Mapping[str, CsvFile], wanted: Wanted) -> tuple[list[str], int]:
    """The names of the columns, and the number of rows before the data. All files must have the same."""
    first, *others = tables.values()
    sample = first.sample()
    header = sample[0][1]
    if not wanted.columns:
        _check_header(dataset, first, header)
        names, skip = header, 1
    else:
        names = list(wanted.columns)
        if len(names) != len(header):
            raise DataError(
                f"columns={','.join(names)!r} names {len(names)} columns, and line {sample[0][0]} of {first.path.name} "
                f"holds {len(header)} values",
                exit_code=2,
            )
        skip = int(_is_header([row for _, row in sample], names))
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice:
        raise DataError(
            f"dataset={dataset!r}: two columns are called {twice!r}; name them apart with columns", exit_code=2
        )
    for other in others if skip else ():
        found = next(other.rows(), (0, []))[1]
        if found != header:
            raise DataError(
                f"dataset={dataset!r}: {other.path.name} doesn't begin with the header of {first.path.name} "
                f"({_listed(header)}), but with {_listed(found)}; give both files the same, or give the path of one file",
                exit_code=2,
            )
    return names, skip


def _check_header(dataset: str, file: CsvFile, header: list[str]) -> None:
    """Raises DataError (exit 2) for a first row that holds numbers, and so isn't a header."""
    numbers = [value for value in header if value and number(value) is not None]
    data = next((value for value in numbers if not value.isdigit()), None)
    if data or (numbers and len(numbers) == len(header)):
        raise DataError(
            f"dataset={dataset!r}: {file.path.name} begins with {shown(data or numbers[0])}, which is no name of a column; "
            "for a file without a header give columns, such as columns='age,income,label'",
            exit_code=2,
        )


def _is_header(rows: list[list[str]], names: list[str]) -> bool:
    """Whether the first of the rows is a header although names are given."""
    first, others = rows[0], [row for row in rows[1:] if len(row) == len(names)]
    if [name.lower() for name in first] == [name.lower() for name in names]:
        return True
    for place, value in enumerate(first):
        below = collections.Counter(row[place] for row in others)
        if below and number(value) is None and all(number(text) is not None for text in below):
            return True
        if number(value) is None and len(below) > 1 and value not in below and min(below.values()) >= _OFTEN:
            return True
    return False


def _label_places(dataset: str, names: list[str], wanted: Wanted) -> tuple[int, ...]:
    """The places of the labels among the columns. Raises DataError (exit 2) for one that isn't there."""
    labels = wanted.labels
    if not labels and wanted.task == "none":
        return ()
    if not labels:
        labels = tuple(name for name in names if name.lower() in _LABELS)
        if len(labels) != 1:
            raise DataError(
                f"dataset={dataset!r}: name the column that is the label with label_key, out of {_listed(names)} (if this "
                "is no header, give columns)",
                exit_code=2,
            )
    for label in labels:
        if label not in names:
            raise DataError(
                f"label_key={label!r}: no such column of {dataset} ({_listed(names)}){nearest(label, names)}",
                exit_code=2,
            )
    if len({*labels}) == len({*filter(None, names)}):
        raise DataError(f"dataset={dataset!r}: there is no column beside the label; training needs inputs", exit_code=2)
    return tuple(names.index(label) for label in dict.fromkeys(labels))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_cut, names[:_NAMED])) + (f", … {len(names)} in all" if len(names) > _NAMED else "")


def _cut(name: str) -> str:
    return shown(name)[1:-1]
