"""Data that moved, that have other classes, or whose labels the model doesn't have: each is said in one line."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

MODULE = """
import keras
import numpy as np
from loopwright import data


def wrong_label(split, batch_size):
    y = np.arange(200) % 3
    y[57] = 3
    x = np.random.default_rng(0).random((200, 4), np.float32)
    return data.array_feed(x, y, min(batch_size, 100), shuffle=split == "train")


wrong_label.class_names = ("a", "b", "c")


def linear(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
"""


@pytest.fixture
def module(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kept_apart.py").write_text(MODULE, encoding="utf-8")


def fill(folder: pathlib.Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for split, rows in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for row in range(rows):
                pil.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).save(folder / split / name / f"{row}.png")


@pytest.mark.usefixtures("module")
def test_data_that_moved_are_asked_for_and_other_classes_are_named(loopwright: Any, tmp_path: pathlib.Path) -> None:
    fill(tmp_path / "pets")
    words = ("--model=kept_apart:linear", "--batch_size=8", "--train_steps=3", "--workdir=run", "--progress=none")
    assert loopwright("train", "--dataset=folder:pets", *words).code == 0
    before = loopwright("evaluate", "--workdir=run", "--json").json["metrics"]
    shutil.move(tmp_path / "pets", tmp_path / "moved")
    for command in (("evaluate",), ("predict", "--split=test")):
        lost = loopwright(*command, "--workdir=run")
        assert lost.code == 2
        assert "there is no such folder; run was trained on it, so say with --dataset=… where" in lost.err
        assert len(lost.err.splitlines()) == 1
    found = loopwright("evaluate", "--workdir=run", "--dataset=folder:moved", "--json")
    assert found.json["metrics"] == before
    assert "classes are matched by number" not in found.err
    for split in ("train", "test"):
        (tmp_path / "moved" / split / "dog").rename(tmp_path / "moved" / split / "ape")
    other = loopwright("evaluate", "--workdir=run", "--dataset=folder:moved", "--json")
    assert "class 0 is 'ape' in folder:moved and 'cat' in the run: classes are matched by number" in other.err


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("execution", "words"),
    [("graph", "label"), ("xla", "check that all labels are numbers of classes that the model has")],
)
def test_labels_out_of_range_end_the_run(loopwright: Any, execution: str, words: str) -> None:
    base = (
        "--dataset=kept_apart:wrong_label",
        "--model=kept_apart:linear",
        "--batch_size=20",
        "--epochs=2",
        "--workdir=run",
    )
    result = loopwright("train", *base, f"--execution={execution}", "--progress=none")
    assert result.code == 1
    assert words in result.err.splitlines()[-1]
