"""Every `loopwright` command of the README and the guides is one that works, made small."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from loopwright.trainer.commands.benchmark import command as benchmark

#: What makes a command small and keeps it off the network; of two flags of one name the last one counts.
SMALL: dict[str, tuple[str, ...]] = {
    "train": ("--train_split=train[:200]", "--eval_split=test[:100]", "--batch_size=2", "--train_steps=100"),
    "benchmark": ("--model=mlp", "--batch_size=32", "--precision=float32", "--train_steps=2", "--repeats=2"),
    "parity": ("--train_steps=3",),
    "verify_resume": ("--train_steps=200", "--checkpoint_every=50", "--kill_at=5"),
}
#: Commands on a dataset that isn't named, or that can't be had without a network.
WITH_DATA = ("train", "benchmark", "parity", "verify_resume", "predict")
PLACES = {"runs/mnist_5k-cnn-83ea714a": "runs/mine", "runs/a": "runs/mine", "runs/b": "runs/mlp"}


def commands(repository: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """The file and the words of each command in a block of code, without what a comment says."""
    for path in (repository / "README.md", *sorted((repository / "docs").glob("*.md"))):
        for block in re.findall(r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^loopwright (.*)$", block, re.MULTILINE):
                yield path.name, shlex.split(line, comments=True)


def small(name: str, words: list[str], data_dir: pathlib.Path) -> list[str]:
    """The command, so that it takes seconds."""
    for there, here in PLACES.items():
        words = [re.sub(rf"{there}(?![\w-])", here, word) for word in words]
    words = [word for word in words if not word.startswith(("--kills=", "--epochs="))]
    data = ("--dataset=mnist_5k", f"--data_dir={data_dir}") if name in WITH_DATA else ()
    return [name, *words, *SMALL.get(name, ()), *data]


@pytest.mark.slow
def test_every_command_of_the_docs_works(
    loopwright: Any,
    repository: pathlib.Path,
    mnist_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "ROWS", (*benchmark.FITS, "graph"))
    monkeypatch.setattr("loopwright.trainer.commands.benchmark.one_row.STEPS_PER_EXECUTION", (1,))
    (tmp_path / "more_digits").mkdir()
    for path in ("digit.png", "more_digits/one.png"):
        keras.utils.save_img(tmp_path / path, np.zeros((28, 28, 1)), scale=False)
    for words in (["--workdir=runs/mine", "--checkpoint_every=100"], ["--workdir=runs/mlp", "--model=mlp"]):
        assert loopwright(*small("train", words, mnist_dir)).code == 0
    names = set()
    for file, (name, *words) in commands(repository):
        result = loopwright(*small(name, words, mnist_dir))
        assert result.code == 0, f"{file}: loopwright {name} {shlex.join(words)}: {result.err}"
        names.add(name)
    assert names >= {"train", "benchmark", "parity", "verify_resume", "export", "predict", "report", "doctor"}
