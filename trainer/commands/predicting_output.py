"""What `predict` prints: a table, a CSV file with more columns, or JSON; and how much of it is right."""

from __future__ import annotations

import collections
import csv
import io
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loopwright.trainer.base.json_lines import finite

if TYPE_CHECKING:
    from loopwright.trainer.commands.predicting_inputs import Item, Sheet

#: The predictions for an item, by name of the target.
Found = Mapping[str, Mapping[str, Any]]


def as_json(items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An object for each input. A single target has its label in `label`, several have them by name."""
    found = []
    for item, row in zip(items, rows, strict=True):
        labels: Any = item.labels if len(item.labels) > 1 else next(iter(item.labels.values()), None)
        entry = {"input": item.name, **({} if labels is None else {"label": labels}), **row}
        found.append(_finite(entry))
    return found


def as_csv(sheet: Sheet, rows: Sequence[Found]) -> str:
    """The table as it came, with columns for the predictions at its end."""
    written = io.StringIO()
    added = [_cells(row) for row in rows]
    names: list[str] = []
    for name in dict.fromkeys(itertools.chain.from_iterable(added)):
        while name in (*sheet.columns, *names):
            name = f"{name}_"
        names.append(name)
    writer = csv.writer(written, delimiter=sheet.delimiter, lineterminator="\n")
    writer.writerow([*sheet.columns, *names])
    for item, cells in zip(sheet.items, added, strict=True):
        writer.writerow([*item.row, *cells.values()])
    return written.getvalue()


def print_table(items: Sequence[Item], rows: Sequence[Found]) -> None:
    from rich.console import Console
    from rich.table import Table

    labelled = any(item.labels for item in items)
    names = list(rows[0])
    table = Table(box=None)
    heads = [f"{name}: {_title(rows[0][name])}" if len(names) > 1 else _title(rows[0][name]) for name in names]
    for column in ("input", *(["label"] if labelled else []), *heads):
        table.add_column(column, overflow="fold")
    for item, row in zip(items, rows, strict=True):
        several = len(item.labels) > 1
        label = "  ".join(f"{name}={_label(part)}" if several else _label(part) for name, part in item.labels.items())
        table.add_row(item.name, *([label] if labelled else []), *map(said, row.values()))
    Console(highlight=False, markup=False).print(table)


def scores(items: Sequence[Item], rows: Sequence[Found]) -> Iterator[str]:
    """A line for each target whose labels are known: how many predictions are right, or how far numbers are off."""
    names = dict.fromkeys(name for item in items for name in item.labels)
    for name in names:
        pairs = [
            (item.labels[name], row.get(name, next(iter(row.values()))))
            for item, row in zip(items, rows, strict=True)
            if name in item.labels
        ]
        line = _score(pairs)
        if line:
            yield f"{name}: {line}" if len(names) > 1 else line


def _score(pairs: Sequence[tuple[Any, Mapping[str, Any]]]) -> str:
    first = pairs[0][1]
    if "prediction" in first:
        squares = [
            (one - other) ** 2
            for label, entry in pairs
            for one, other in zip(_flat(label), _flat(entry["prediction"]), strict=True)
        ]
        return f"RMSE {math.sqrt(sum(squares) / len(squares)):.6g} over {len(pairs)}"
    if "classes" in first:
        right = [
            one == other
            for label, entry in pairs
            for one, other in zip(_flat(label), _flat(entry["classes"]), strict=False)  # padding has no label
            if one is not None
        ]
        return f"{sum(right)} of {len(right)} positions right"
    if "labels" in first:
        return f"{sum(set(label) == set(entry['labels']) for label, entry in pairs)} of {len(pairs)} right"
    if "top" in first:
        return f"{sum(label == entry['top'][0]['class'] for label, entry in pairs)} of {len(pairs)} right"
    return ""


def said(entry: Mapping[str, Any]) -> str:
    """A prediction in a line."""
    if "top" in entry:
        return "  ".join(f"{one['class']} {_number(one['probability'])}" for one in entry["top"])
    if "labels" in entry:
        chances = entry["probabilities"]
        return "  ".join(f"{name} {_number(chances[name])}" for name in entry["labels"]) or "(none)"
    if "classes" in entry:
        return _label(entry["classes"])
    if "prediction" in entry:
        return _label(entry["prediction"])
    return json.dumps(_finite(entry), ensure_ascii=False)


def _title(entry: Mapping[str, Any]) -> str:
    titles = {
        "top": "classes, likeliest first",
        "labels": "labels",
        "classes": "class of each position",
        "prediction": "prediction",
    }
    return next((title for key, title in titles.items() if key in entry), "prediction")


def _label(label: Any) -> str:
    """A label in a line. Of an image of classes, the share of each class."""
    if label is None:
        return "·"
    if isinstance(label, float):
        return f"{label:.6g}"
    if not isinstance(label, list):
        return str(label)
    flat = [part for part in _flat(label) if part is not None]
    if label and isinstance(label[0], list) and all(isinstance(part, str) for part in flat):
        return "  ".join(f"{name} {count / len(flat):.0%}" for name, count in collections.Counter(flat).most_common(5))
    if label and isinstance(label[0], list):
        return json.dumps(_finite(label))
    return " ".join(map(_label, label)) or "(none)"


def _cells(row: Found) -> dict[str, str]:
    """The columns that a prediction adds to a table."""
    import numpy as np

    cells: dict[str, str] = {}
    for name, entry in row.items():
        predicted = f"predicted_{name}"
        if "top" in entry:
            best = entry["top"][0]
            cells |= {predicted: best["class"], f"probability_{name}": f"{best['probability']:.6g}"}
        elif "labels" in entry:
            cells[predicted] = " ".join(entry["labels"])
            of = f"{name}_" if len(row) > 1 else ""
            cells |= {f"probability_{of}{label}": f"{chance:.6g}" for label, chance in entry["probabilities"].items()}
        else:
            value = next(iter(entry.values())) if len(entry) == 1 else entry
            if isinstance(value, (int, float)):
                cells[predicted] = str(np.float32(value))  # the shortest text of the number that the model gave
            else:
                cells[predicted] = value if isinstance(value, str) else json.dumps(_finite(value), ensure_ascii=False)
    return cells


def _flat(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _flat(part)] if isinstance(value, list) else [value]


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON can't hold."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list) else finite(value)


def _number(probability: float) -> str:
    return f"{probability:.3f}"
