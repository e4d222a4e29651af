"""Feeds over datasets from files: every kind of feed gives the same samples, at any step, wherever the files lie."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import data
from loopwright.data import file_names
from loopwright.data.errors import DataError


def write_table(root: pathlib.Path) -> str:
    rng = np.random.default_rng(1)
    rows = [
        f"{a:.3f},{'' if a > 1.5 else b},{'uvw'[b]},{['no', 'yes'][b % 2]}"
        for a, b in zip(rng.normal(size=60), [0, 1, 2] * 20, strict=True)
    ]
    root.mkdir(exist_ok=True, parents=True)
    (root / "t.csv").write_text("\n".join(["a,b,c,label", *rows]))
    return f"csv:{root / 't.csv'}"


def write_arrays(root: pathlib.Path) -> str:
    root.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(1)
    np.savez(root / "t.npz", x=rng.integers(0, 256, (60, 4, 4), np.uint8), y=np.arange(60) % 3)
    return f"npz:{root / 't.npz'}"


def write_texts(root: pathlib.Path) -> str:
    for i in range(60):
        path = root / "t" / "ab"[i % 2] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"word{i} some words and word{i % 5}")
    return f"text:{root / 't'}"


WRITERS = [write_table, write_arrays, write_texts]


def batches(feed: Any, start: int, count: int) -> list[Any]:
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in feed(start_step=start).take(count)]


def assert_same(one: list[Any], other: list[Any]) -> None:
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), one, other)


@pytest.mark.parametrize("write", WRITERS)
def test_kinds_of_feeds_agree_and_resume(tmp_path: pathlib.Path, write: Any) -> None:
    name = write(tmp_path / "files")
    feeds = {
        kind: data.load(name, data_dir=str(tmp_path / kind), feed=kind).train_feed(8, seed=3)
        for kind in ("memory", "streaming", "sequential")
    }
    straight = {kind: batches(feed, 0, 14) for kind, feed in feeds.items()}
    assert_same(straight["memory"], straight["streaming"])
    for kind, feed in feeds.items():
        assert_same(batches(feed, 5, 9), straight[kind][5:])
    epochs = [np.concatenate([batch["index"] for batch in found[:6]]) for found in straight.values()]
    assert all(sorted(epoch) == [*range(48)] for epoch in epochs)


@pytest.mark.parametrize("write", WRITERS)
def test_fingerprint_is_that_of_the_content(tmp_path: pathlib.Path, write: Any) -> None:
    prints = [
        data.load(write(tmp_path / place), data_dir=str(tmp_path / folder), feed=feed).fingerprint
        for place, folder, feed in (("one", "a", "memory"), ("one", "a", "memory"), ("two", "b", "streaming"))
    ]
    assert len({*prints}) == 1


@pytest.mark.parametrize("write", WRITERS)
def test_renamed_files_have_the_fingerprint_of_their_first_name(tmp_path: pathlib.Path, write: Any) -> None:
    first = write(tmp_path / "files")
    there = data.load(first, data_dir=str(tmp_path / "data"))
    kind, path = file_names.split_name(first)
    moved = pathlib.Path(path).rename(tmp_path / f"other{pathlib.Path(path).suffix}")
    here = data.load(f"{kind}{moved}", data_dir=str(tmp_path / "data"))
    assert here.fingerprint != there.fingerprint
    known = dataclasses.replace(here, full_name=file_names.moved_name(first, here.full_name))
    assert known.fingerprint == there.fingerprint


@pytest.mark.parametrize("write", WRITERS)
def test_splits_are_those_of_tfds(tmp_path: pathlib.Path, write: Any) -> None:
    name = write(tmp_path / "files")
    dataset = data.load(name, data_dir=str(tmp_path / "data"), train_split="train[:75%]", eval_split="train[75%:]+test")
    assert (dataset.split(dataset.train_split).num_examples, dataset.split(dataset.eval_split).num_examples) == (36, 24)


def test_prepared_files_load_by_their_name_without_the_files(tmp_path: pathlib.Path) -> None:
    name = write_arrays(tmp_path / "files")
    there = data.load(name, data_dir=str(tmp_path / "data"))
    (found,) = data.prepared(str(tmp_path / "data"))
    (tmp_path / "files" / "t.npz").unlink()
    again = data.load(found.name, data_dir=str(tmp_path / "data"))
    assert again.fingerprint == there.fingerprint


def test_label_that_is_not_there_is_refused_before_anything_is_prepared(tmp_path: pathlib.Path) -> None:
    name = write_table(tmp_path / "files")
    with pytest.raises(DataError, match=r"label_key='lable': no such column .*did you mean 'label'\?") as caught:
        data.load(name, data_dir=str(tmp_path / "data"), label_key="lable")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "data").exists()
