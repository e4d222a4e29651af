"""From a name to a dataset."""

from __future__ import annotations

import difflib
import pathlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow_datasets as tfds

from loopwright.data import array_records, prepare
from loopwright.data.catalog import DATASETS, FEEDS
from loopwright.data.dataset import Dataset, Options, Progress, default_memory_budget
from loopwright.data.decoding import Decoder, Keys
from loopwright.data.errors import DataError, first_line
from loopwright.data.image_folder import ImageFolder
from loopwright.data.records import ARRAY_RECORD, RecordFiles
from loopwright.data.splits import RecordSplit, StoredSplit

_USER_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FOLDER = "folder:"


def load(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    download: bool = True,
    train_split: str = "train",
    eval_split: str | None = None,
    feed: str = "auto",
    memory_budget: int | None = None,
    prepare_array_record: bool = True,
    input_key: str | None = None,
    label_key: str | None = None,
    weight_key: str | None = None,
    image_size: tuple[int, int] | None = None,
    max_bad_records: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Any:
    """Finds, prepares and describes a dataset.

    Args:
      name: a key of `DATASETS`; a TFDS builder as `name`, `name/config` or `name/config:version`; `folder:PATH`, class
        folders of images; or `module:function`, which returns a feed or a `tf.data.Dataset` (see `users.UserDataset`).
      data_dir: folder of prepared datasets; TFDS's own by default.
      manual_dir: folder with the builder's source files, for preparing without a network.
      download: whether TFDS may download.
      train_split, eval_split: TFDS split syntax; `eval_split` is `test` by default, or else `validation`.
      feed: one of `FEEDS`; see `Options`.
      memory_budget: bytes that decoded samples may take, a third of the memory by default.
      prepare_array_record: whether an ArrayRecord copy may be written beside TFRecord files.
      input_key, label_key, weight_key: features; several inputs with commas between them. The builder's supervised keys,
        or `image` and `label`, by default, and no weight. A label that is no ClassLabel is a regression target.
      image_size: height and width to which images are resized.
      max_bad_records: bad samples that are left out of each split before it is an error.
      progress: called as `progress(what, done, total)` while a split is decoded, copied or searched.
      say: called with a line for the user where a choice has a price.

    Returns a `Dataset`, or a `UserDataset`, which has the same attributes and feeds.

    Raises DataError: an unknown name, split, feature or feed; a dataset that can't be prepared, or is empty.
    """
    if feed not in FEEDS:
        raise DataError(f"--feed={feed}: no such feed {_nearest(feed, FEEDS)}", exit_code=2)
    options = Options(
        feed=feed,
        memory_budget=default_memory_budget() if memory_budget is None else memory_budget,
        prepare_array_record=prepare_array_record,
        max_bad_records=max_bad_records,
        progress=progress,
        say=say,
    )
    if feed == "streaming" and not prepare_array_record and not name.startswith(_FOLDER) and say:
        say("--noprepare_array_record: streaming only where ArrayRecord files are there already")
    if name.startswith(_FOLDER):
        return _load_folder(name, train_split, eval_split, image_size, options)
    if _USER_FUNCTION.fullmatch(name):
        from loopwright.data.user_dataset import load_user_dataset

        return load_user_dataset(name, train_split, eval_split or "test", options)
    builder = find_builder(name, data_dir)
    array_record = feed == "streaming" and prepare_array_record and array_records.installed()
    prepare.ensure_prepared(
        builder, manual_dir=manual_dir, download=download, file_format=ARRAY_RECORD if array_record else None
    )
    features = builder.info.features
    keys = _keys(name, builder.info, input_key, label_key, weight_key)
    decoder = Decoder(features, keys, image_size)

    def open_split(split: str) -> StoredSplit:
        return RecordSplit(RecordFiles.of(builder, split), decoder)

    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    eval_split = _eval_split(name, sizes, eval_split)
    for flag, split in (("--train_split", train_split), ("--eval_split", eval_split)):
        _check_split(name, sizes, flag, split, lambda split: builder.info.splits[split].num_examples)
    try:
        _ = decoder.specs
    except DataError as error:
        raise DataError(f"{name}: {error}", exit_code=error.exit_code) from None
    label = features[keys.label]
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    if isinstance(label, tfds.features.ClassLabel) and len(class_names) < 2:
        raise DataError(f"{name}: one class only ({', '.join(class_names)}); a classifier needs two or more")
    return Dataset(
        name=name,
        full_name=builder.info.full_name,
        features=features,
        split_sizes=sizes,
        train_split=train_split,
        eval_split=eval_split,
        keys=keys,
        class_names=class_names,
        open_split=open_split,
        options=options,
    )


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a name. Raises DataError (exit 2) with the nearest names for one that isn't there."""
    if name in DATASETS:
        return pkgutil.resolve_name(DATASETS[name].builder)(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*DATASETS, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise DataError(
            f"--dataset={name}: no such dataset; {hint}'loopwright datasets' lists them", exit_code=2
        ) from None
    except (ValueError, AssertionError) as error:
        raise DataError(f"--dataset={name}: {first_line(error)}", exit_code=2) from None


def _load_folder(
    name: str, train_split: str, eval_split: str | None, image_size: tuple[int, int] | None, options: Options
) -> Dataset:
    folder = ImageFolder(pathlib.Path(name.removeprefix(_FOLDER)).expanduser(), image_size)
    eval_split = _eval_split(name, folder.split_sizes, eval_split)
    for flag, split in (("--train_split", train_split), ("--eval_split", eval_split)):
        _check_split(name, folder.split_sizes, flag, split, lambda split: folder.open_split(split).num_examples)
    return Dataset(
        name=name,
        full_name=folder.root.name,
        features=folder.features,
        split_sizes=folder.split_sizes,
        train_split=train_split,
        eval_split=eval_split,
        keys=Keys(("image",), "label"),
        class_names=folder.class_names,
        open_split=folder.open_split,
        options=options,
    )


def _eval_split(name: str, splits: Iterable[str], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    found = next((split for split in ("test", "validation") if split in splits), None)
    if found is None:
        raise DataError(
            f"{name} has no test or validation split (it has {', '.join(splits)}); name one with --eval_split, "
            "such as --train_split='train[:90%]' --eval_split='train[90%:]'",
            exit_code=2,
        )
    return found


def _check_split(name: str, splits: Iterable[str], flag: str, split: str, size_of: Callable[[str], int]) -> None:
    try:
        size = size_of(split)
    except (KeyError, ValueError, AssertionError):
        raise DataError(
            f"{flag}={split}: no such split of {name}; it has {', '.join(splits)}, and slices such as train[:90%]",
            exit_code=2,
        ) from None
    if size == 0:
        raise DataError(f"{flag}={split}: this split of {name} is empty", exit_code=2)


def _keys(
    name: str, info: tfds.core.DatasetInfo, input_key: str | None, label_key: str | None, weight_key: str | None
) -> Keys:
    """The feature names of the inputs, of the label and of the weight: those that are typed, or else the builder's."""
    inputs, label = _supervised_keys(info)
    if input_key is not None:
        inputs = tuple(key.strip() for key in input_key.split(","))
    keys = Keys(inputs, label if label_key is None else label_key, weight_key)
    flags = dict.fromkeys(keys.inputs, "--input_key") | {keys.label: "--label_key", weight_key: "--weight_key"}
    for key, flag in flags.items():
        if key is None or key in info.features:
            continue
        if {"--input_key": input_key, "--label_key": label_key, "--weight_key": weight_key}[flag] is not None:
            raise DataError(f"{flag}={key}: no such feature of {name} {_nearest(key, info.features)}", exit_code=2)
        raise DataError(
            f"{name} doesn't say what its input and its label are; name them with --input_key and --label_key, out of "
            f"{', '.join(info.features)}",
            exit_code=2,
        )
    return keys


def _supervised_keys(info: tfds.core.DatasetInfo) -> tuple[tuple[str, ...], str]:
    keys = info.supervised_keys
    if keys and len(keys) >= 2 and isinstance(keys[1], str):
        if isinstance(keys[0], str):
            return (keys[0],), keys[1]
        if isinstance(keys[0], tuple) and all(isinstance(key, str) for key in keys[0]):
            return keys[0], keys[1]
    return ("image",), "label"


def _nearest(value: str, choices: Iterable[str]) -> str:
    """The choices, and the nearest to a mistyped value: "(train, test); did you mean 'test'?"."""
    choices = list(choices)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f"({', '.join(choices)})" + (f"; did you mean {close[0]!r}?" if close else "")
