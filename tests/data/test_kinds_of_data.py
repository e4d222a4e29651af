"""What holds for every kind of input and target: one stream for all feeds, exact resume, and a state that brings it back."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import data
from loopwright.data import preprocessing
from loopwright.data.errors import DataError

TABLE = "number,age,truth,city,label"
#: For each kind: what is given to `data.load`, the kind of the inputs, and that of the target with the shape of `y`.
KINDS: dict[str, tuple[dict[str, Any], str, str, tuple[int, ...]]] = {
    "text": ({"input_key": "text", "label_key": "label", "sequence_length": 4}, "tokens", "class", ()),
    "characters": (
        {"input_key": "text", "label_key": "label", "tokens": "character", "sequence_length": 9},
        "tokens",
        "class",
        (),
    ),
    "bytes": ({"input_key": "text", "label_key": "truth", "tokens": "byte"}, "tokens", "class", ()),
    "table": ({"input_key": TABLE, "label_key": "whole", "weight_key": "weight"}, "table", "number", ()),
    "one column": ({"input_key": "number", "label_key": "label"}, "table", "class", ()),
    "tagging": ({"input_key": "words", "label_key": "tags", "sequence_length": 5}, "tokens", "classes", (5,)),
    "tagging of numbers": (
        {"input_key": "vectors", "label_key": "tags", "sequence_length": 4, "weight_key": "weight"},
        "numbers",
        "classes",
        (4,),
    ),
    "sequence": ({"input_key": "signal", "label_key": "label", "sequence_length": 3}, "numbers", "class", ()),
    "fixed tags": ({"input_key": "text", "label_key": "three_tags"}, "tokens", "classes", (3,)),
    "set of labels": ({"input_key": "image", "label_key": "labels"}, "images", "multi_hot", (4,)),
    "bits": ({"input_key": "image", "label_key": "bits"}, "images", "multi_hot", (3,)),
    "zeros and ones": ({"input_key": "image", "label_key": "zeros_and_ones"}, "images", "multi_hot", (3,)),
    "counts": ({"input_key": "image", "label_key": "counts"}, "images", "numbers", (2,)),
    "segments": ({"input_key": "image", "label_key": "segments"}, "images", "classes", (6, 5)),
    "segments of another size": (
        {"input_key": "image", "label_key": "segments", "image_size": (4, 4)},
        "images",
        "classes",
        (4, 4),
    ),
    "language": ({"input_key": "text", "task": "language_model", "sequence_length": 8}, "tokens", "tokens", (8,)),
}


#: The kinds that the quick tests take through all feeds. The slow tests take all.
QUICK = ("text", "table", "tagging", "set of labels", "language")
ALL = [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]
PREPROCESSED = [kind for kind in ALL if KINDS[kind.values[0]][1] in ("tokens", "table")]  # type: ignore[index]


@pytest.fixture(scope="module")
def load(every_kind: str) -> Callable[..., Any]:
    """`load(kind, …)` gives the dataset of a kind. It is made once."""
    return functools.cache(
        lambda kind, feed="auto": data.load("every_kind", data_dir=every_kind, feed=feed, **KINDS[kind][0])
    )


def batches(dataset: Any, start: int, stop: int) -> list[dict[str, Any]]:
    return list(dataset.train_feed(7, seed=3)(start).take(stop - start))


def rows(batch: dict[str, Any]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The place, input and target of each sample."""
    return list(zip(batch["index"].numpy().tolist(), batch["x"].numpy(), batch["y"].numpy(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_description_agrees_with_the_batches(load: Callable[..., Any], kind: str) -> None:
    dataset = load(kind)
    _, input_kind, target_kind, shape = KINDS[kind]
    (target,) = dataset.targets.values()
    assert (dataset.input_kind, target.kind, target.shape, dataset.target) == (input_kind, target_kind, shape, target)
    for batch in (batches(dataset, 0, 1)[0], next(iter(dataset.eval_feed(7)()))):
        assert batch["x"].shape[1:] == dataset.input_shape
        assert batch["y"].shape[1:] == shape
        assert batch["y"].dtype == (tf.int64 if target_kind in ("class", "classes", "tokens") else tf.float32)
    assert dataset.num_classes == (len(target.names) if target_kind in ("class", "classes") else 0)
    labels = dataset.labels("train")
    assert labels.shape[1:] == shape
    np.testing.assert_array_equal(labels, dataset.arrays("train")[1])


@pytest.mark.parametrize("kind", ALL)
def test_feeds_give_the_same_samples_and_resume_at_any_step(
    load: Callable[..., Any], kind: str, same: Callable[..., None]
) -> None:
    memory, streaming, sequential = (load(kind, feed) for feed in ("memory", "streaming", "sequential"))
    straight = {dataset: batches(dataset, 0, 15) for dataset in (memory, streaming, sequential)}
    for one, other in zip(straight[memory], straight[streaming], strict=True):
        same(one, other)
    for dataset, expected in straight.items():
        for one, other in zip(expected[11:], batches(dataset, 11, 15), strict=True):
            same(one, other)
    samples = {place: row for batch in straight[memory] for place, *row in rows(batch)}
    for place, *row in [row for batch in straight[sequential] for row in rows(batch)]:  # in another order
        for one, other in zip(samples[place], row, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len({dataset.fingerprint for dataset in straight}) == 1


@pytest.mark.parametrize("kind", PREPROCESSED)
def test_state_of_the_preprocessing_brings_back_the_stream(
    load: Callable[..., Any],
    every_kind: str,
    kind: str,
    same: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = load(kind)
    state = json.loads(json.dumps(dataset.preprocessing.state()))
    with monkeypatch.context() as patch:
        patch.setattr(preprocessing, "adapt", None)  # Nothing is learned again.
        again = data.load("every_kind", data_dir=every_kind, preprocessing=state, **KINDS[kind][0])
    assert again.fingerprint == dataset.fingerprint
    assert again.preprocessing.state() == state
    assert again.model_facts == dataset.model_facts
    for one, other in zip(batches(dataset, 0, 9), batches(again, 0, 9), strict=True):
        same(one, other)


@pytest.mark.parametrize("kind", PREPROCESSED)
def test_preprocessing_is_a_module_that_a_saved_model_holds(
    load: Callable[..., Any], kind: str, tmp_path: pathlib.Path
) -> None:
    prepared = load(kind).preprocessing
    rows: Any = [
        {"number": "1", "age": "", "truth": "true", "city": "Paris", "label": "high"},
        {"number": "2", "age": "30", "truth": "0", "city": "Rom", "label": "0"},
    ]
    raw = prepared.batch(rows if prepared.kind == "table" else ["the red sea", "é"])
    tf.nest.map_structure(lambda spec, part: tf.debugging.assert_type(part, spec.dtype), prepared.raw_specs, raw)
    module = tf.Module()
    module.preprocessing = prepared
    module.serve = tf.function(prepared.__call__, input_signature=[prepared.raw_specs])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=None)
    expected = prepared(raw)
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "model")).serve(raw), expected)
    assert expected.shape[1:] == prepared.spec.shape
    assert expected.dtype == prepared.spec.dtype


def test_several_labels_are_dicts(every_kind: str, same: Callable[..., None]) -> None:
    options: dict[str, Any] = {"data_dir": every_kind, "input_key": "image", "label_key": "label, number,bits"}
    dataset = data.load("every_kind", **options)
    assert {key: target.kind for key, target in dataset.targets.items()} == {
        "label": "class",
        "number": "number",
        "bits": "multi_hot",
    }
    assert (dataset.target, dataset.num_classes, dataset.model_facts) == (None, 0, {})
    batch = batches(dataset, 0, 1)[0]
    same(batch, batches(data.load("every_kind", feed="streaming", **options), 0, 1)[0])
    np.testing.assert_array_equal(batch["y"]["label"] == 1, batch["y"]["number"] * 2 % 2 == 1)
    assert {key: part.shape for key, part in dataset.labels("train").items()} == {
        "label": (60,),
        "number": (60,),
        "bits": (60, 3),
    }


def test_target_mean_and_deviation_are_those_of_the_training_split(load: Callable[..., Any]) -> None:
    facts = load("table").model_facts
    whole = np.arange(60, dtype=np.float64)
    assert facts == {"target_mean": whole.mean(), "target_std": whole.std()}
    assert load("table", "streaming").model_facts == facts


def test_padding_of_labels_weighs_nothing(load: Callable[..., Any]) -> None:
    dataset = load("tagging")
    for batch in dataset.eval_feed(6)():
        real = (batch["x"].numpy() != 0).astype(np.float32)
        np.testing.assert_array_equal(batch["sample_weight"], real)
        assert (batch["y"].numpy()[real == 0] == 0).all()
    weighted = next(iter(load("tagging of numbers").eval_feed(6)()))
    rows = {float(weight) for row in weighted["sample_weight"].numpy() for weight in row}
    assert rows <= {0.0, 1.0, 2.0, 3.0}
    assert len(rows) > 2


def test_classes_are_counted_without_padding(load: Callable[..., Any]) -> None:
    dataset = load("tagging")
    counted = np.zeros(dataset.num_classes, np.int64)
    for batch in dataset.feed("train", 4, shuffle=False)():
        real = batch["x"].numpy() != 0
        counted += np.bincount(batch["y"].numpy()[real], minlength=len(counted))
    assert dataset.class_counts("train") == counted.tolist()
    assert sum(counted) < np.size(dataset.labels("train"))  # some samples are shorter than others


@pytest.mark.parametrize("inputs", ["text", "number,city"])
def test_bad_samples_are_named_or_left_out_of_what_is_learned(every_kind: str, inputs: str) -> None:
    """Every eighth age is missing, and a label must be there."""
    options: dict[str, Any] = {"data_dir": every_kind, "input_key": inputs, "label_key": "age"}
    with pytest.raises(DataError, match=r"every_kind, split 'train': sample \d+ is bad: .*the feature 'age' holds NaN"):
        data.load("every_kind", **options)
    said: list[str] = []
    dataset = data.load("every_kind", max_bad_records=8, say=said.append, **options)
    assert sum("is left out" in line for line in said) == 8
    assert dataset.train_feed(4).examples_per_epoch == 52
    assert np.isfinite(dataset.labels("train")).all()
    if inputs == "text":
        return
    good = [number / 2 for number in range(60) if number % 8]
    assert dataset.preprocessing.columns[0].mean == pytest.approx(np.mean(good), rel=1e-12)
