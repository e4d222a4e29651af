"""Predictions as summaries for TensorBoard: scalars, pictures, curves and tables of text."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.pr_curve.summary import raw_data_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from loopwright.trainer.observe.label_predictions import LabelPredictions
from loopwright.trainer.observe.number_predictions import NumberPredictions
from loopwright.trainer.observe.position_predictions import NONE, PositionPredictions
from loopwright.trainer.observe.predictions import MOST_PAIRED, Predictions
from loopwright.trainer.observe.scores import BINS, Curve
from loopwright.trainer.observe.tensorboard import picture
from loopwright.trainer.observe.text_predictions import TextPredictions

#: The most classes or labels that are shown one by one, and how many samples a picture or a table shows.
_CLASSES, _SAMPLES = 100, 8
#: Classes up to which a confusion matrix has large cells.
_FEW = 6
#: The most characters of a sample's text.
_CHARACTERS = 300


def summaries(found: Any, names: Sequence[str], head: str = "") -> list[Any]:
    """All that is shown of predictions of any kind.

    Args:
      names: of the classes or labels, where there are any.
      head: the name of the head of a model with several, which begins all tags.
    """
    prefix = f"{head}/" if head else ""
    return _SHOWS[type(found)](found, list(names), prefix)


def _classes(found: Predictions, names: list[str], prefix: str) -> list[Any]:
    scores, of = found.scores(), f"{prefix}{{}}_of_class"
    shown = {"accuracy": scores.recall, "f1": scores.f1} | ({"precision": scores.precision} if found.binary else {})
    made = [one for name, values in shown.items() for one in _scalars(of.format(name), names, values)]
    if found.binary:
        made.append(_curve(f"{prefix}precision_recall", Curve.of(found.curve_counts())))
    return [*made, *_confusion(found, prefix), *_samples(found, names, prefix)]


def _confusion(found: Any, prefix: str) -> list[Any]:
    from loopwright.trainer.observe.pictures import confusion_png

    counts = found.pairs if isinstance(found, PositionPredictions) else None
    if counts is None and found.num_classes <= MOST_PAIRED:
        counts = found.confusion()
    if counts is None or not len(counts):
        return []
    names = found.names.tolist() or [str(k) for k in range(len(counts))]
    return [picture(f"{prefix}confusion_matrix", confusion_png(counts, names, cell=24 if len(counts) > _FEW else 44))]


def _samples(found: Predictions, names: list[str], prefix: str) -> list[Any]:
    from loopwright.trainer.observe.pictures import is_image, sheet_png

    made = []
    for tag, places in (("first", found.first), ("surest_mistakes", found.mistakes)):
        places = places[:_SAMPLES]
        rows = found.shown[places]
        labels, said = ([names[k] for k in part[rows]] for part in (found.labels, found.predicted))
        sure = found.confidence[rows]
        if len(places) and is_image(found.inputs):
            made.append(picture(f"{prefix}samples/{tag}", sheet_png(found.inputs[places], labels, said, sure)))
        elif len(places) and len(found.texts):
            lines = zip(said, labels, (f"{one:.0%}" for one in sure), found.texts[places].tolist(), strict=True)
            made.append(_table(f"{prefix}samples/{tag}", ("says", "is", "sure", "sample"), lines))
    return made


def _labels(found: LabelPredictions, names: list[str], prefix: str) -> list[Any]:
    scores, counts = found.scores(), found.confusion()
    made = [_curve(f"{prefix}precision_recall", found.curve())]
    if len(names) <= _CLASSES:
        for name, values in (("precision", scores.precision), ("recall", scores.recall), ("f1", scores.f1)):
            made += _scalars(f"{prefix}{name}_of_label", names, values)
        made += [_curve(f"{prefix}precision_recall/{name}", found.curve(k)) for k, name in enumerate(names)]
        title = ("label", "true positives", "false positives", "false negatives", "true negatives")
        made.append(_table(f"{prefix}labels", title, ([name, *row] for name, row in zip(names, counts, strict=True))))
    return made + _label_samples(found, names, prefix)


def _label_samples(found: LabelPredictions, names: list[str], prefix: str) -> list[Any]:
    from loopwright.trainer.observe.pictures import captioned_png, is_image

    made = []
    for tag, places in (("first", found.first), ("surest_mistakes", found.mistakes)):
        places = places[:_SAMPLES]
        said = [named(names, row > 0.5) for row in found.chances[places]]
        labels = [named(names, row) for row in found.labels[places]]
        pairs = list(zip(said, labels, strict=True))
        if pairs and is_image(found.inputs):
            captions = [(a == b, [a] if a == b else [a, f"is {b}"]) for a, b in pairs]
            made.append(picture(f"{prefix}samples/{tag}", captioned_png(found.inputs[places], captions)))
        elif pairs and len(found.texts):
            rows = ([*pair, text] for pair, text in zip(pairs, found.texts[places].tolist(), strict=True))
            made.append(_table(f"{prefix}samples/{tag}", ("says", "is", "sample"), rows))
    return made


def named(names: Sequence[str], holds: np.ndarray) -> str:
    """The names of the labels that hold, or a dash for none."""
    return ", ".join(names[k] for k in np.flatnonzero(holds).tolist()) or "–"


def _numbers(found: NumberPredictions, names: list[str], prefix: str) -> list[Any]:
    from loopwright.trainer.observe.residuals import residuals_png

    made = [picture(f"{prefix}residuals", residuals_png(found.labels, found.predicted, str(found.name)))]
    places = found.largest[:_SAMPLES]
    if found.labels.shape[1] == 1 and len(places):
        texts = found.texts[places].tolist() if len(found.texts) else [f"no. {found.shown[place]}" for place in places]
        pairs = [(found.shown_predicted[place, 0], found.shown_labels[place, 0]) for place in places]
        rows = (
            [f"{said:g}", f"{true:g}", f"{said - true:+g}", text]
            for (said, true), text in zip(pairs, texts, strict=True)
        )
        made.append(_table(f"{prefix}samples/largest_errors", ("says", "is", "error", "sample"), rows))
    return made


def _positions(found: PositionPredictions, names: list[str], prefix: str) -> list[Any]:
    from loopwright.trainer.observe.segments import segments_png

    scores, pixels = found.scores(), found.labels.ndim == 3
    made = _scalars(f"{prefix}accuracy_of_class", names, scores.recall)
    made += _scalars(f"{prefix}{'iou' if pixels else 'f1'}_of_class", names, found.iou() if pixels else scores.f1)
    made += _confusion(found, prefix)
    for tag, places in (("first", found.first), ("worst", found.mistakes)):
        places = places[:_SAMPLES]
        if len(places) and pixels:
            parts = (found.inputs[places], found.labels[places], found.said[places])
            made.append(picture(f"{prefix}samples/{tag}", segments_png(*parts, names)))
        elif len(places):
            rows = ([f"{found.shares()[place]:.0%}", tagged(found, names, place)] for place in places)
            made.append(
                _table(f"{prefix}samples/{tag}", ("right", "true class, and what the model says instead"), rows)
            )
    return made


def tagged(found: PositionPredictions, names: Sequence[str], place: int) -> str:
    """A shown sequence in a line: each position with its class, and with the predicted class where it is another one."""
    parts = []
    for position, (true, said) in enumerate(zip(found.labels[place], found.said[place], strict=True)):
        if true != NONE:
            text = f"{found.texts[place, position]}/" if found.texts.ndim == 2 else ""
            parts.append(f"{text}{names[true]}" + ("" if said == true else f"→{names[said]}"))
    return " ".join(parts)


def _texts(found: TextPredictions, names: list[str], prefix: str) -> list[Any]:
    blocks = []
    for prompt, continuation in zip(found.prompts.tolist(), found.continuations.tolist(), strict=True):
        blocks.append("\n".join(f"    {line}" for line in f"{prompt}▸{continuation}".split("\n")))
    about = f"What follows each ▸ was drawn from the model at a temperature of {found.temperature:g}."
    return [text_pb(f"{prefix}written", "\n\n---\n\n".join([about, *blocks]))]


def _scalars(tag: str, names: Sequence[str], values: np.ndarray) -> list[Any]:
    """A scalar for each class, if there are few enough."""
    if len(names) > _CLASSES:
        return []
    return [scalar_pb(f"{tag}/{name}", value) for name, value in zip(names, values, strict=True)]


def _curve(tag: str, curve: Curve) -> Any:
    # Made of TensorFlow's class of summaries, not of TensorBoard's.
    return Summary.FromString(raw_data_pb(tag, *curve, num_thresholds=BINS).SerializeToString())


def _table(tag: str, title: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    lines = [title, ["---"] * len(title), *([_plain(str(cell)) for cell in row] for row in rows)]
    return text_pb(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines))


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line and cut to a length."""
    text = " ".join(text[: _CHARACTERS + 1].split())
    cut = text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"
    return "".join(f"&#{ord(letter)};" if letter in "\\`*_[]#|~^" else html.escape(letter) for letter in cut)


_SHOWS: dict[type, Callable[[Any, list[str], str], list[Any]]] = {
    Predictions: _classes,
    LabelPredictions: _labels,
    NumberPredictions: _numbers,
    PositionPredictions: _positions,
    TextPredictions: _texts,
}
