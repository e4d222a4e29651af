"""What the columns of a table hold: numbers, categories, text, or nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from loopwright.data.csv_rows import shown
from loopwright.data.errors import DataError

NUMBER, CATEGORY, TEXT, NOTHING = "number", "category", "text", "nothing"
#: What a task may say about whole numbers in a label.
AUTO, NUMBERS, CLASSES = "auto", "numbers", "classes"

_SHOWN_COLUMNS = 15
#: Values that mean "missing" in a column of numbers. In other columns only the empty value does.
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
#: More different values than this are text, and no classes either.
MOST_VALUES = 1000
#: Values that don't come twice each are still a category if they are as few and as short as this.
_FEW_VALUES, _SHORT_VALUE = 50, 30
#: Whole numbers from 0 on are classes if there are at most so many.
_MOST_NUMBERED_CLASSES = 20
_FLOAT32_MAX = float(np.finfo(np.float32).max)
#: A column with this part of numbers was probably meant to hold nothing else.
_NEARLY = 0.9


def number(text: str) -> float | None:
    """A value of a column of numbers: NaN if it is missing, and None if it isn't a number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan if text.lower() in _MISSING else None
    return value if text.isascii() and "_" not in text else None


def _plain_numbers(texts: Sequence[str]) -> np.ndarray | None:
    """Values of a column of numbers, float64 `[N]`, or None if one is missing, or is none that float32 can hold."""
    together = "\0".join(texts)
    if not together.isascii() or "_" in together:
        return None
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return numbers if (np.abs(numbers) <= _FLOAT32_MAX).all() else None


@dataclasses.dataclass
class Column:
    """What is known of a column after some of its values."""

    name: str
    rows: int = 0
    empty: int = 0
    numbers: int = 0
    longest: int = 0
    whole: bool = True
    #: The line and the text of the first value that is not a number, that float32 can't hold, that says "missing", and that
    #: is a whole number which float32 rounds.
    first_other: tuple[int, str] | None = None
    first_endless: tuple[int, str] | None = None
    first_marked: tuple[int, str] | None = None
    first_rounded: tuple[int, str] | None = None
    #: The first different values, for messages.
    first_values: list[str] = dataclasses.field(default_factory=list)
    #: How often each value came, in the order of appearance. None if there are too many.
    values: dict[str, int] | None = dataclasses.field(default_factory=dict)

    def add(self, lines: Sequence[int], texts: Sequence[str]) -> None:
        """Adds the values of some rows."""
        numbers = _plain_numbers(texts) if self.values is None and self.first_other is None else None
        if numbers is None:
            for line, text in zip(lines, texts, strict=True):
                self._add(line, text)
            return
        self.rows += len(texts)
        self.numbers += len(texts)
        self.whole = self.whole and bool((numbers == np.floor(numbers)).all())

    def _add(self, line: int, text: str) -> None:
        self.rows += 1
        if not text:
            self.empty += 1
            return
        value = number(text)
        if value is None:
            self.first_other = self.first_other or (line, text)
        elif math.isnan(value):
            self.first_marked = self.first_marked or (line, text)
        else:
            self.numbers += 1
            self.whole = self.whole and value.is_integer()
            if abs(value) > _FLOAT32_MAX:
                self.first_endless = self.first_endless or (line, text)
            elif value.is_integer() and float(np.float32(value)) != value:
                self.first_rounded = self.first_rounded or (line, text)
        if len(text) > self.longest:
            self.longest = len(text)
        if self.values is not None:
            self.values[text] = self.values.get(text, 0) + 1
            if len(self.first_values) < 3 and text not in self.first_values:
                self.first_values.append(text)
            if len(self.values) > MOST_VALUES:
                self.values = None

    @property
    def kind(self) -> str:
        """`number`, `category`, `text`, or `nothing` if no value is there."""
        if self.first_other is None:
            return NUMBER if self.numbers else NOTHING
        if self.values is None:
            return TEXT
        few = len(self.values) <= _FEW_VALUES and self.longest <= _SHORT_VALUE
        return CATEGORY if few or 2 * len(self.values) <= self.rows - self.empty else TEXT

    @property
    def missing(self) -> int:
        """The number of missing values."""
        return self.rows - self.numbers if self.kind == NUMBER else self.empty

    @property
    def remark(self) -> str | None:
        """What a user may not expect: a column that holds numbers but for a few values, or numbers that float32 rounds."""
        if self.kind == NUMBER and self.first_rounded:
            line, text = self.first_rounded
            return (
                f"{self.name}: float32 rounds {shown(text)} (line {line}) and its like; subtract a constant in the file"
            )
        if self.first_other is None or self.numbers < _NEARLY * (self.rows - self.empty):
            return None
        line, text = self.first_other
        return (
            f"{self.name}: {self.numbers:,} of {self.rows - self.empty:,} values are numbers, but {shown(text)} (line "
            f"{line}) isn't, so the column is {self.kind}"
        )

    def check(self) -> None:
        """Raises DataError (exit 2) for a number that float32 can't hold."""
        if self.first_endless and self.kind == NUMBER:
            line, text = self.first_endless
            raise DataError(
                f"line {line}: {self.name!r} holds {shown(text)}, which float32 can't hold; repair it", exit_code=2
            )


@dataclasses.dataclass(frozen=True)
class Label:
    """What a label holds: numbers, or one of several classes.

    Attributes:
      names: of the classes, in the order of their numbers; empty if the label holds numbers.
      class_of: the number of the class that a value stands for.
    """

    name: str
    names: tuple[str, ...] = ()
    class_of: Mapping[str, int] = dataclasses.field(default_factory=dict)


def label_of(column: Column, task: str) -> Label:
    """What a label holds. With `task`, whole numbers are `numbers` or `classes`; with `auto`, the values decide.

    Words are classes. Whole numbers are classes if they are 0, 1, … without a gap and at most 20, or if there are only two.

    Raises DataError (exit 2) for a label that holds text, fractions where classes are wanted, words where numbers are, a
    single value, or both numbers and missing values.
    """
    column.check()
    name, kind, values = column.name, column.kind, column.values
    if kind == NUMBER and column.first_marked:
        line, text = column.first_marked
        raise DataError(f"line {line}: the label {name!r} is missing ({text!r}); leave the row out", exit_code=2)
    if values is not None and len(values) == 1:
        raise DataError(
            f"the label {name!r} has only one value ({shown(next(iter(values)))}); it needs two or more", exit_code=2
        )
    if kind == NUMBER and (task == NUMBERS or (task == AUTO and not _are_classes(column))):
        return Label(name)
    if task == NUMBERS and column.first_other:
        line, text = column.first_other
        raise DataError(f"line {line}: the label {name!r} is {shown(text)}, and the task needs numbers", exit_code=2)
    if values is None or kind == TEXT or not (column.whole or kind != NUMBER):
        what = "fractions" if kind == NUMBER and not column.whole else "too many different values for classes"
        raise DataError(
            f"the label {name!r} holds {what} ({', '.join(map(shown, column.first_values))}, …); name another column with "
            "label_key",
            exit_code=2,
        )
    broken = next((text for text in values if len(text.splitlines()) > 1), None)
    if broken:
        raise DataError(
            f"the label {name!r} holds {shown(broken)}, and the name of a class must be one line", exit_code=2
        )
    classes = {text: str(int(float(text))) if kind == NUMBER else text for text in values}
    names = sorted({*classes.values()}, key=int if kind == NUMBER else None)
    return Label(name, tuple(names), {text: names.index(of) for text, of in classes.items()})


def _are_classes(column: Column) -> bool:
    if not column.whole or column.values is None:
        return False
    numbers = sorted({int(float(text)) for text in column.values})
    return len(numbers) == 2 or numbers == list(range(min(len(numbers), _MOST_NUMBERED_CLASSES)))


def described(columns: Mapping[int, Column], labels: Mapping[int, Label]) -> str:
    """Columns by their places, in words: `age number, town category (5), label spam classes (2: ham, spam)`."""
    words = {}
    for place, column in columns.items():
        if place in labels:
            names = labels[place].names
            few = ", ".join(names[:3]) + ", …" * (len(names) > 3)
            words[place] = f"label {column.name} " + (f"classes ({len(names)}: {few})" if names else NUMBER)
        else:
            count = f" ({len(column.values or ())})" if column.kind == CATEGORY else ""
            words[place] = f"{column.name} {column.kind}{count}"
    first = [words[place] for place in [*words][:_SHOWN_COLUMNS]]
    rest = [words[place] for place in [*words][_SHOWN_COLUMNS:] if place in labels]
    more = len(words) - len(first) - len(rest)
    return ", ".join([*first, *([f"{more} more columns"] if more else []), *rest])
