"""Loading a dataset by its name."""

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
from loopwright.data.image_folder import FOLDER, ImageFolder
from loopwright.data.protocols import StoredSplit
from loopwright.data.record_files import ARRAY_RECORD, RecordFiles
from loopwright.data.splits import RecordSplit
from loopwright.data.user_dataset import load_user_dataset

#: The splits that are evaluated unless another one is named, in this order.
_EVAL_SPLITS = ("test", "validation", "val", "valid", "dev", "eval")
_USER_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


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
    """Finds, prepares and describes a dataset. Returns a `Dataset`, or a `UserDataset` with the same feeds.

    Args:
      name: a key of `DATASETS`; a TFDS builder (`name`, `name/config` or `name/config:version`); `folder:PATH` for
        class folders of images; or `module:function` for a function that makes a dataset (see `UserDataset`).
      data_dir: folder of prepared datasets; the default is that of TFDS.
      manual_dir: folder with the source files of the builder, for preparing without a network.
      download: whether TFDS may download.
      train_split, eval_split: in TFDS syntax. The default `eval_split` is the first of `test`,
        `validation`, `val`, `valid`, `dev` and `eval` that exists.
      feed, prepare_array_record, max_bad_records, progress, say: see `Options`.
      memory_budget: bytes that decoded samples may take; the default is a third of the memory.
      input_key, label_key, weight_key: names of features; `input_key` may hold several, separated by commas. The
        defaults are the supervised keys of the builder, or `image` and `label`, and no weight. A label that isn't a
        ClassLabel is a regression target.
      image_size: height and width to which images are resized.

    Raises DataError for an unknown name, split, feature or feed, and for a dataset that is empty or can't be prepared.
    """
    budget = default_memory_budget() if memory_budget is None else memory_budget
    options = Options(feed, budget, prepare_array_record, max_bad_records, progress, say)
    _check_feed(name, options)
    keys = {"input_key": input_key, "label_key": label_key, "weight_key": weight_key}
    if name.startswith(FOLDER):
        _tell_unused(name, options, keys)
        return _load_folder(name, train_split, eval_split, image_size, options)
    if _USER_FUNCTION.fullmatch(name):
        own = {"image_size": image_size, "max_bad_records": max_bad_records or None}
        _tell_unused(name, options, {**keys, **own, "feed": None if feed == "auto" else feed})
        return load_user_dataset(name, train_split, eval_split or "test", options)
    builder = find_builder(name, data_dir)
    wanted = (input_key, label_key, weight_key)
    if (
        builder.info.features is not None
    ):  # Most builders know them without their data, so nothing is downloaded in vain.
        _decoder(name, builder, wanted, image_size)
    _prepare(builder, manual_dir, download, options)
    decoder = _decoder(name, builder, wanted, image_size)
    return _describe(name, builder, decoder, train_split, eval_split, options)


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a name. Raises DataError (exit 2), which suggests similar names, if there is none."""
    if name in DATASETS:
        return pkgutil.resolve_name(DATASETS[name].builder)(data_dir=data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*DATASETS, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise DataError(
            f"dataset={name!r}: no such dataset; {hint}'loopwright datasets' lists them", exit_code=2
        ) from None
    except (ValueError, AssertionError) as error:
        raise DataError(f"dataset={name!r}: {first_line(error)}", exit_code=2) from None


def _check_feed(name: str, options: Options) -> None:
    """Raises DataError (exit 2) for an unknown feed. Warns if `streaming` needs files that must exist already."""
    if options.feed not in FEEDS:
        raise DataError(f"feed={options.feed!r}: no such feed {_nearest(options.feed, FEEDS)}", exit_code=2)
    needs_files = options.feed == "streaming" and not options.prepare_array_record and not name.startswith(FOLDER)
    if needs_files and options.say:
        options.say("prepare_array_record=False: streaming works only if ArrayRecord files exist already")


def _tell_unused(name: str, options: Options, given: dict[str, Any]) -> None:
    """Names the parameters that mean nothing for a dataset, as far as they are given."""
    unused = [parameter for parameter, value in given.items() if value is not None]
    if unused and options.say:
        options.say(f"{name} doesn't use {', '.join(unused)}")


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None, download: bool, options: Options) -> None:
    """Prepares the dataset of a builder, unless it is prepared."""
    array_record = options.feed == "streaming" and options.prepare_array_record and array_records.installed()
    prepare.ensure_prepared(
        builder, manual_dir=manual_dir, download=download, file_format=ARRAY_RECORD if array_record else None
    )


def _decoder(
    name: str,
    builder: tfds.core.DatasetBuilder,
    wanted: tuple[str | None, str | None, str | None],
    image_size: tuple[int, int] | None,
) -> Decoder:
    """The decoder for the features that are asked for: `wanted` holds `input_key`, `label_key` and `weight_key`."""
    decoder = Decoder(builder.info.features, _keys(name, builder.info, *wanted), image_size)
    try:
        _ = decoder.specs
    except DataError as error:
        raise DataError(f"{name}: {error}", exit_code=error.exit_code) from None
    return decoder


def _describe(
    name: str,
    builder: tfds.core.DatasetBuilder,
    decoder: Decoder,
    train_split: str,
    eval_split: str | None,
    options: Options,
) -> Dataset:
    """The dataset of a builder that is prepared."""

    def open_split(split: str) -> StoredSplit:
        return RecordSplit(RecordFiles.of(builder, split), decoder)

    splits = builder.info.splits
    sizes = {split: info.num_examples for split, info in splits.items()}
    eval_split = _eval_split(name, sizes, eval_split)
    _check_splits(name, sizes, train_split, eval_split, lambda split: splits[split].num_examples)
    label = builder.info.features[decoder.keys.label]
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    if isinstance(label, tfds.features.ClassLabel) and len(class_names) < 2:
        raise DataError(f"{name}: there is only one class ({', '.join(class_names)}); a classifier needs two or more")
    return Dataset(
        name=name,
        full_name=builder.info.full_name,
        features=builder.info.features,
        split_sizes=sizes,
        train_split=train_split,
        eval_split=eval_split,
        keys=decoder.keys,
        class_names=class_names,
        open_split=open_split,
        options=options,
    )


def _load_folder(
    name: str, train_split: str, eval_split: str | None, image_size: tuple[int, int] | None, options: Options
) -> Dataset:
    folder = ImageFolder(pathlib.Path(name.removeprefix(FOLDER)).expanduser(), image_size)
    if options.say:
        for remark in folder.remarks:
            options.say(remark)
    eval_split = _eval_split(name, folder.split_sizes, eval_split)
    _check_splits(
        name, folder.split_sizes, train_split, eval_split, lambda split: folder.open_split(split).num_examples
    )
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
    found = next((split for split in _EVAL_SPLITS if split in splits), None)
    if found is None:
        raise DataError(
            f"{name} has no test or validation split (it has {', '.join(splits)}); name one with eval_split, such as "
            "train_split='train[:90%]' and eval_split='train[90%:]'",
            exit_code=2,
        )
    return found


def _check_splits(
    name: str, splits: Iterable[str], train_split: str, eval_split: str, size_of: Callable[[str], int]
) -> None:
    """Raises DataError (exit 2) unless both splits exist and hold samples."""
    for parameter, split in (("train_split", train_split), ("eval_split", eval_split)):
        try:
            size = size_of(split)
        except (KeyError, ValueError, AssertionError):
            raise DataError(
                f"{parameter}={split!r}: no such split of {name}; it has {', '.join(splits)}, and slices such as "
                "train[:90%]",
                exit_code=2,
            ) from None
        if size == 0:
            raise DataError(
                f"{parameter}={split!r}: this split of {name} is empty; choose one that holds samples", exit_code=2
            )


def _keys(
    name: str, info: tfds.core.DatasetInfo, input_key: str | None, label_key: str | None, weight_key: str | None
) -> Keys:
    """The feature names of the inputs, the label and the weight: those that are given, or otherwise the builder's."""
    inputs, label = _supervised_keys(info)
    if input_key is not None:
        inputs = tuple(key.strip() for key in input_key.split(","))
    keys = Keys(inputs, label if label_key is None else label_key, weight_key)
    given = {"input_key": input_key, "label_key": label_key, "weight_key": weight_key}
    parameters = dict.fromkeys(keys.inputs, "input_key") | {keys.label: "label_key", weight_key: "weight_key"}
    for key, parameter in parameters.items():
        if key is None or key in info.features:
            continue
        if given[parameter] is not None:
            raise DataError(
                f"{parameter}={key!r}: no such feature of {name} {_nearest(key, info.features)}", exit_code=2
            )
        raise DataError(
            f"{name} doesn't say what its input and its label are; name them with input_key and label_key, out of "
            f"{', '.join(info.features)}",
            exit_code=2,
        )
    return keys


def _supervised_keys(info: tfds.core.DatasetInfo) -> tuple[tuple[str, ...], str]:
    """The feature names of the inputs and of the label that the builder declares, or `image` and `label`."""
    keys = info.supervised_keys
    if keys and len(keys) >= 2 and isinstance(keys[1], str):
        if isinstance(keys[0], str):
            return (keys[0],), keys[1]
        if isinstance(keys[0], tuple) and all(isinstance(key, str) for key in keys[0]):
            return keys[0], keys[1]
    return ("image",), "label"


def _nearest(value: str, choices: Iterable[str]) -> str:
    """The choices, and the one most similar to a mistyped value: "(train, test); did you mean 'test'?"."""
    choices = list(choices)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f"({', '.join(choices)})" + (f"; did you mean {close[0]!r}?" if close else "")
