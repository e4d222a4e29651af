"""Arrays in a NumPy `.npz` file, read in blocks of rows. Pickled objects are never loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from loopwright.data.errors import DataError, first_line

_BYTES_A_BLOCK = 1 << 24


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in an `.npz` file: its shape `[N, ...]` and dtype are read from its header."""

    path: pathlib.Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @classmethod
    def of(cls, path: pathlib.Path, file: zipfile.ZipFile, member: str) -> StoredArray:
        with file.open(member) as stream:
            return cls(path, member.removesuffix(".npy"), *_header(stream))

    @property
    def described(self) -> str:
        return f"{self.name} {self.dtype} {[*self.shape]}"

    @property
    def kind(self) -> str:
        """`words`, `truth`, `whole` or `fractions`."""
        return {"U": "words", "S": "words", "b": "truth", "f": "fractions"}.get(self.dtype.kind, "whole")

    def rows(self) -> Iterator[np.ndarray]:
        """The samples, one by one."""
        return (np.asarray(row) for block in self.blocks() for row in block)

    def blocks(self) -> Iterator[np.ndarray]:
        """The array in blocks of rows. Raises DataError for a file that is damaged."""
        try:
            yield from self._blocks()
        except _ERRORS as error:
            raise DataError(f"{self.path}: the array {self.name!r} can't be read ({first_line(error)})") from None

    def _blocks(self) -> Iterator[np.ndarray]:
        if self.fortran and len(self.shape) > 1:  # Its rows don't lie together.
            with np.load(self.path, allow_pickle=False) as arrays:
                yield np.ascontiguousarray(arrays[self.name])
            return
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        rows = max(1, _BYTES_A_BLOCK // max(1, row))
        with zipfile.ZipFile(self.path) as file, file.open(f"{self.name}.npy") as stream:
            _header(stream)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                found = stream.read(count * row)
                if len(found) < count * row:
                    raise EOFError("it is cut off")
                yield np.frombuffer(found, self.dtype).reshape(count, *self.shape[1:])


#: What a file that is not one of NumPy's raises, or one that is damaged.
_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def stored_arrays(dataset: str, path: pathlib.Path) -> dict[str, StoredArray]:
    """All arrays of a file by their names. Those of objects and records are refused."""
    with zipfile.ZipFile(path) as file:
        found = [StoredArray.of(path, file, member) for member in file.namelist() if member.endswith(".npy")]
    if not found:
        raise DataError(f"dataset={dataset!r}: the file holds no arrays", exit_code=2)
    for array in found:
        objects = array.dtype.hasobject
        if objects or array.dtype.names or array.dtype.kind not in "biufUS" or array.dtype == np.uint64:
            remedy = "save sequences of differing length padded" if objects else "save other numbers, such as int64"
            raise DataError(
                f"dataset={dataset!r}: the array {array.name!r} is of dtype {array.dtype}, which isn't loaded; {remedy}",
                exit_code=2,
            )
    return {array.name: array for array in found}


@contextlib.contextmanager
def explained(dataset: str) -> Iterator[None]:
    """Turns errors of a file that isn't one of NumPy's into a DataError."""
    try:
        yield
    except _ERRORS as error:
        raise DataError(
            f"dataset={dataset!r}: it can't be read as an .npz file ({first_line(error)})", exit_code=2
        ) from None


class Seen(NamedTuple):
    """What was seen of an array: its lowest and highest value, and whether each row holds a single 1 and else 0."""

    low: float
    high: float
    finite: bool
    one_hot: bool


def look(parts: Sequence[StoredArray]) -> Seen:
    low, high, finite, one_hot = np.inf, -np.inf, True, len(parts[0].shape) == 2
    for block in (block for part in parts for block in part.blocks()):
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        finite = finite and bool(np.isfinite(block).all())
        one_hot = one_hot and bool(
            ((block == 1).sum(-1) == 1).all() and ((block == 0).sum(-1) == block.shape[-1] - 1).all()
        )
    return Seen(low, high, finite, one_hot)


def text_of(value: Any) -> str:
    """The text of a value. Raises DataError (exit 2) for bytes that aren't UTF-8."""
    value = value.item()
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise DataError(f"the text {value!r:.40} is not UTF-8; save texts as str (dtype U)", exit_code=2) from None


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype and whether the order is Fortran's. The stream then stands at the first element."""
    version = npy.read_magic(stream)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    return shape, dtype, fortran
