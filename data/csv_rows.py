"""Reading CSV files row by row: the delimiter, the quotes, the encoding and the length of rows."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import itertools
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from loopwright.data.errors import DataError, first_line

_DELIMITERS = (",", "\t", ";", "|")
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_LETTERS_SNIFFED = 1 << 16
_ROWS_SNIFFED = 1000
#: Letters of a value that a message shows.
_SHOWN = 30

#: A line number, as an editor counts, and the values of a row without the blanks around them.
Row = tuple[int, list[str]]


@dataclasses.dataclass(frozen=True)
class CsvFile:
    """A CSV file and how it is read.

    Attributes:
      delimiter: the character between values.
      quoted: whether quotes enclose values, as Python's csv module reads them, or are part of the text.
    """

    path: pathlib.Path
    delimiter: str
    quoted: bool

    @classmethod
    def of(cls, path: pathlib.Path) -> CsvFile:
        """Finds the delimiter and the meaning of quotes. Raises DataError for a file that can't be read or is empty."""
        delimiter = _delimiter(path)
        return cls(path, delimiter, _quoted(path, delimiter))

    @property
    def remarks(self) -> list[str]:
        """What differs from what the name of the file promises."""
        usual = _DELIMITERS[1] if ".tsv" in self.path.suffixes else _DELIMITERS[0]
        found = [f"the delimiter is a {_NAMES[self.delimiter]}"] if self.delimiter != usual else []
        return found + ([] if self.quoted else ["quotes are part of the text, they don't enclose values"])

    def rows(self) -> Iterator[Row]:
        """All rows, whatever their length. Blank lines are left out.

        Bytes that aren't UTF-8 come as lone surrogates, which `why_bad_text` finds. Raises DataError where a quote is
        wrong or a value is longer than 131,072 characters.
        """
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        with reading(self.path), open_text(self.path) as file:
            reader = csv.reader(file, delimiter=self.delimiter, quoting=quoting, strict=self.quoted)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, [value.strip() for value in row]
            except csv.Error as error:
                remedy = "put long texts into files and use text:FOLDER" if "limit" in str(error) else "repair it"
                raise DataError(f"{self.path}, line {reader.line_num}: {error}; {remedy}", exit_code=2) from None

    def good_rows(self, width: int, skip: int, required: tuple[int, ...], bad: Callable[[str], None]) -> Iterator[Row]:
        """The rows after the first `skip` that hold `width` values of UTF-8, and one at each `required` place.

        `bad` is called with what is wrong with any other row.
        """
        for line, row in itertools.islice(self.rows(), skip, None):
            reason = self._why_bad(row, width, required)
            if reason is None:
                yield line, row
            else:
                bad(f"{self.path.name}, line {line}: {reason}")

    def _why_bad(self, row: list[str], width: int, required: tuple[int, ...]) -> str | None:
        if len(row) != width:
            return f"this row holds {len(row)} values, not {width}"
        for place in required:
            if not row[place]:
                return f"the label (column {place + 1}) is missing"
        return why_bad_text("\0".join(row), width - 1)

    def sample(self) -> list[Row]:
        """The first rows, at most a thousand. Raises DataError if there are none."""
        found = list(itertools.islice(self.rows(), _ROWS_SNIFFED))
        if not found:
            raise DataError(f"{self.path}: the file is empty", exit_code=2)
        return found


def why_bad_text(text: str, nulls: int = 0) -> str | None:
    """What is wrong with a text that was read with `surrogateescape`, or None. It may hold `nulls` null characters."""
    if text.count("\0") != nulls:
        return "it holds null characters; save the file as UTF-8"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        return f"the byte 0x{byte:02x} is not UTF-8; convert the file, such as with iconv -f latin1 -t utf-8"
    return None


def open_text(path: pathlib.Path) -> TextIO:
    """A text file, compressed if its name ends in `.gz`. A byte order mark is left out."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turns errors of the file system and of gzip into a DataError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{path} can't be read ({reason})", exit_code=2) from None


def shown(text: str) -> str:
    """A value as messages show it: quoted, and cut if it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _delimiter(path: pathlib.Path) -> str:
    """The delimiter of the suffix if the first lines agree with it, or else the one that gives the most columns."""
    usual = _DELIMITERS[1] if ".tsv" in path.suffixes else _DELIMITERS[0]
    with reading(path), open_text(path) as file:
        text = file.read(_LETTERS_SNIFFED)
        complete = not file.read(1)
    lines = [line for line in text.splitlines() if line.strip()]
    lines = lines if complete or len(lines) < 2 else lines[:-1]
    if not lines:
        raise DataError(f"{path}: the file is empty", exit_code=2)
    widths = {delimiter: _widths(lines, delimiter) for delimiter in (usual, *_DELIMITERS)}
    agreed = [delimiter for delimiter, found in widths.items() if len({*found}) == 1 and found[0] > 1]
    if usual in agreed:
        return usual
    if agreed:
        return max(agreed, key=lambda delimiter: widths[delimiter][0])
    return max(widths, key=lambda delimiter: widths[delimiter][0])  # The rows differ: reading them names the line.


def _widths(lines: list[str], delimiter: str) -> list[int]:
    try:
        return [len(row) for row in csv.reader(lines, delimiter=delimiter)] or [0]
    except csv.Error:
        return [0]


def _quoted(path: pathlib.Path, delimiter: str) -> bool:
    """Whether quotes enclose values.

    They don't if all lines have the same number of values without them, and most values with a quote have it in their
    midst. Such files are common among those with tabs: a quote that is never closed would swallow the next lines.
    """
    whole = re.compile(r'\s*"(?:[^"]|"")*"\s*')
    width, enclosed, inside = 0, 0, 0
    with reading(path), open_text(path) as file:
        for line in file:
            values = line.rstrip("\r\n").split(delimiter)
            if values == [""]:
                continue
            width = width or len(values)
            if len(values) != width:
                return True
            if '"' in line:
                with_quotes = [value for value in values if '"' in value]
                good = sum(bool(whole.fullmatch(value)) for value in with_quotes)
                enclosed, inside = enclosed + good, inside + len(with_quotes) - good
    return inside <= enclosed
