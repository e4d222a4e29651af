"""`loopwright datasets [NAME]`: the list of datasets, or what one of them holds."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import data, flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import setup

if TYPE_CHECKING:
    from loopwright.data import Dataset

USAGE = "usage: loopwright datasets [NAME] [--flags]"
HELP = (
    "Lists the datasets of this program and those prepared in --data_dir, or describes NAME: features, splits, class "
    "balance, how it is read, and on request a sheet of images and the speed of the feed."
)

_SECONDS_MEASURED = 5.0
_ROWS_ON_SHEET, _CHANGES_ON_SHEET = 10, 5
_CLASSES_SHOWN = 30


def run(argv: Sequence[str]) -> int:
    """Parses the flags, and lists or describes."""
    (config, description), names = flags.parse(
        argv, [flags.Data, flags.Description], usage=USAGE, help_text=HELP, positional="NAME", checked=False
    )
    if names:
        config = dataclasses.replace(config, dataset=names[0])
    flags.check((config, description))
    if names or any(word.lstrip("-").partition("=")[0] == "dataset" for word in argv):
        return _describe(config, description)
    return _list(config.data_dir, as_json=description.json)


def _list(data_dir: str | None, *, as_json: bool) -> int:
    prepared = data.prepared(data_dir)
    if as_json:
        here = [{"name": entry.name, "gigabytes": entry.gigabytes} for entry in prepared]
        print(json.dumps({"own": {name: entry.summary for name, entry in data.DATASETS.items()}, "prepared": here}))
        return 0
    for name, entry in data.DATASETS.items():
        print(f"{name:<28}{entry.summary}")
    for found in prepared:
        print(f"{found.name:<28}prepared, {found.gigabytes:.2f} GB ({found.path})")
    print(f"{'name[/config][:version]':<28}Any TFDS builder: fashion_mnist, cifar10, imagenette/320px:1.0.0 …")
    print(f"{'folder:PATH':<28}Images in PATH/train/CLASS/ and PATH/test/CLASS/, or in PATH/CLASS/.")
    print(f"{'csv:PATH':<28}A table with a header (CSV or TSV, .gz too), or a folder with train.csv and test.csv.")
    print(f"{'npz:PATH':<28}NumPy arrays: x_train, y_train, x_test and y_test, or x and y.")
    print(
        f"{'text:FOLDER':<28}Texts in FOLDER/train/CLASS/*.txt and FOLDER/test/CLASS/*.txt, or in FOLDER/CLASS/*.txt."
    )
    print(f"{'module:function':<28}Your own: a function of (split) that returns a feed or a tf.data.Dataset.")
    return 0


def _describe(config: flags.Data, description: flags.Description) -> int:
    if description.sheet and importlib.util.find_spec("matplotlib") is None:
        raise TrainingError("--sheet needs the extra 'plots': pip install 'loopwright[plots]'", exit_code=2)
    setup.start_tensorflow()
    dataset = setup.load_dataset(config)
    facts = _facts(dataset)
    if description.measure:
        facts["examples_per_second"] = _measure(dataset, config, description.seed)
    if description.sheet:
        _draw_sheet(dataset, config.augment, description)
        facts["sheet"] = description.sheet
    if description.json:
        print(json.dumps(facts))
        return 0
    _print(facts)
    return 0


def _facts(dataset: Any) -> dict[str, Any]:
    """What a dataset holds, as values for JSON."""

    facts: dict[str, Any] = {"name": dataset.name, "fingerprint": dataset.fingerprint}
    if isinstance(dataset, data.Dataset):
        facts["full_name"] = dataset.full_name
        facts["features"] = {
            key: {
                "kind": type(feature).__name__,
                "shape": _shape(feature),
                "dtype": _dtype(feature),
            }
            for key, feature in dataset.features.items()
        }
        facts["splits"] = dict(dataset.split_sizes)
    facts["input"] = getattr(dataset, "input_key", None)
    facts["input_shape"] = dataset.input_shape
    facts["learns"] = {name: target.kind for name, target in dataset.targets.items()}
    facts["classes"] = list(dataset.class_names)
    facts["read_as"] = {}
    facts["class_balance"] = {}
    for split in (dataset.train_split, dataset.eval_split):
        facts["read_as"][split] = dataset.kind(split)
        if dataset.class_names and isinstance(dataset, data.Dataset):
            facts["class_balance"][split] = dict(zip(dataset.class_names, dataset.class_counts(split), strict=True))
    return facts


def _shape(feature: Any) -> Any:
    shape = getattr(feature, "shape", None)
    return list(shape) if isinstance(shape, tuple) else None


def _dtype(feature: Any) -> str:
    kind = getattr(feature, "np_dtype", None)
    return getattr(kind, "__name__", str(kind or ""))


def _measure(dataset: Dataset, config: flags.Data, seed: int) -> int:
    """How many samples a second the training feed alone gives, after a second of warm-up."""
    feed = dataset.train_feed(
        config.batch_size, seed=seed, drop_remainder=config.drop_remainder, augment=config.augment or None
    )
    steps, samples, start, warm = 0, 0, time.perf_counter(), False
    with setup.bad_samples_named(dataset, feed, lambda: steps):
        for batch in feed():
            steps += 1
            samples += len(batch["index"])
            elapsed = time.perf_counter() - start
            if not warm and elapsed > 1:
                samples, start, warm = 0, time.perf_counter(), True
            elif elapsed > _SECONDS_MEASURED:
                break
    return round(samples / (time.perf_counter() - start))


def _draw_sheet(dataset: Dataset, augment: str, description: flags.Description) -> None:
    """Writes a PNG with a row for each of the first samples: the image as stored, and what --augment makes of it."""
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure

    if not isinstance(dataset.input_shape, tuple) or len(dataset.input_shape) != 3:
        raise TrainingError(
            f"--sheet={description.sheet}: draws images, and an input of {dataset.name} has the shape "
            f"{dataset.input_shape}; leave it out",
            exit_code=2,
        )
    rows = min(_ROWS_ON_SHEET, dataset.train_feed(1).examples_per_epoch)
    feed = dataset.train_feed(rows, seed=description.seed)
    with setup.bad_samples_named(dataset, feed, lambda: 0):
        plain = next(iter(feed()))
    columns = [plain["x"].numpy()]
    if augment:
        from loopwright.data import augment as augmentation
        from loopwright.data.feed import scale

        change = augmentation.parse(augment, seed=description.seed)
        for epoch in range(_CHANGES_ON_SHEET if change else 0):
            epochs = tf.fill(tf.shape(plain["index"]), tf.constant(epoch, tf.int64))
            columns.append(scale(change(plain["x"], plain["index"], epochs)).numpy())  # type: ignore[misc]
    figure = Figure(figsize=(1.6 * len(columns) + 1, 1.5 * len(columns[0])))
    axes = figure.subplots(len(columns[0]), len(columns), squeeze=False)
    for row, (index, label) in enumerate(zip(plain["index"].numpy(), plain["y"].numpy(), strict=True)):
        for column, images in enumerate(columns):
            image = np.clip(images[row], 0, 1)
            axes[row][column].imshow(image[..., 0] if image.shape[-1] != 3 else image, cmap="gray", vmin=0, vmax=1)
            axes[row][column].set_xticks([])
            axes[row][column].set_yticks([])
        name = dataset.class_names[label] if dataset.class_names else str(label)
        axes[row][0].set_ylabel(f"{name}\n#{index}", fontsize=8)
    for column, axis in enumerate(axes[0]):
        axis.set_title("as stored" if column == 0 else f"epoch {column}", fontsize=8)
    try:
        pathlib.Path(description.sheet or "").parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(str(description.sheet), dpi=110, bbox_inches="tight", format="png")
    except OSError as error:
        raise TrainingError(f"--sheet={description.sheet}: can't be written ({error.strerror})", exit_code=2) from None


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{facts.get('full_name', facts['name'])}   fingerprint {facts['fingerprint']}", markup=False)
    if "features" in facts:
        table = Table("feature", "kind", "shape", "dtype", box=None, pad_edge=False)
        for key, feature in facts["features"].items():
            shape = "" if feature["shape"] is None else "×".join("?" if n is None else str(n) for n in feature["shape"])
            table.add_row(key, feature["kind"], shape, feature["dtype"])
        console.print(table)
        splits = ", ".join(f"{name} {size:,}" for name, size in facts["splits"].items())
        console.print(f"splits       {splits}", markup=False)
    for label, kind in facts["learns"].items():
        console.print(f"learns       {label}: {kind}", markup=False)
    for split, kind in facts["read_as"].items():
        console.print(f"read as      {split}: {kind}", markup=False)
    if facts["class_balance"]:
        table = Table("class", *facts["class_balance"], box=None, pad_edge=False)
        for name in facts["classes"][:_CLASSES_SHOWN]:
            table.add_row(name, *(f"{counts[name]:,}" for counts in facts["class_balance"].values()))
        console.print(table)
        if len(facts["classes"]) > _CLASSES_SHOWN:
            console.print(f"… {len(facts['classes']) - _CLASSES_SHOWN} more classes (--json lists all)")
    if "examples_per_second" in facts:
        console.print(f"speed        {facts['examples_per_second']:,} examples/s from the feed alone")
    if "sheet" in facts:
        console.print(f"sheet        {facts['sheet']}", markup=False)
