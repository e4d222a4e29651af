"""`evaluate` and `models`, and the loop that the README shows."""

import json
import pathlib
import shutil
from typing import Any

import pytest

from loopwright import models

IMAGE_MODELS = [name for name, entry in models.MODELS.items() if "images" in entry.takes]


@pytest.fixture
def metrics(small_run: pathlib.Path) -> dict[str, float]:
    """What the finished run says of its last evaluation."""
    record = json.loads((small_run / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: record[name] for name in ("loss", "accuracy")}


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=run"],
        ["--workdir=run", "--restore_from=run/checkpoints/00000030"],
        ["--workdir=run", "--restore_from=run/exports/model.h5"],
        ["--restore_from=run/exports/model.h5"],
    ],
    ids=" ".join,
)
def test_evaluate_gives_the_numbers_of_the_run(
    loopwright: Any, run_folder: pathlib.Path, mnist_dir: pathlib.Path, metrics: dict[str, float], words: list[str]
) -> None:
    result = loopwright("evaluate", f"--data_dir={mnist_dir}", *words, "--json")
    assert result.code == 0
    assert result.json["metrics"] == metrics
    assert (result.json["examples"], result.json["split"]) == (1000, "test")


def test_evaluate_prints_a_line(loopwright: Any, run_folder: pathlib.Path, metrics: dict[str, float]) -> None:
    (line,) = loopwright("evaluate", "--workdir=run").out.splitlines()
    assert f"accuracy {metrics['accuracy']:.4f}" in line
    assert f"loss {metrics['loss']:.4f}" in line


def test_evaluate_takes_another_split_and_an_older_checkpoint(loopwright: Any, run_folder: pathlib.Path) -> None:
    words = ["--workdir=run", "--eval_split=train[:70]", "--json"]
    newest = loopwright("evaluate", *words).json
    older = loopwright("evaluate", *words, "--restore_from=run/checkpoints/00000015").json
    assert (newest["examples"], older["examples"]) == (70, 70)
    assert newest["metrics"] != older["metrics"]


def test_evaluate_needs_no_file_of_the_run_but_the_export(
    loopwright: Any, run_folder: pathlib.Path, mnist_dir: pathlib.Path, metrics: dict[str, float]
) -> None:
    shutil.move(run_folder / "exports" / "model.h5", "elsewhere.h5")
    shutil.rmtree(run_folder)
    result = loopwright("evaluate", f"--data_dir={mnist_dir}", "--restore_from=elsewhere.h5", "--json")
    assert result.json["metrics"] == metrics


def test_models_lists_every_entry(loopwright: Any) -> None:
    assert [line.split()[:2] for line in loopwright("models").out.splitlines()[:-2]] == [
        [name, entry.outputs] for name, entry in models.MODELS.items()
    ]
    assert set(loopwright("models", "--json").json) == set(models.MODELS)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_summarises_an_entry_with_real_shapes(loopwright: Any, name: str) -> None:
    result = loopwright("models", name, "--input_shape=28,28,1")
    assert result.code == 0
    assert "?" not in result.out
    assert "28, 28, 1" in result.out or "26, 26, 32" in result.out or "784" in result.out
    as_json = loopwright("models", name, "--input_shape=28,28,1", "--json").json
    assert f"{as_json['parameters']:,}" in result.out
    assert as_json["outputs"] == models.MODELS[name].outputs


def test_predict_takes_several_inputs(loopwright: Any, tmp_path: pathlib.Path) -> None:
    shutil.copy(pathlib.Path(__file__).with_name("two_inputs.py"), tmp_path / "mine.py")
    words = ["--dataset=mine:samples", "--model=mine:model", "--train_steps=2", "--batch_size=16", "--workdir=run"]
    assert loopwright("train", *words).code == 0
    predicted = loopwright("predict", "--workdir=run", "--split=test", "--json")
    evaluated = loopwright("evaluate", "--workdir=run", "--json")
    rows = predicted.json["predictions"]
    right = sum(row["top"][0]["class"] == row["label"] for row in rows)
    assert right / len(rows) == pytest.approx(evaluated.json["metrics"]["accuracy"], abs=1e-6)


def test_kill_past_the_end_is_refused_at_once(loopwright: Any) -> None:
    result = loopwright("verify_resume", "--train_steps=200", "--kill_at=500")
    assert result.code == 2
    assert "--kill_at=500: the run ends at step 200" in result.err
