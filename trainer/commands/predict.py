"""`loopwright predict`: what a run's checkpoint or an export predicts for images, rows of a table, or texts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import exported, predicting_output, scaling, setup, sources
from loopwright.trainer.commands import predicting_inputs as inputs

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed
    from loopwright.trainer.commands.predicting_inputs import Item, Sheet
    from loopwright.trainer.commands.predicting_model import Predictor

USAGE = (
    "usage: loopwright predict INPUT... --workdir=DIR [--flags]\n"
    "       loopwright predict INPUT... --restore_from=model.h5 [--flags]\n"
    "       loopwright predict --split=test[:20] --workdir=DIR [--flags]"
)
HELP = (
    "Predicts for images (files, or all in a folder), for the rows of a CSV or TSV file, for the lines of a text file (- is "
    "standard input), or for a split of the dataset, by the newest checkpoint of a run or by an export. A table comes back "
    "with columns for what is predicted. A language model continues each text."
)
GROUPS = (flags.Prediction, flags.Data)

_BATCH = 64


def run(argv: Sequence[str]) -> int:
    """Parses the flags and predicts."""
    (prediction, data), words, source = sources.parse(argv, GROUPS, usage=USAGE, help_text=HELP, positional="INPUT...")
    if bool(words) == bool(prediction.split):
        raise flags.UsageError(
            "give image files or a folder of images, a table, or a file of texts; or give --split=test[:20] of the dataset"
        )
    inputs.check_exist(words)
    setup.start_tensorflow()
    from loopwright.trainer.commands import predicting_model

    if source.config is not None:
        if prediction.split:
            data = dataclasses.replace(data, eval_split=prediction.split)
        with _split_named():
            loaded = source.load_dataset(data)
        dataset: Dataset | None = loaded
        predictor = predicting_model.of_run(source, loaded, prediction.outputs)
        columns = data.columns
    else:
        path, dataset = source.path or pathlib.Path(), None
        facts = exported.of_file(path)
        predictor = predicting_model.of_file(path, facts, prediction)
        columns = data.columns or facts.get("identity", {}).get("columns")
        if prediction.split:
            with _split_named():
                data, dataset = exported.load_dataset(facts, [*argv, f"--eval_split={prediction.split}"], GROUPS)
    job = _Job(source, data, prediction, predictor, dataset)
    if (words and predictor.kind == "table") or any(map(inputs.is_table, words)):
        return _tables(job, words, (columns or "").split(","))
    _print(job, _items(job, words))
    return 0


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is asked, and what answers it."""

    source: sources.Source
    data: flags.Data
    prediction: flags.Prediction
    predictor: Predictor
    dataset: Dataset | None

    @property
    def name(self) -> str:
        return str(self.source.path or self.source.folder)


@contextlib.contextmanager
def _split_named() -> Iterator[None]:
    """Lets an error about the evaluation split speak of --split, which was typed."""
    from loopwright.data.errors import DataError

    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("eval_split=", "split=", 1), exit_code=error.exit_code) from None


def _tables(job: _Job, words: Sequence[str], columns: Sequence[str]) -> int:
    """Answers a table by a table, or by JSON."""
    if job.predictor.kind == "images" or not job.predictor.inputs:
        raise flags.UsageError(
            f"{words[0]}: {job.name} doesn't say how its inputs are made of the columns of a table; give a run or an export "
            "that was trained on a table or on texts"
        )
    sheets = [inputs.from_table(word, job.predictor, [name.strip() for name in columns]) for word in words]
    if len(sheets) > 1 and not job.prediction.json:
        raise flags.UsageError(f"{words[1]}: give one table at a time, or --json")
    sheet: Sheet = sheets[0]
    items = [item for part in sheets for item in part.items]
    rows = _predicted(job, items)
    if job.prediction.json:
        _print_json(job, items, rows)
        return 0
    found = _by_name(job.predictor, rows)
    print(predicting_output.as_csv(sheet, found), end="")
    for line in predicting_output.scores(items, found):
        say(line)
    return 0


def _items(job: _Job, words: Sequence[str]) -> list[Item]:
    """The inputs that the words or the split name."""
    predictor, dataset, split = job.predictor, job.dataset, job.prediction.split
    if split and dataset is not None:
        return list(inputs.from_split(dataset, _feed(job, dataset), split, predictor))
    if predictor.kind == "text":
        return list(inputs.from_texts(words))
    files = inputs.image_files(words)
    feed = None if dataset is None else _feed(job, dataset)
    return list(inputs.from_images(files, predictor, *_stored(job, feed)))


def _feed(job: _Job, dataset: Dataset) -> Feed:
    """The feed over the split, scaled as the model takes it."""
    feed: Any = dataset.eval_feed(_BATCH)
    data, predictor = job.data, job.predictor
    if predictor.opened.dtype == "uint8":
        return scaling.follow("none", feed)
    if job.source.config is not None:
        return scaling.follow(scaling.of_run(data.scale, feed), feed)
    path = job.source.path or pathlib.Path()
    if predictor.opened.model is None:
        return scaling.follow(_said_scale(path, data), feed)
    return scaling.follow(scaling.of_file(path, data.scale, predictor.opened.model, feed), feed)


def _stored(job: _Job, feed: Any) -> tuple[str, bool]:
    """The dtype of images as they are stored, and whether the model takes them scaled to [0, 1]."""
    from loopwright import models

    path, data, opened = job.source.path or pathlib.Path(), job.data, job.predictor.opened
    if opened.dtype == "uint8":
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
    if scale == "auto" and opened.model is not None and sources.identity_in(path) is None:
        return "uint8", models.scales_itself(opened.model) is None
    return "uint8", scale != "none"


def _said_scale(path: pathlib.Path, data: flags.Data) -> str:
    """The --scale of the run that wrote an export. `auto` if neither the flag nor the export tells it."""
    if data.scale != "auto":
        return data.scale
    return str(exported.of_file(path).get("identity", {}).get("scale", "auto"))


def _predicted(job: _Job, items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row for each item, computed batch by batch."""
    predictor, prediction = job.predictor, job.prediction
    rows: list[dict[str, Any]] = []
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        if predictor.continues and not prediction.split:
            rows += _continued(job, batch)
        else:
            rows += predictor.rows(_x(predictor, batch, raw=not prediction.split), prediction.top)
    return rows


def _x(predictor: Predictor, batch: Sequence[Item], *, raw: bool) -> Any:
    """A batch of the model's inputs."""
    import numpy as np
    import tensorflow as tf

    from loopwright.data.errors import DataError

    learned = predictor.preprocessing
    if not raw or learned is None:
        return tf.nest.map_structure(lambda *parts: np.stack(parts), *(item.x for item in batch))
    try:
        return learned(learned.batch([item.x for item in batch])).numpy()
    except DataError:
        for item in batch:  # to name the place of the row in its file
            try:
                learned.batch([item.x])
            except DataError as error:
                problem = str(error).removeprefix("row 1, ").removeprefix("row 1 ")
                raise TrainingError(f"{item.name}: {problem}", exit_code=2) from None
        raise


def _continued(job: _Job, batch: Sequence[Item]) -> list[dict[str, Any]]:
    """What a language model says after each text."""
    import numpy as np

    from loopwright.trainer.commands.predicting_texts import continued

    predictor, prediction, learned = job.predictor, job.prediction, job.predictor.preprocessing
    (head,) = predictor.heads.values()

    def call(ids: np.ndarray) -> np.ndarray:
        outputs = np.asarray(predictor.opened.call(ids))
        with np.errstate(divide="ignore"):
            return np.log(outputs) if head.goal.activated else outputs

    texts = continued(
        call,
        learned,  # type: ignore[arg-type]
        [item.x for item in batch],
        length=prediction.length,
        temperature=prediction.temperature,
        seed=prediction.seed,
    )
    return [{"text": text} for text in texts]


def _by_name(predictor: Predictor, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows by name of the target, also of a single one."""
    names = list(predictor.heads) or [""]
    return list(rows) if len(names) > 1 else [{names[0]: row} for row in rows]


def _print_json(job: _Job, items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> None:
    print(json.dumps({"from": job.name, "predictions": predicting_output.as_json(items, rows)}))


def _print(job: _Job, items: Sequence[Item]) -> None:
    rows = _predicted(job, items)
    if job.prediction.json:
        _print_json(job, items, rows)
    elif rows and "text" in rows[0]:
        for item, row in zip(items, rows, strict=True):
            print(f"{item.x}{row['text']}\n")
    else:
        found = _by_name(job.predictor, rows)
        predicting_output.print_table(items, found)
        for line in predicting_output.scores(items, found):
            print(line)
