"""`loopwright predict`: the classes that a run's checkpoint or an export predicts for images."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.data.catalog import IMAGE_SUFFIXES
from loopwright.trainer.base.errors import TrainingError, reason
from loopwright.trainer.base.json_lines import finite
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import scaling, setup, sources

if TYPE_CHECKING:
    import numpy as np

    from loopwright.data import Dataset, Feed
    from loopwright.trainer.export.open_export import OpenedModel

USAGE = (
    "usage: loopwright predict IMAGE... --workdir=DIR [--flags]\n"
    "       loopwright predict IMAGE... --restore_from=model.h5 [--flags]\n"
    "       loopwright predict --split=test[:20] --workdir=DIR [--flags]"
)
HELP = (
    "Classifies image files, all images in a folder, or a split of the dataset, by the newest checkpoint of a run or by an "
    "export, and shows the likeliest classes with their probabilities."
)
GROUPS = (flags.Prediction, flags.Data)

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Item:
    """One input as the model takes it, with its name, and the name of its class if that is known."""

    name: str
    x: np.ndarray
    label: str | None = None


def run(argv: Sequence[str]) -> int:
    """Parses the flags and predicts."""
    (prediction, data), words, source = sources.parse(argv, GROUPS, usage=USAGE, help_text=HELP, positional="IMAGE...")
    if bool(words) == bool(prediction.split):
        raise flags.UsageError("give image files or a folder of images, or --split=test[:20] of the dataset")
    files = _files(words)
    setup.start_tensorflow()
    if prediction.split:
        data = dataclasses.replace(data, eval_split=prediction.split)
    dataset = None if source.config is None and files else source.load_dataset(data)
    predictor = _predictor(source, dataset, prediction)
    feed = None if dataset is None else _feed(source, dataset, data, predictor)
    if files:
        items = _from_files(files, predictor, *_stored(source, data, predictor, feed))
    else:
        items = _from_split(dataset, feed, prediction.split or "")
    rows = _predict(predictor, items, prediction.top)
    if prediction.json:
        print(json.dumps({"from": str(source.path or source.folder), "predictions": rows}))
    else:
        _print(rows)
    return 0


def _files(words: Sequence[str]) -> list[pathlib.Path]:
    """The image files that the words name. A folder stands for all images in it. Raises UsageError if there are none."""
    files: list[pathlib.Path] = []
    for word in words:
        path = pathlib.Path(word)
        if not path.exists():
            raise flags.UsageError(f"{word}: no such file or folder; give image files or a folder of them")
        inside = sorted(filter(_is_image, path.rglob("*"))) if path.is_dir() else [path]
        if not inside:
            raise flags.UsageError(f"{word}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        files += inside
    return files


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _predictor(source: sources.Source, dataset: Dataset | None, prediction: flags.Prediction) -> OpenedModel:
    """The model, with the names of its classes and whether it gives probabilities."""
    from loopwright import models
    from loopwright.trainer.core import optimizers
    from loopwright.trainer.export import open_export as exports

    if source.config is None or dataset is None:
        path = source.path or pathlib.Path()
        predictor = exports.open_export(path, trust=prediction.trust_file)
        said = sources.facts_in(path)
        names = tuple(said.get("class_names", ()))
        outputs = {"probabilities": True, "logits": False}.get(said.get("outputs", ""))
        wanted = prediction.outputs
        if wanted == "auto":
            wanted = said.get("identity", {}).get("outputs", "auto")
        if wanted != "auto":
            outputs = wanted == "probabilities"
        elif predictor.model is not None:
            outputs = models.ends_in_probabilities("", predictor.model)
        elif predictor.probabilities is not None:
            outputs = predictor.probabilities
        return dataclasses.replace(predictor, class_names=predictor.class_names or names, probabilities=outputs)
    import numpy as np

    job, _ = sources.restored_job(source, sources.with_outputs(source.config, prediction.outputs), dataset)
    model = job.state.model

    def call(x: np.ndarray) -> np.ndarray:
        with optimizers.averaged_weights(model, job.state.optimizer):
            return np.asarray(model(x, training=False))

    names = tuple(dataset.class_names)
    return exports.OpenedModel(
        call, dataset.input_shape, class_names=names, probabilities=job.probabilities, model=model
    )


def _feed(source: sources.Source, dataset: Dataset, data: flags.Data, predictor: OpenedModel) -> Feed:
    """The feed over the split, scaled as the model takes it."""
    feed: Any = dataset.eval_feed(_BATCH)
    if predictor.dtype == "uint8":
        return scaling.follow("none", feed)
    if source.config is not None:
        return scaling.follow(scaling.of_run(data.scale, feed), feed)
    path = source.path or pathlib.Path()
    if predictor.model is None:
        return scaling.follow(_said_scale(path, data), feed)
    return scaling.follow(scaling.of_file(path, data.scale, predictor.model, feed), feed)


def _stored(source: sources.Source, data: flags.Data, predictor: OpenedModel, feed: Any) -> tuple[str, bool]:
    """The dtype of images as they are stored, and whether the model takes them scaled to [0, 1]."""
    from loopwright import models

    path = source.path or pathlib.Path()
    if predictor.dtype == "uint8":
        return "uint8", False
    if feed is not None:
        stored = feed.stored["x"] if hasattr(feed, "stored") else None
        if isinstance(stored, dict | None) or stored.dtype.name not in ("uint8", "uint16"):
            if data.scale != "none":
                remedy = "; --scale=none keeps 0 to 255" if hasattr(feed, "scaled") else ""
                say(f"the dataset doesn't store images as pixels, so those of the files are scaled to [0, 1]{remedy}")
            return "uint8", data.scale != "none"
        return stored.dtype.name, feed.scaling.scaled(stored)
    scale = _said_scale(path, data)
    if scale == "auto" and predictor.model is not None and sources.identity_in(path) is None:
        return "uint8", models.scales_itself(predictor.model) is None
    return "uint8", scale != "none"


def _said_scale(path: pathlib.Path, data: flags.Data) -> str:
    """The --scale of the run that wrote an export. `auto` if neither the flag nor the export tells it."""
    if data.scale != "auto":
        return data.scale
    return str((sources.identity_in(path) or {}).get("scale", "auto"))


def _from_files(files: Sequence[pathlib.Path], predictor: OpenedModel, dtype: str, scaled: bool) -> Iterator[Item]:
    """The images, in the size and with the channels and the scale that the model takes."""
    import tensorflow as tf

    from loopwright.data import decoding, image_decoding
    from loopwright.data.scaling import scale

    input_shape = predictor.input_shape
    if not isinstance(input_shape, tuple) or len(input_shape) != 3 or None in input_shape:
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


def _from_split(dataset: Any, feed: Any, split: str) -> Iterator[Item]:
    if isinstance(dataset.input_shape, dict):
        names = ", ".join(dataset.input_shape)
        raise TrainingError(f"--dataset={dataset.name} has several inputs ({names}); predict takes models of one input")
    place = itertools.count()
    for batch in feed():
        # The feed of a user may give no index.
        index = batch["index"].numpy() if "index" in batch else itertools.islice(place, len(batch["y"]))
        for number, x, y in zip(index, batch["x"].numpy(), batch["y"].numpy(), strict=True):
            yield Item(f"{split}#{number}", x, dataset.class_names[y] if dataset.class_names else None)


def _predict(predictor: OpenedModel, items: Iterator[Item], top: int) -> list[dict[str, Any]]:
    """One row for each item, computed batch by batch."""
    rows: list[dict[str, Any]] = []
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            rows, batch = rows + _rows(predictor, batch, top), []
    return rows + _rows(predictor, batch, top) if batch else rows


def _rows(predictor: OpenedModel, batch: list[Item], top: int) -> list[dict[str, Any]]:
    import numpy as np

    x = np.stack([item.x for item in batch])
    if predictor.model is None or x.dtype.kind == "f":  # A Keras model takes token ids as they are.
        x = x.astype(predictor.dtype)
    takes, given = predictor.input_shape, x.shape[1:]
    if len(takes) != len(given) or any(one not in (None, -1, other) for one, other in zip(takes, given, strict=True)):
        raise TrainingError(f"the model takes inputs of shape {takes}, not {given}", exit_code=2)
    outputs = np.asarray(predictor.call(x))
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise TrainingError(
            f"the model gives outputs of shape {outputs.shape[1:]} for a sample, not one for each class"
        )
    probabilities = _probabilities(outputs.astype(np.float64), predictor.probabilities)
    rows = []
    for item, row in zip(batch, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        names = predictor.class_names
        classes = [
            {"class": names[i] if i < len(names) else str(i), "probability": finite(float(row[i]))} for i in best
        ]
        rows.append({"input": item.name, **({} if item.label is None else {"label": item.label}), "top": classes})
    return rows


def _probabilities(outputs: np.ndarray, given: bool | None) -> np.ndarray:
    """Outputs `[N, classes]` as probabilities. If `given` is None, the sums of the outputs tell whether they are already."""
    import numpy as np

    if given is None:
        given = bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2))
    if given:
        return outputs
    powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _number(probability: float | None) -> str:
    return "nan" if probability is None else f"{probability:.3f}"


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    labelled = any("label" in row for row in rows)
    table = Table(box=None)
    for column in ("input", *(["label"] if labelled else []), "classes, likeliest first"):
        table.add_column(column, overflow="fold")
    for row in rows:
        classes = "  ".join(f"{entry['class']} {_number(entry['probability'])}" for entry in row["top"])
        table.add_row(row["input"], *([row.get("label", "")] if labelled else []), classes)
    Console(highlight=False, markup=False).print(table)
    if labelled:
        right = sum(row["label"] == row["top"][0]["class"] for row in rows)
        print(f"{right} of {len(rows)} right")
