"""From a TFDS builder to a dataset: its keys, targets and preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from loopwright.data import bad_samples, preprocessing
from loopwright.data.dataset import Dataset, Options
from loopwright.data.decoding import Decoder
from loopwright.data.errors import DataError
from loopwright.data.keys import choose_keys
from loopwright.data.language import language_split
from loopwright.data.preprocessing import ARRAYS, TABLE, Preprocessing, Recipe, input_form
from loopwright.data.protocols import StoredSplit
from loopwright.data.record_files import RecordFiles
from loopwright.data.splits import RecordSplit, good_batches
from loopwright.data.table import refuse_texts
from loopwright.data.target import CLASS, TOKENS, Target, Wish, all_zeros_and_ones, targets_of, undecided
from loopwright.data.text import TextPreprocessing

#: How many batches of samples are looked at to see whether a vector of whole numbers holds nothing but 0 and 1.
_BATCHES_LOOKED_AT = 16


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a user says about the samples of a dataset.

    Attributes:
      input_key, label_key, weight_key: names of features; the first two may hold several, separated by commas.
      task: how labels are read; see `targets_of`.
      image_size: height and width to which images are resized.
      recipe: how texts and tables are preprocessed.
    """

    input_key: str | None = None
    label_key: str | None = None
    weight_key: str | None = None
    task: str = "auto"
    image_size: tuple[int, int] | None = None
    recipe: Recipe = dataclasses.field(default_factory=Recipe)


def plan(name: str, info: tfds.core.DatasetInfo, wanted: Wanted) -> tuple[Decoder, Recipe]:
    """The decoder for what is wanted, as far as the features decide it, and the recipe with its defaults.

    Raises DataError (exit 2) for features that nothing can be learned from. No data is needed.
    """
    keys = choose_keys(name, info, wanted.input_key, wanted.label_key, wanted.weight_key, wanted.task)
    features = info.features
    try:
        recipe = wanted.recipe.completed(features, keys)
        if input_form(features, keys) == TABLE:
            refuse_texts(features, keys.inputs)
        targets = targets_of(features, keys, _wish(features, keys, wanted, recipe))
        decoder = Decoder(features, keys, wanted.image_size, targets, recipe.sequence_length)
        _ = decoder.specs
    except DataError as error:
        raise DataError(f"{name}: {error}", exit_code=error.exit_code) from None
    return decoder, recipe


def describe(
    name: str,
    builder: tfds.core.DatasetBuilder,
    wanted: Wanted,
    splits: tuple[str, str],
    options: Options,
) -> Dataset:
    """The dataset of a builder that is prepared. `splits` are the training and the evaluation split.

    One pass over the training split learns the preprocessing of texts and tables, unless the recipe holds its state.
    """
    decoder, recipe = plan(name, builder.info, wanted)
    reader = _Reader(name, builder, options)
    decoder = _decided(decoder, wanted, recipe, builder, splits[0])
    learned = _learned(reader, decoder, recipe, splits[0])
    targets = dict(decoder.targets or {})
    if learned is not None:
        decoder = dataclasses.replace(decoder, preprocessing=learned)
    language = isinstance(learned, TextPreprocessing) and not decoder.keys.labels

    def open_split(split: str) -> StoredSplit:
        if language:
            raw = reader.batches(dataclasses.replace(decoder, preprocessing=None), split)
            return language_split(raw, learned, split, overlap=split == splits[0])  # type: ignore[arg-type]
        return RecordSplit(RecordFiles.of(builder, split), decoder)

    if language:
        facts: Any = learned
        targets = {decoder.keys.inputs[0]: Target(TOKENS, (facts.sequence_length,), facts.vocabulary)}
    for target in targets.values():
        if target.kind == CLASS and len(target.names) < 2:
            names = ", ".join(target.names)
            raise DataError(f"{name}: there is only one class ({names}); a classifier needs two or more")
    dataset = Dataset(
        name=name,
        full_name=builder.info.full_name,
        features=builder.info.features,
        split_sizes={split: info.num_examples for split, info in builder.info.splits.items()},
        train_split=splits[0],
        eval_split=splits[1],
        keys=decoder.keys,
        targets=targets,
        open_split=open_split,
        options=options,
        preprocessing=learned,
    )
    if not language:
        dataset.know_bad(reader.bad)
    return dataset


class _Reader:
    """Reads raw samples of a builder that is prepared, without the bad ones, and remembers which are bad."""

    def __init__(self, name: str, builder: tfds.core.DatasetBuilder, options: Options) -> None:
        self._name, self._builder, self._options = name, builder, options
        self.bad: dict[str, dict[int, str]] = {}

    def say(self, line: str) -> None:
        if self._options.say:
            self._options.say(f"{self._name}: {line}")

    def num_examples(self, split: str) -> int:
        return RecordFiles.of(self._builder, split).num_examples

    def batches(self, decoder: Decoder, split: str) -> Iterator[dict[str, Any]]:
        """The raw samples of a split in batches. Raises DataError for more bad samples than are allowed."""
        stored = RecordSplit(RecordFiles.of(self._builder, split), decoder)
        where, limit = f"{self._name}, split {split!r}", self._options.max_bad_records
        if limit and split not in self.bad:
            self.bad[split] = bad_samples.find_bad(stored, where, limit=limit)
            for index, reason in sorted(self.bad[split].items()):
                self.say(f"split {split!r}: sample {index} is left out: {reason}")
        progress = self._options.progress
        try:
            for place, batch in good_batches(stored, stored.num_examples, self.bad.get(split, {})):
                yield batch
                if progress:
                    progress(f"reading {split}", place, stored.num_examples)
        except tf.errors.OpError:
            bad_samples.find_bad(stored, where, limit=0, known=self.bad.get(split, {}))
            raise


def _wish(features: Mapping[str, Any], keys: Any, wanted: Wanted, recipe: Recipe, **found: Any) -> Wish:
    """What decides how the labels are read."""
    first = next((features[key] for key in keys.inputs if _is_sequence(features[key])), None)
    length = recipe.sequence_length
    if length is None and first is not None:
        length = first.shape[0]
    return Wish(wanted.task, length, first is not None, wanted.image_size, **found)


def _is_sequence(feature: Any) -> bool:
    sequence = isinstance(feature, tfds.features.Sequence) and isinstance(feature.shape, tuple)
    return sequence or (isinstance(feature, tfds.features.Tensor) and feature.shape[:1] == (None,))


def _decided(
    decoder: Decoder, wanted: Wanted, recipe: Recipe, builder: tfds.core.DatasetBuilder, split: str
) -> Decoder:
    """The decoder, after a look at those labels whose values decide what they are. Bad samples don't decide."""
    features, keys = decoder.features, decoder.keys
    open_keys = undecided(features, keys, wanted.task)
    if not open_keys or wanted.task == "multi_label":
        return decoder
    labels = RecordSplit(RecordFiles.of(builder, split), decoder.only_labels())
    seen = labels.in_order(0, labels.num_examples).apply(tf.data.experimental.ignore_errors(log_warning=False))
    batches = list(seen.take(_BATCHES_LOOKED_AT))
    by_key = {
        key: [(batch["y"][key] if len(keys.labels) > 1 else batch["y"]).numpy() for batch in batches]
        for key in open_keys
    }
    found = frozenset(key for key, values in by_key.items() if all_zeros_and_ones(values))
    return dataclasses.replace(
        decoder, targets=targets_of(features, keys, _wish(features, keys, wanted, recipe, zeros_and_ones=found))
    )


def _learned(reader: _Reader, decoder: Decoder, recipe: Recipe, split: str) -> Preprocessing | None:
    """The preprocessing of the inputs: that of the state, or one that is learned from the training split."""
    form = input_form(decoder.features, decoder.keys)
    if form == ARRAYS:
        return None
    if recipe.state is not None:
        return preprocessing.from_state(recipe.state, decoder.keys, form, recipe.sequence_length)
    learned = preprocessing.adapt(decoder.features, decoder.keys, recipe, reader.batches(decoder, split))
    if isinstance(learned, TextPreprocessing) and not decoder.keys.labels and reader.num_examples(split) > 1:
        learned = TextPreprocessing.from_state({**learned.state(), "separator": True})
    if learned is not None:
        reader.say(str(learned))
    return learned
