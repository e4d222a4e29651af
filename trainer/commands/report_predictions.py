"""What the report shows of predictions: cards and tables for each kind, ready for the template. Imports no TensorFlow."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from loopwright.trainer.observe.label_predictions import LabelPredictions
from loopwright.trainer.observe.number_predictions import NumberPredictions
from loopwright.trainer.observe.position_predictions import NONE, PositionPredictions
from loopwright.trainer.observe.predictions import MOST_PAIRED, Predictions, calibration_error
from loopwright.trainer.observe.scores import Curve, Scores
from loopwright.trainer.observe.text_predictions import TextPredictions

_MOST_CLASSES, _MOST_POINTS, _MOST_CHARACTERS, _MOST_POSITIONS = 100, 1500, 600, 60
#: Labels whose curves are shown one by one, and samples in a picture of pixels.
_CURVES, _SEGMENTS = 5, 8
#: Classes up to which a confusion matrix has large cells.
_FEW = 6
#: The share of the errors at either end that the histogram leaves out.
_TAIL = 0.005


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its title, and whether it holds numbers."""

    title: str
    number: bool = False


@dataclasses.dataclass(frozen=True)
class Card:
    """A part of the page, which shows those of its attributes that are given.

    Attributes:
      title: its heading.
      svg: a chart.
      picture: the address of a picture, and what it shows in words.
      columns, rows: a table. A cell is a text, or a list of pieces, each a text and whether it is wrong.
      pictures: small pictures, each with what the model says of it.
      written: prompts and what a model has written after them.
      caption: a line below.
    """

    title: str
    svg: str = ""
    picture: tuple[str, str] | None = None
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Any]] = ()
    pictures: Sequence[dict[str, Any]] = ()
    written: Sequence[tuple[str, str]] = ()
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """Predictions on the page: a sentence, cards side by side, and cards over the whole width under their own headings."""

    head: str
    step: int
    said: str
    cards: Sequence[Card]
    wide: Sequence[Card]


def section(found: Any, class_names: Sequence[str], head: str = "") -> Section:
    """The section about predictions of any kind.

    Args:
      class_names: the names of the classes, where those are known better than the predictions know them.
      head: the name of the head of a model with several.
    """
    names = list(class_names) or [str(name) for name in getattr(found, "names", ())]
    said, cards, wide = _SECTIONS[type(found)](found, names)
    return Section(head, found.step, said, cards, [card for card in wide if card.rows or card.pictures or card.written])


def _classes(found: Predictions, names: list[str]) -> tuple[str, list[Card], list[Card]]:
    names = names or [str(k) for k in range(found.num_classes)]
    scores, paired = found.scores(), found.num_classes <= MOST_PAIRED
    confusion = found.confusion() if paired else None
    wrong = int((found.labels != found.predicted).sum())
    said = f"{len(found.labels):,} samples, {wrong:,} of them wrong. Mean F1 of the classes {number(scores.macro_f1)}."
    cards = [] if confusion is None else [_confusion(confusion, names)]
    cards.append(_class_table(scores, names, confusion))
    if found.binary:
        curve = Curve.of(found.curve_counts())
        cards.append(
            _curves([(names[1], curve)], f"Average precision of {names[1]} {number(curve.average_precision)}.")
        )
    cards.append(_calibration(*found.calibration()))
    return said, cards, [_surest(found, names)]


def _surest(found: Predictions, names: list[str]) -> Card:
    """The surest mistakes, as pictures or as texts."""
    from loopwright.trainer.observe.pictures import is_image

    mistakes: list[dict[str, Any]] = []
    for place in found.mistakes:
        row = found.shown[place]
        told = {"says": [(names[found.predicted[row]], True)], "is": names[found.labels[row]]}
        told["index"] = int(found.index[row])
        mistakes.append(told | {"sure": f"{found.confidence[row]:.0%}", "place": place})
    if is_image(found.inputs):
        return Card("Surest mistakes", pictures=[_pictured(found.inputs, one) for one in mistakes])
    columns = [Column("says"), Column("is"), Column("sure", True)]
    return _told("Surest mistakes", columns, mistakes, found.texts)


def _told(title: str, columns: Sequence[Column], samples: Sequence[dict[str, Any]], texts: np.ndarray) -> Card:
    """A table with a row for each sample: its number, a value for each column, and its text where there is one."""
    rows = [
        [f"{one['index']:,}", *(one[column.title] for column in columns), *_text(texts, one["place"])]
        for one in samples
    ]
    shown = [Column("sample")] if len(texts) else []
    return Card(title, columns=[Column("no.", True), *columns, *shown], rows=rows)


def _pictured(inputs: np.ndarray, told: dict[str, Any]) -> dict[str, Any]:
    from loopwright.trainer.observe.pictures import image_png

    return told | {"picture": data_uri(image_png(inputs[told["place"]], 84))}


def _class_table(
    scores: Scores, names: Sequence[str], confusion: np.ndarray | None, *, counted: str = "samples", iou: Any = None
) -> Card:
    columns = [Column("class"), *(Column(title, True) for title in (counted, "precision", "recall", "F1"))]
    columns += ([] if iou is None else [Column("IoU", True)]) + [Column("mostly taken for")]
    rows = []
    for k, name in enumerate(names[:_MOST_CLASSES]):
        parts = [scores.precision[k], scores.recall[k], scores.f1[k], *([] if iou is None else [iou[k]])]
        rows.append([name, f"{scores.samples[k]:,}", *map(number, parts), _taken_for(confusion, k, names)])
    rest = len(names) - _MOST_CLASSES
    return Card(
        "Classes", columns=columns, rows=rows, caption=f"{rest:,} more classes aren't shown." if rest > 0 else ""
    )


def _taken_for(confusion: np.ndarray | None, k: int, names: Sequence[str]) -> str:
    """The class for which samples of a class are taken most often, with their number."""
    if confusion is None:
        return ""
    others = confusion[k].copy()
    others[k] = 0
    worst = int(others.argmax())
    return f"{names[worst]} ({others[worst]:,})" if others[worst] else ""


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Card:
    from loopwright.trainer.observe.pictures import confusion_png

    alt = "Confusion matrix: a row for each true class, a column for each predicted one"
    picture = data_uri(confusion_png(counts, names, cell=44 if len(counts) > _FEW else 68)), alt
    return Card("Confusion", picture=picture, caption="Rows are true classes, columns what the model says.")


def _calibration(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> Card:
    from loopwright.trainer.observe.charts import calibration_chart

    error = calibration_error(confidence, accuracy, count)
    caption = (
        "Accuracy over confidence; on the broken line the model is as right as it is sure. Expected calibration error "
        f"{error:.1%}."
    )
    svg = calibration_chart(confidence.tolist(), accuracy.tolist(), count.tolist())
    return Card("Calibration", svg=svg, caption=caption)


def _curves(curves: Sequence[tuple[str, Curve]], caption: str) -> Card:
    from loopwright.trainer.observe.charts import Line, line_chart

    lines = []
    for place, (name, curve) in enumerate(curves):
        found = curve.true_positives + curve.false_positives > 0
        lines.append(Line(_cut(name, 30), curve.recall[found].tolist(), curve.precision[found].tolist(), place))
    return Card("Precision over recall", svg=line_chart(lines, x_label="recall", y_label="precision"), caption=caption)


def _labels(found: LabelPredictions, names: list[str]) -> tuple[str, list[Card], list[Card]]:
    scores, counts = found.scores(), found.confusion()
    said = (
        f"{found.samples:,} samples with {len(names):,} labels, {found.all_right:,} samples with all labels right. "
        f"Mean F1 of the labels {number(scores.macro_f1)}."
    )
    titles = ["samples", "precision", "recall", "F1", "average precision"]
    titles += ("true positives", "false positives", "false negatives", "true negatives")
    rows = []
    for k, name in enumerate(names[:_MOST_CLASSES]):
        parts = (scores.precision[k], scores.recall[k], scores.f1[k], found.curve(k).average_precision)
        rows.append([name, f"{scores.samples[k]:,}", *map(number, parts), *(f"{count:,}" for count in counts[k])])
    rest = len(names) - _MOST_CLASSES
    caption = "A label is predicted where its probability is above one half."
    caption += f" {rest:,} more labels aren't shown." if rest > 0 else ""
    table = Card(
        "Labels", columns=[Column("label"), *(Column(title, True) for title in titles)], rows=rows, caption=caption
    )
    frequent = np.argsort(-scores.samples, kind="stable")[:_CURVES].tolist()
    curves = [("all labels", found.curve()), *((names[k], found.curve(k)) for k in frequent)]
    which = "All labels together" if len(names) <= _CURVES else f"All labels together, and the {_CURVES} most frequent"
    return said, [_curves(curves, f"{which}.")], [table, _surest_labels(found, names)]


def _surest_labels(found: LabelPredictions, names: list[str]) -> Card:
    from loopwright.trainer.observe.pictures import is_image

    mistakes: list[dict[str, Any]] = []
    for place in found.mistakes:
        said = [(names[k], not found.labels[place, k]) for k in np.flatnonzero(found.chances[place] > 0.5)]
        true = [(names[k], not found.chances[place, k] > 0.5) for k in np.flatnonzero(found.labels[place])]
        told = {"says": _joined(said), "is": _joined(true), "index": int(found.index[place]), "place": place}
        mistakes.append(told)
    if is_image(found.inputs):
        return Card("Surest mistakes", pictures=[_pictured(found.inputs, one) for one in mistakes])
    return _told("Surest mistakes", [Column("says"), Column("is")], mistakes, found.texts)


def _numbers(found: NumberPredictions, names: list[str]) -> tuple[str, list[Card], list[Card]]:
    from loopwright.trainer.observe.charts import histogram_chart, scatter_chart

    width = found.labels.shape[1]
    of = f" of {width:,} numbers" if width > 1 else ""
    said = (
        f"{found.samples:,} samples{of}. R² {number(found.r2)}, root mean squared error {number(found.rmse)}, mean absolute "
        f"error {number(found.mae)}."
    )
    true, predicted = np.ravel(found.labels).astype(np.float64), np.ravel(found.predicted).astype(np.float64)
    known = np.isfinite(true) & np.isfinite(predicted)
    true, predicted = true[known], predicted[known]
    some = slice(None, None, -(-len(true) // _MOST_POINTS) or 1)
    errors = predicted - true
    low, high = np.quantile(errors, [_TAIL, 1 - _TAIL]) if len(errors) else (0.0, 0.0)
    inner = errors[(errors >= low) & (errors <= high)]
    share = "" if len(true[some]) == len(true) else f" {len(true[some]):,} of {len(true):,} are drawn."
    cards = [
        Card(
            "Predicted over true",
            svg=scatter_chart(true[some].tolist(), predicted[some].tolist()),
            caption=f"{found.name}. On the broken line the two are equal.{share}",
        ),
        Card(
            "Errors",
            svg=histogram_chart(inner.tolist(), x_label="predicted minus true"),
            caption="Without the largest half percent at either end.",
        ),
    ]
    if 1 < width <= _MOST_CLASSES:
        titles = [Column("output"), *(Column(title, True) for title in ("R²", "RMSE", "MAE"))]
        rows = [[f"{found.name}[{k}]", *map(number, row)] for k, row in enumerate(found.by_output())]
        cards.append(Card("Outputs", columns=titles, rows=rows))
    return said, cards, [_largest_errors(found)]


def _largest_errors(found: NumberPredictions) -> Card:
    from loopwright.trainer.observe.pictures import is_image

    told: list[dict[str, Any]] = []
    for place in found.largest:
        true, said = found.shown_labels[place], found.shown_predicted[place]
        k = int(np.abs(said - true).argmax())
        numbers = {"says": number(said[k]), "is": number(true[k]), "error": [(number(said[k] - true[k]), True)]}
        told.append(numbers | {"output": f"{found.name}[{k}]", "index": int(found.shown[place]), "place": place})
    if is_image(found.inputs):
        return Card("Largest errors", pictures=[_pictured(found.inputs, one) for one in told])
    columns = [Column("output")] if found.labels.shape[1] > 1 else []
    columns += [Column(title, True) for title in ("says", "is", "error")]
    return _told("Largest errors", columns, told, found.texts)


def _positions(found: PositionPredictions, names: list[str]) -> tuple[str, list[Card], list[Card]]:
    scores, pixels = found.scores(), found.labels.ndim == 3
    paired = found.pairs if len(found.pairs) else None
    what = "pixels" if pixels else "positions"
    said = f"{found.samples:,} samples with {found.true.sum():,} {what}, of which {found.accuracy:.1%} are right. "
    iou = found.iou()
    mean = iou[~np.isnan(iou)].mean() if (~np.isnan(iou)).any() else math.nan
    said += (
        f"Mean IoU of the classes {number(mean)}." if pixels else f"Mean F1 of the classes {number(scores.macro_f1)}."
    )
    cards = [] if paired is None else [_confusion(paired, names)]
    cards += [
        _class_table(scores, names, paired, counted=what, iou=iou if pixels else None),
        _calibration(*found.calibration()),
    ]
    if pixels:
        return said, [*cards, *_segments(found, names)], []
    return said, cards, [_worst_sequences(found, names)]


def _segments(found: PositionPredictions, names: list[str]) -> Iterable[Card]:
    from loopwright.trainer.observe.segments import segments_png

    for title, places in (("First samples", found.first), ("Worst samples", found.mistakes)):
        places = places[:_SEGMENTS]
        if len(places):
            png = segments_png(found.inputs[places], found.labels[places], found.said[places], names)
            numbers = ", ".join(f"{found.index[place]:,}" for place in places)
            yield Card(title, picture=(data_uri(png), f"{title}: truth and prediction"), caption=f"No. {numbers}.")


def _worst_sequences(found: PositionPredictions, names: list[str]) -> Card:
    shares, rows = found.shares(), []
    for place in found.mistakes:
        pieces = []
        for position, (true, said) in enumerate(zip(found.labels[place], found.said[place], strict=True)):
            if true != NONE:
                text = f"{found.texts[place, position]}/" if found.texts.ndim == 2 else ""
                pieces.append(
                    (f"{text}{names[true]}" + ("" if true == said else f" → {names[said]}"), bool(true != said))
                )
        rest = [("…", False)] if len(pieces) > _MOST_POSITIONS else []
        shown = _joined(pieces[:_MOST_POSITIONS] + rest, " ")
        rows.append([f"{found.index[place]:,}", f"{shares[place]:.0%}", shown])
    columns = [Column("no.", True), Column("right", True), Column("true classes, and what the model says instead")]
    return Card("Worst samples", columns=columns, rows=rows)


def _texts(found: TextPredictions, names: list[str]) -> tuple[str, list[Card], list[Card]]:
    said = f"What the model writes after the beginnings of samples, drawn at a temperature of {found.temperature:g}."
    pairs = list(zip(found.prompts.tolist(), found.continuations.tolist(), strict=True))
    return said, [], [Card("Written by the model", written=pairs)]


def _joined(pieces: Sequence[tuple[str, bool]], separator: str = ", ") -> list[tuple[str, bool]]:
    """Pieces with a separator between them; a dash for none."""
    found = [part for piece in pieces for part in ((separator, False), piece)][1:]
    return found or [("–", False)]


def _text(texts: np.ndarray, place: int) -> list[str]:
    """The text of a sample, where there are any."""
    return [_cut(str(texts[place]), _MOST_CHARACTERS)] if len(texts) else []


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def number(value: float | None) -> str:
    """A number as the page shows it; a dash for one that isn't there."""
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1e7 or 0 < abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{0 if abs(value) >= 10_000 else 1}f}" if abs(value) >= 1000 else f"{value:.4f}"


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_SECTIONS: dict[type, Callable[[Any, list[str]], tuple[str, list[Card], list[Card]]]] = {
    Predictions: _classes,
    LabelPredictions: _labels,
    NumberPredictions: _numbers,
    PositionPredictions: _positions,
    TextPredictions: _texts,
}
