"""Every `loopwright` command and every block of Python in the README and the guides works. The test makes them small."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from loopwright.trainer.commands.benchmark import command as benchmark

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

#: Flags that make a command small. They come last, and the last of two flags with one name counts.
SMALL: dict[str, tuple[str, ...]] = {
    "train": ("--train_split=train[:200]", "--eval_split=test[:100]", "--batch_size=2", "--train_steps=100"),
    "benchmark": ("--model=mlp", "--batch_size=32", "--precision=float32", "--train_steps=2", "--repeats=2"),
    "parity": ("--train_steps=3",),
    "verify_resume": ("--train_steps=200", "--checkpoint_every=50", "--kill_at=5"),
}
#: Commands that read a dataset. They get `mnist_5k`, which needs no network.
WITH_DATA = ("train", "benchmark", "parity", "verify_resume", "predict")
#: Folders of runs that the pages name, and the folders of the test that take their place.
PLACES = {"runs/mnist_5k-cnn-83ea714a": "runs/mine", "runs/a": "runs/mine", "runs/b": "runs/mlp"}

#: Files that the pages name, and the small ones of the test that take their place.
FILES = {
    "../shared/data/tabular/california_housing.csv": "houses.csv",
    "../shared/data/text/sms_spam.tsv": "messages.tsv",
    "--dataset=tiny_shakespeare": "--dataset=csv:plays.csv --task=language_model",
    "--manual_dir=../shared/data/text/tiny_shakespeare": "",
}

#: For each page: texts of its Python, and what takes their place to make it small. DATA_DIR holds `mnist_5k`.
SMALLER: dict[str, dict[str, str]] = {
    "README.md": {
        '"mnist_5k"': '"mnist_5k", data_dir=DATA_DIR, train_split="train[:320]", eval_split="test[:250]"',
        "1_000": "20",
        "every=250": "every=10",
        "epochs=10": "epochs=2",
    },
    "data.md": {'"fashion_mnist"': '"mnist_5k", data_dir=DATA_DIR'},
    "parity.md": {'"mnist_5k"': '"mnist_5k", data_dir=DATA_DIR', "num_steps=50": "num_steps=5"},
}
#: What the Python of a page needs and doesn't make itself: a fragment takes it from another page.
NEEDED = {
    "CONTRIBUTING.md": """
import keras
import numpy as np
from loopwright import data, trainer

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
state = trainer.TrainState.create(model, keras.optimizers.SGD())
feed = data.array_feed(np.ones([8, 2], "float32"), np.ones(8, "int64"), batch_size=4)
step = trainer.gradient_step(trainer.classification(from_logits=True))
""",
    "checkpoints.md": """
import keras
import tensorflow as tf
from loopwright import trainer

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
state = trainer.TrainState.create(model, keras.optimizers.SGD())
state.step.assign(100)
trainer.Checkpoint("runs/mine/checkpoints").save(state)
saved = model.get_weights()
model.set_weights([weight + 1 for weight in saved])
""",
}
#: What must hold after the Python of a page.
HOLDS = {
    "README.md": """
import json, pathlib

finished = {name: json.loads(pathlib.Path("runs", name, "summary.json").read_text()) for name in ("mine", "fitted")}
assert {name: summary["step"] for name, summary in finished.items()} == {"mine": 20, "fitted": 20}
assert all(summary["best"]["accuracy"] >= 0 for summary in finished.values())
assert int(state.step) == 20
""",
    "checkpoints.md": "assert all((a == b).all() for a, b in zip(model.get_weights(), saved, strict=True))",
    "parity.md": "assert certificate.identical",
    "training.md": """
import pathlib

assert pathlib.Path("runs/own/checkpoints/latest").exists() and pathlib.Path("runs/own/exports/model.h5").exists()
""",
}


def python_of(page: pathlib.Path) -> str:
    """The Python of a page: its blocks, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda page: page.name)
def test_python_of_a_page_runs(
    page: pathlib.Path, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = python_of(page)
    for text, smaller in SMALLER.get(page.name, {}).items():
        assert text in program
        program = program.replace(text, smaller)
    names: dict[str, Any] = {"DATA_DIR": str(mnist_dir)}
    for source in (NEEDED.get(page.name, ""), program, HOLDS.get(page.name, "")):
        exec(compile(source, page.name, "exec"), names)


def test_tables_name_pages_with_python() -> None:
    with_python = {page.name for page in PAGES if python_of(page)}
    assert {*SMALLER, *NEEDED, *HOLDS} <= with_python


def commands() -> Iterator[tuple[str, list[str]]]:
    """The file and the words of each command in a block of code, without the comment."""
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^loopwright (.*)$", block, re.MULTILINE):
                yield page.name, shlex.split(line, comments=True)


def small(name: str, words: list[str], data_dir: pathlib.Path) -> list[str]:
    """The command with flags that let it take seconds."""
    for there, here in PLACES.items():
        words = [re.sub(rf"{there}(?![\w-])", here, word) for word in words]
    words = [word for word in words if not word.startswith(("--kills=", "--epochs="))]
    text = shlex.join(words)
    for there, here in FILES.items():
        text = text.replace(there, here)
    words = shlex.split(text)
    data = (f"--data_dir={data_dir}",) if name in WITH_DATA else ()
    if data and not any("csv:" in word for word in words):
        data = ("--dataset=mnist_5k", *data)
    return [name, *words, *SMALL.get(name, ()), *data]


def write_files(folder: pathlib.Path) -> None:
    """The small files in the place of those that the pages name: a table, messages of two classes, and lines of a play."""
    rows = [f"{n % 7},{'sea' if n % 3 else 'land'},{n % 7 * 10},{n % 7 * 100}" for n in range(600)]
    (folder / "houses.csv").write_text("\n".join(["rooms,near,price,median_house_value", *rows]) + "\n")
    messages = [
        f"{'spam' if n % 4 == 0 else 'ham'}\t{'win now' if n % 4 == 0 else 'see you'} at {n}" for n in range(600)
    ]
    (folder / "messages.tsv").write_text("\n".join(messages) + "\n")
    (folder / "plays.csv").write_text(
        "\n".join(["line", *(f"to be or not to be {n} times" for n in range(600))]) + "\n"
    )


@pytest.mark.slow
def test_every_command_of_the_docs_works(
    loopwright: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "ROWS", (*benchmark.FITS, "graph"))
    monkeypatch.setattr("loopwright.trainer.commands.benchmark.one_row.STEPS_PER_EXECUTION", (1,))
    write_files(tmp_path)
    (tmp_path / "more_digits").mkdir()
    for path in ("digit.png", "more_digits/one.png"):
        keras.utils.save_img(tmp_path / path, np.zeros((28, 28, 1)), scale=False)
    for words in (["--workdir=runs/mine", "--checkpoint_every=100"], ["--workdir=runs/mlp", "--model=mlp"]):
        assert loopwright(*small("train", words, mnist_dir)).code == 0
    names = set()
    for file, (name, *words) in commands():
        result = loopwright(*small(name, words, mnist_dir))
        assert result.code == 0, f"{file}: loopwright {name} {shlex.join(words)}: {result.err}"
        names.add(name)
    assert names >= {"train", "benchmark", "parity", "verify_resume", "export", "predict", "report", "doctor"}
