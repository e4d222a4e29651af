"""Loading a dataset by its name."""

from __future__ import annotations

import difflib
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow_datasets as tfds

from loopwright.data import array_records, prepare
from loopwright.data.catalog import DATASETS, FEEDS, FOLDER
from loopwright.data.dataset import Dataset
from loopwright.data.describe import Wanted, describe, plan
from loopwright.data.errors import DataError, first_line
from loopwright.data.file_builder import open_files
from loopwright.data.file_names import is_files
from loopwright.data.image_folder import ImageFolder
from loopwright.data.keys import Keys, nearest
from loopwright.data.options import Options, Progress, default_memory_budget
from loopwright.data.paths import local_path
from loopwright.data.preprocessing import Recipe
from loopwright.data.record_files import ARRAY_RECORD
from loopwright.data.target import CLASS, Target
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
    task: str = "auto",
    vocabulary: int = 20_000,
    sequence_length: int | None = None,
    tokens: str = "auto",
    columns: str | None = None,
    preprocessing: dict[str, Any] | None = None,
    max_bad_records: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Any:
    """Finds, prepares and describes a dataset. Returns a `Dataset`, or a `UserDataset` with the same feeds.

    Args:
      name: a TFDS builder (`name`, `name/config` or `name/config:version`) or a key of `DATASETS`; `folder:PATH` for class
        folders of images; `csv:PATH`, `npz:PATH` or `text:FOLDER`; or `module:function` (see `UserDataset`).
      data_dir: folder of prepared datasets; the default is that of TFDS.
      manual_dir: folder with the source files of the builder, for preparing without a network.
      download: whether TFDS may download.
      train_split, eval_split: in TFDS syntax. The default `eval_split` is the first of `test`, `validation`, `val`, … .
      feed, prepare_array_record, max_bad_records, progress, say: see `Options`.
      memory_budget: bytes that decoded samples may take; the default is a third of the memory.
      input_key, label_key, weight_key: names of features; the first two may hold several, separated by commas. The
        defaults are the supervised keys of the builder, or `image` and `label`, and no weight.
      image_size: height and width to which images are resized.
      task: how labels are read; see `Wish`. `language_model` learns the next token of a text, and needs no label.
      vocabulary, sequence_length, tokens, preprocessing: how texts and sequences are read, and the state that an earlier run
        learned from its training split; see `Recipe`.
      columns: names for the columns of `csv:PATH`, separated by commas.

    Raises DataError for an unknown name, split, feature or feed, for a folder that isn't on this machine, for features that
    nothing can be learned from, and for a dataset that is empty or can't be prepared.
    """
    budget = default_memory_budget() if memory_budget is None else memory_budget
    options = Options(feed, budget, prepare_array_record, max_bad_records, progress, say)
    recipe = Recipe(tokens, vocabulary, sequence_length, preprocessing)
    wanted = Wanted(input_key, label_key, weight_key, task, image_size, recipe)
    return _load(name, (data_dir, manual_dir, columns), (train_split, eval_split), wanted, options, download)


def _load(
    name: str,
    places: tuple[str | None, str | None, str | None],
    splits: tuple[str, str | None],
    wanted: Wanted,
    options: Options,
    download: bool,
) -> Any:
    """The dataset of a name. `places` are `data_dir`, `manual_dir` and the names of columns."""
    data_dir, manual_dir, columns = places
    _check_feed(name, options)
    unused: dict[str, Any] = {
        "input_key": wanted.input_key,
        "label_key": wanted.label_key,
        "weight_key": wanted.weight_key,
    }
    unused |= {"columns": columns, "sequence_length": wanted.recipe.sequence_length}
    if name.startswith(FOLDER):
        _tell_unused(name, options, unused)
        return _load_folder(name, splits, wanted.image_size, options)
    if not is_files(name) and _USER_FUNCTION.fullmatch(name):
        own = {"image_size": wanted.image_size, "max_bad_records": options.max_bad_records or None}
        _tell_unused(name, options, {**unused, **own, "feed": None if options.feed == "auto" else options.feed})
        return load_user_dataset(name, splits[0], splits[1] or "test", options)
    manual_dir = str(local_path("manual_dir", manual_dir)) if manual_dir else None
    if is_files(name):
        builder = open_files(
            name,
            str(local_path("data_dir", data_dir)) if data_dir else None,
            columns=columns,
            input_key=wanted.input_key,
            label_key=wanted.label_key,
            task=wanted.task,
            options=options,
        )
    else:
        builder = find_builder(name, data_dir)
        _tell_unused(name, options, {"columns": columns})
    if builder.info.features is not None:
        # Most builders know their features without their data. A feature that doesn't suit is refused before a download.
        plan(name, builder.info, wanted)
    _prepare(builder, manual_dir, download, options)
    plan(name, builder.info, wanted)
    infos = builder.info.splits
    eval_split = _eval_split(name, infos, splits[1])
    _check_splits(name, infos, splits[0], eval_split, lambda split: infos[split].num_examples)
    return describe(name, builder, wanted, (splits[0], eval_split), options)


def find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a name. Raises DataError (exit 2), which suggests similar names, if there is none."""
    data_dir = str(local_path("data_dir", data_dir)) if data_dir else None
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
        raise DataError(
            f"dataset={name!r}: {first_line(error)}; 'loopwright datasets' lists the names", exit_code=2
        ) from None


def _check_feed(name: str, options: Options) -> None:
    """Raises DataError (exit 2) for an unknown feed. Warns if `streaming` needs files that must exist already."""
    if options.feed not in FEEDS:
        raise DataError(f"feed={options.feed!r}: no such feed {nearest(options.feed, FEEDS)}", exit_code=2)
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


def _load_folder(
    name: str, splits: tuple[str, str | None], image_size: tuple[int, int] | None, options: Options
) -> Dataset:
    folder = ImageFolder(local_path("dataset", name.removeprefix(FOLDER)), image_size)
    if options.say:
        for remark in folder.remarks:
            options.say(remark)
    train_split, eval_split = splits[0], _eval_split(name, folder.split_sizes, splits[1])
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
        targets={"label": Target(CLASS, (), folder.class_names)},
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
