"""What `predict` reads: images, the rows of a table, the lines of a text, or a split of the dataset."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.data.catalog import IMAGE_SUFFIXES
from loopwright.trainer.base.errors import TrainingError, reason

if TYPE_CHECKING:
    from loopwright.trainer.commands.predicting_model import Predictor

#: The word that stands for standard input.
STDIN = "-"
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_NUMBERS = ("number", "numbers")


@dataclasses.dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
      name: what is said of it.
      x: as the model takes it; for texts and tables, a text or a row as the preprocessing takes it.
      labels: what is right, by name of the target, in the form in which a prediction says it.
      row: the values of its line in a table.
    """

    name: str
    x: Any
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    row: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table that is read.

    Attributes:
      columns: their names, in order.
      delimiter: what stands between the values.
      items: its rows.
    """

    columns: list[str]
    delimiter: str
    items: list[Item]


def is_table(word: str) -> bool:
    suffixes = [suffix.lower() for suffix in pathlib.Path(word).suffixes]
    return bool(suffixes) and (suffixes[-1] in _TABLE_SUFFIXES or suffixes[-2:-1] == [".csv"])


def check_exist(words: Sequence[str]) -> None:
    """Raises UsageError for a word that names nothing, and for a folder without images."""
    for word in words:
        if word != STDIN and not pathlib.Path(word).exists():
            raise flags.UsageError(f"{word}: no such file or folder; give image files or a folder of them")
    image_files([word for word in words if word != STDIN and pathlib.Path(word).is_dir()])


def image_files(words: Sequence[str]) -> list[pathlib.Path]:
    """The image files that the words name. A folder stands for all images in it. Raises UsageError if there are none."""
    files: list[pathlib.Path] = []
    for word in words:
        path = pathlib.Path(word)
        if word == STDIN:
            raise flags.UsageError("-: standard input is for texts and tables, and the model takes images; name files")
        inside = sorted(filter(_is_image, path.rglob("*"))) if path.is_dir() else [path]
        if not inside:
            raise flags.UsageError(f"{word}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        files += inside
    return files


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def from_images(files: Sequence[pathlib.Path], predictor: Predictor, dtype: str, scaled: bool) -> Iterator[Item]:
    """The images, in the size and with the channels and the scale that the model takes."""
    import tensorflow as tf

    from loopwright.data import decoding, image_decoding
    from loopwright.data.scaling import scale

    input_shape = predictor.opened.input_shape
    if isinstance(input_shape, Mapping):
        raise TrainingError(
            f"the model has several inputs ({', '.join(input_shape)}); give --split=test[:20]", exit_code=2
        )
    if len(input_shape) != 3 or None in input_shape:
        raise TrainingError(f"the model takes inputs of shape {input_shape}, not images of a fixed size")
    height, width, channels = input_shape
    for file in files:
        try:
            image = image_decoding.decode_stored(file.read_bytes(), channels, tf.as_dtype(dtype))
        except (OSError, tf.errors.OpError, ValueError) as error:
            raise TrainingError(f"{file}: no image could be read from it ({reason(error)})") from error
        if image.shape[:2] != (height, width):
            image = decoding.resize(image, (height, width))
        yield Item(str(file), (scale(image) if scaled else tf.cast(image, tf.float32)).numpy())


def from_texts(words: Sequence[str]) -> Iterator[Item]:
    """The lines of text files, each of them a text; empty lines are left out. Raises UsageError for other files."""
    for word in words:
        if word != STDIN and pathlib.Path(word).is_dir():
            raise flags.UsageError(
                f"{word}: is a folder, and the model takes texts; give a file with a text on each line"
            )
        content = sys.stdin.buffer.read() if word == STDIN else pathlib.Path(word).read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise flags.UsageError(
                f"{word}: byte {error.start} is not UTF-8 ({error.reason}); give a file with a text on each line"
            ) from None
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        if not any(line.strip() for line in lines):
            raise flags.UsageError(f"{word}: holds no text; give a file with a text on each line")
        yield from (Item(line, line) for line in lines if line.strip())


def from_table(word: str, predictor: Predictor, columns: Sequence[str]) -> Sheet:
    """The rows of a CSV or TSV file, with the columns that the model needs and any others.

    The first line names the columns, unless `columns` does. Raises TrainingError (exit 2) for a column that is missing,
    and for a row that can't be read.
    """
    from loopwright.data.csv_rows import CsvFile

    if word != STDIN and pathlib.Path(word).is_dir():
        raise flags.UsageError(f"{word}: is a folder, and the model takes the rows of a table; give a CSV or TSV file")
    with _file(word) as path:
        table = CsvFile.of(path)
        first = table.sample()[0][1]
        names = _names(word, first, predictor.inputs, columns)
        skip = 1 if names == first else 0

        def bad(problem: str) -> None:
            raise TrainingError(problem.replace(path.name, word, 1), exit_code=2)

        items = []
        for line, row in table.good_rows(len(names), skip, (), bad):
            values = dict(zip(names, row, strict=True))
            x: Any = values if predictor.kind == "table" else values[predictor.inputs[0]]
            items.append(Item(f"{word}:{line}", x, _known(predictor, values), row))
    if not items:
        raise TrainingError(f"{word}: holds no rows", exit_code=2)
    return Sheet(names, table.delimiter, items)


@contextlib.contextmanager
def _file(word: str) -> Iterator[pathlib.Path]:
    """The file of a word; standard input is copied to one."""
    if word != STDIN:
        yield pathlib.Path(word)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "standard_input.csv"
        path.write_bytes(sys.stdin.buffer.read())
        yield path


def _names(word: str, first: Sequence[str], needed: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The names of the columns: the first line, or `columns`, of which labels may be missing."""
    missing = [name for name in needed if name not in first]
    if not missing:
        return list(first)
    for names in (list(columns), [name for name in columns if name in needed]):
        if names and len(names) == len(first):
            return names
    raise TrainingError(
        f"{word}: has no column {missing[0]!r}; the model takes {', '.join(needed)}, and the first line is "
        f"{', '.join(first)}",
        exit_code=2,
    )


def _known(predictor: Predictor, values: Mapping[str, str]) -> dict[str, Any]:
    """The labels in a row of a table, as far as they are there and can be read."""
    from loopwright.data.csv_columns import number

    found: dict[str, Any] = {}
    for name, head in predictor.heads.items():
        text, target = values.get(name, ""), head.goal.target
        value = number(text) if text else None
        if target.kind == "class" and text:
            whole = str(int(value)) if value is not None and value == value and value.is_integer() else text
            found[name] = text if text in target.names else whole
        elif target.kind == "number" and value is not None and value == value:
            found[name] = value
    return found


def from_split(dataset: Any, feed: Any, split: str, predictor: Predictor) -> Iterator[Item]:
    """The samples of a split, with their labels."""
    import numpy as np
    import tensorflow as tf

    place = itertools.count()
    for batch in feed():
        arrays = tf.nest.map_structure(lambda part: part.numpy(), dict(batch))
        rows = len(tf.nest.flatten(arrays["x"])[0])
        # The feed of a user may give no index.
        index = arrays.get("index", list(itertools.islice(place, rows)))
        for row in range(rows):
            x, y = (tf.nest.map_structure(lambda part, row=row: part[row], arrays.get(key)) for key in ("x", "y"))
            weight = arrays.get("sample_weight")
            real = weight[row] > 0 if isinstance(weight, np.ndarray) and weight.ndim > 1 else None
            yield Item(f"{split}#{index[row]}", x, labels_of(dataset.targets, y, real))


def labels_of(targets: Mapping[str, Any], y: Any, real: Any = None) -> dict[str, Any]:
    """The label of a sample for each target, as a prediction says it. `real` marks the positions that aren't padding."""
    if y is None:
        return {}
    each = y if isinstance(y, Mapping) else dict.fromkeys(targets, y)
    return {name: _label(target, each[name], real) for name, target in targets.items()}


def _label(target: Any, y: Any, real: Any) -> Any:
    if target.kind in _NUMBERS:
        return y.tolist()
    if target.kind == "multi_hot":
        return [name for name, there in zip(target.names, y.tolist(), strict=True) if there]
    if target.kind == "tokens":
        y = y[-1]
    if target.kind == "classes" and real is not None and real.shape == y.shape:
        return _with_gaps(target.names, y, real)
    return _named(target.names, y)


def _with_gaps(names: Sequence[str], y: Any, real: Any) -> list[Any]:
    """The classes of positions, with None where a position doesn't count. Padding at the end of a sequence is left out."""
    import numpy as np

    pairs = zip(y.flat, real.flat, strict=True)
    found = np.array([_named(names, part) if there else None for part, there in pairs], object)
    end = int(np.flatnonzero(real).max(initial=-1)) + 1
    return found[:end].tolist() if y.ndim == 1 else found.reshape(y.shape).tolist()


def _named(names: Sequence[str], y: Any) -> Any:
    if y.ndim:
        return [_named(names, part) for part in y]
    return names[int(y)] if int(y) < len(names) else str(int(y))
