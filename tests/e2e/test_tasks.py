"""Every task from the command line: stopped and resumed to the bit, exported in every format, predicted from the exports."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import task_data

from loopwright import trainer
from loopwright.trainer.hooks.evaluate import Evaluate


class Case(NamedTuple):
    """Flags of `train`, the file from which training goes on, the formats that hold the model, and a key of a prediction."""

    words: tuple[str, ...]
    key: str
    file: str = "model.h5"
    split: str = "test[:7]"
    formats: tuple[str, ...] = ("h5", "keras", "saved_model", "litert")


TFDS = ("--dataset=task_data", "--data_dir=../tfds")
CASES = {
    "regression": Case(("--dataset=csv:../houses.csv", "--data_dir=../tfds", "--label_key=price"), "prediction"),
    "classification": Case(
        ("--dataset=csv:../sms.tsv", "--data_dir=../tfds", "--columns=label,text", "--sequence_length=6"), "top"
    ),
    "binary": Case(
        (
            *("--dataset=csv:../sms.tsv", "--data_dir=../tfds", "--columns=label,text"),
            *("--sequence_length=6", "--task=binary", "--model=lstm"),
        ),
        "top",
        formats=("h5", "keras", "saved_model"),  # LiteRT has no loop over a list of tensors of any length.
    ),
    "multi_label": Case(
        (*TFDS, "--input_key=image", "--label_key=traits", "--model=task_data:multi_hot"), "probabilities"
    ),
    "tagging": Case((*TFDS, "--input_key=words", "--label_key=tags", "--sequence_length=5"), "classes"),
    "segmentation": Case(
        (*TFDS, "--input_key=image", "--label_key=segments", "--model=task_data:segmenter"), "classes"
    ),
    "two_heads": Case(
        (*TFDS, "--input_key=image,size", "--label_key=kind,price", "--model=task_data:two_heads"), "kind"
    ),
    "two_inputs": Case((*TFDS, "--input_key=image,size", "--label_key=kind"), "top"),
    "language_model": Case(
        ("--dataset=task_text", "--data_dir=../tfds", "--sequence_length=12"),
        "top",
        split="test",  # The windows over its only text.
    ),
}
FILES = {"h5": "model.h5", "keras": "model.keras", "saved_model": "saved_model", "litert": "model.tflite"}
EVERY = (
    "--train_steps=12",
    "--eval_every=6",
    "--checkpoint_every=5",
    "--log_every=3",
    "--progress=none",
    "--seed=4",
    "--schedule=constant",
)


@pytest.fixture(scope="module")
def places(once: Any) -> pathlib.Path:
    """The folder with `tfds`, `houses.csv` and `sms.tsv`."""

    def fill(folder: pathlib.Path) -> None:
        task_data.prepare(folder / "tfds")
        task_data.write_table(folder / "houses.csv")
        task_data.write_texts(folder / "sms.tsv")

    return once("task_data", fill)


@pytest.fixture
def here(places: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, loopwright: Any) -> Any:
    """`loopwright` in a folder beside the data."""
    folder = places / tmp_path.name
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    yield loopwright
    monkeypatch.undo()
    shutil.rmtree(folder, ignore_errors=True)


def train(here: Any, case: Case, *words: str, code: int = 0) -> Any:
    result = here("train", *case.words, *EVERY, *words)
    assert result.code == code, result.err
    return result


def hashes(run: str, file: str) -> dict[str, str]:
    found = trainer.load_h5(pathlib.Path(run) / "exports" / file, trust=True).hashes()
    return {name: value for name, value in found.items() if name != "window"}


def predictions(result: Any) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return result.json["predictions"]


def alike(one: Any, other: Any) -> bool:
    """Whether two predictions are the same up to the last digits of their numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, rel=1e-4, abs=1e-4) if isinstance(one, float) else other)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("multi_label", "two_heads") else pytest.param(name, marks=pytest.mark.slow)
        for name in [*CASES][2:-1]
    ],
)
def test_task_trains_and_predicts_its_split(here: Any, name: str) -> None:
    case = CASES[name]
    train(here, case, "--workdir=run", "--train_steps=2")
    rows = predictions(here("predict", "--split=test[:2]", "--workdir=run", "--json"))
    assert len(rows) == 2
    assert all(case.key in row and "label" in row and row["input"].startswith("test[:2]#") for row in rows)
    table = here("predict", "--split=test[:2]", "--workdir=run")
    assert table.code == 0
    assert " right" in table.out or "RMSE" in table.out


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_task_is_resumed_to_the_bit_and_its_exports_predict_alike(
    here: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    train(here, case, "--workdir=straight")
    evaluate = Evaluate.__call__

    def stop_at_6(self: Any, state: Any, metrics: Any) -> None:
        evaluate(self, state, metrics)
        if int(state.step) == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluate, "__call__", stop_at_6)
        with pytest.raises(SystemExit) as stopped:
            here("train", *case.words, *EVERY, "--workdir=stopped")
    assert stopped.value.code == 143
    train(here, case, "--workdir=stopped")
    assert hashes("stopped", case.file) == hashes("straight", case.file)
    train(here, case, "--workdir=half", "--train_steps=6")
    train(here, case, "--workdir=went_on", f"--restore_from=half/exports/{case.file}")
    assert hashes("went_on", case.file) == hashes("straight", case.file)

    exported = here("export", "--workdir=straight", "--json")
    assert exported.code == 0, exported.err
    assert set(exported.json["files"]) == {FILES[kind] for kind in case.formats}, exported.err
    expected = predictions(here("predict", f"--split={case.split}", "--workdir=straight", "--json"))
    numbers = here("evaluate", "--workdir=straight", "--json").json["metrics"]
    pathlib.Path("alone").mkdir()
    for kind in case.formats:
        path = shutil.move(pathlib.Path("straight/exports") / FILES[kind], "alone")  # what it needs lies in the file
        words = (f"--restore_from={path}", "--trust_file", "--data_dir=../tfds")
        found = predictions(here("predict", f"--split={case.split}", *words, "--json"))
        assert alike(found, expected), kind
        if kind in ("h5", "keras"):
            assert here("evaluate", *words, "--json").json["metrics"] == pytest.approx(numbers, rel=1e-5)


KILLED = """
import os, signal, sys
from loopwright.trainer.__main__ import main
from loopwright.trainer.hooks.evaluate import Evaluate
evaluate = Evaluate.__call__
def kill_at_6(self, state, metrics):
    evaluate(self, state, metrics)
    if int(state.step) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
Evaluate.__call__ = kill_at_6
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", "two_heads"])
def test_task_that_was_killed_goes_on_to_the_bit(here: Any, name: str) -> None:
    case = CASES[name]
    train(here, case, "--workdir=straight")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["../../..", *sys.path])}
    words = ["train", *case.words, *EVERY, "--workdir=killed"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-1000:]
    train(here, case, "--workdir=killed")
    assert hashes("killed", case.file) == hashes("straight", case.file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification", "language_model"])
def test_run_goes_on_by_its_own_flagfile(here: Any, name: str) -> None:
    train(here, CASES[name], "--workdir=run", "--train_steps=2")
    longer = here("train", "--flagfile=run/flags.txt", "--workdir=run", "--train_steps=3", "--progress=none")
    assert longer.code == 0, longer.err
    assert trainer.load_h5("run/exports/model.h5").step.numpy() == 3


def test_table_comes_back_with_what_is_predicted(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train(here, CASES["regression"], "--workdir=run")
    shutil.copy("run/exports/model.h5", "alone.h5")
    text = 'note,town,age,"area (m²)"\n"a ""good"", one","Rom, Lazio",,50.5\nb,nowhere,NA,\n'
    pathlib.Path("rows.csv").write_text(text, encoding="utf-8")
    result = here("predict", "rows.csv", "--workdir=run")
    assert result.code == 0, result.err
    read = list(csv.reader(io.StringIO(result.out)))
    assert read[0] == ["note", "town", "age", "area (m²)", "predicted_price"]
    assert [row[:4] for row in read[1:]] == [['a "good", one', "Rom, Lazio", "", "50.5"], ["b", "nowhere", "NA", ""]]
    numbers = [float(row[4]) for row in read[1:]]
    assert numbers[0] != numbers[1]
    file = here("predict", "rows.csv", "--restore_from=alone.h5")
    assert [float(row[4]) for row in csv.reader(io.StringIO(file.out)) if row[4][0].isdigit()] == pytest.approx(numbers)
    assert "RMSE" not in result.err
    as_json = here("predict", "rows.csv", "--restore_from=alone.h5", "--json").json["predictions"]
    assert [row["input"] for row in as_json] == ["rows.csv:2", "rows.csv:3"]
    assert [row["prediction"] for row in as_json] == pytest.approx(numbers)
    labelled = here("predict", "../houses.csv", "--restore_from=alone.h5")
    assert "RMSE" in labelled.err
    assert len(labelled.out.splitlines()) == 61
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert here("predict", "-", "--restore_from=alone.h5").out == file.out
    for broken, part in (
        (text.replace("50.5", "many"), "rows.csv:2: column 'area (m²)': 'many' is not a number"),
        (text.replace("age,", "years,"), "rows.csv: has no column 'age'"),
        (text + "c,d\n", "line 4: this row holds 2 values, not 4"),
        ("", "the file is empty"),
    ):
        pathlib.Path("rows.csv").write_text(broken, encoding="utf-8")
        failed = here("predict", "rows.csv", "--restore_from=alone.h5")
        assert (failed.code, failed.out, len(failed.err.splitlines())) == (2, "", 1)
        assert part in failed.err


def test_texts_are_predicted_line_by_line_and_as_a_table(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train(here, CASES["classification"], "--workdir=run", "--train_steps=40")
    shutil.copy("run/exports/model.h5", "alone.h5")
    pathlib.Path("lines.txt").write_text("win cash prize\n\nhome late, mother\n", encoding="utf-8")
    rows = predictions(here("predict", "lines.txt", "--restore_from=alone.h5", "--json", "--top=1"))
    assert [row["input"] for row in rows] == ["win cash prize", "home late, mother"]
    assert [row["top"][0]["class"] for row in rows] == ["spam", "ham"]
    assert alike(rows, predictions(here("predict", "lines.txt", "--workdir=run", "--json", "--top=1")))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"win cash prize\n")))
    assert alike(predictions(here("predict", "-", "--restore_from=alone.h5", "--json", "--top=1")), rows[:1])
    table = here("predict", "../sms.tsv", "--restore_from=alone.h5")
    read = list(csv.reader(io.StringIO(table.out), delimiter="\t"))
    assert read[0] == ["label", "text", "predicted_label", "probability_label"]
    assert len(read) == 61
    right = sum(row[0] == row[2] for row in read[1:])
    assert right > 55
    assert f"{right} of 60 right" in table.err
    refused = here("predict", "nothing.txt", "--restore_from=alone.h5")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)


@pytest.mark.slow
def test_language_model_continues_texts_alike_from_run_and_file(here: Any) -> None:
    train(here, CASES["language_model"], "--workdir=run", "--train_steps=60")
    shutil.copy("run/exports/model.h5", "alone.h5")
    pathlib.Path("prompts.txt").write_text("to be or n\nthat is a longer prompt than a window\n", encoding="utf-8")
    words = ("predict", "prompts.txt", "--length=9", "--json")
    rows = predictions(here(*words, "--workdir=run"))
    assert [row["input"] for row in rows] == ["to be or n", "that is a longer prompt than a window"]
    assert all(len(row["text"]) == 9 for row in rows)
    assert predictions(here(*words, "--restore_from=alone.h5")) == rows
    drawn = predictions(here(*words, "--restore_from=alone.h5", "--temperature=2"))
    assert drawn != rows
    assert predictions(here(*words, "--restore_from=alone.h5", "--temperature=2")) == drawn
    shown = here("predict", "prompts.txt", "--length=9", "--workdir=run")
    assert shown.out.startswith(f"to be or n{rows[0]['text']}\n")


@pytest.mark.slow
def test_language_model_continues_texts_alike_from_every_export(here: Any) -> None:
    train(here, CASES["language_model"], "--workdir=run", "--train_steps=60")
    assert here("export", "--workdir=run").code == 0
    pathlib.Path("prompts.txt").write_text("to be or n\nthe\n", encoding="utf-8")
    words = ("predict", "prompts.txt", "--length=20", "--json", "--trust_file")
    rows = predictions(here(*words, "--workdir=run"))
    for file in FILES.values():
        assert predictions(here(*words, f"--restore_from=run/exports/{file}")) == rows, file


@pytest.mark.slow
def test_saved_model_takes_raw_texts_and_columns(here: Any) -> None:
    import tensorflow as tf

    for name in ("regression", "classification"):
        train(here, CASES[name], f"--workdir={name}")
        result = here("export", f"--workdir={name}", "--formats=saved_model", "--json")
        assert result.code == 0, result.err
        assert result.json["files"]["saved_model"]["largest_difference"] <= 1.0
    serve = tf.saved_model.load("classification/exports/saved_model").signatures["serving_default"]
    expected = predictions(
        here("predict", "../sms.tsv", "--workdir=classification", "--json", "--outputs=probabilities")
    )
    outputs = serve(text=tf.constant(["win cash prize"]))
    assert list(outputs) == ["logits"]
    assert len(expected) == 60
    serve = tf.saved_model.load("regression/exports/saved_model").signatures["serving_default"]
    assert set(serve.structured_input_signature[1]) == {"area__m__", "town", "age"}
    found = serve(
        area__m__=tf.constant([50.5, float("nan")]), town=tf.constant(["Rom, Lazio", ""]), age=tf.constant([3.0, 4.0])
    )
    pathlib.Path("rows.csv").write_text('area (m²),town,age\n50.5,"Rom, Lazio",3\n,,4\n', encoding="utf-8")
    rows = predictions(here("predict", "rows.csv", "--workdir=regression", "--json"))
    assert [row["prediction"] for row in rows] == pytest.approx(found["outputs"].numpy().ravel().tolist(), rel=1e-5)
    facts = json.loads(pathlib.Path("regression/exports/saved_model/assets/facts.json").read_text())
    assert facts["signature_names"]["area (m²)"] == "area__m__"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "two_heads"])
def test_parity_is_identical(here: Any, name: str) -> None:
    words = [word for word in CASES[name].words if not word.startswith("--workdir")]
    found = here("parity", *words, "--batch_size=4", "--train_steps=5", "--json")
    assert found.code == 0, found.err
    assert found.json["identical"]


def test_paths_without_a_slash_name_files_and_ratings_can_be_a_regression(here: Any) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)).astype(np.float32), rng.integers(0, 7, 80)
    np.savez("arrays.npz", x=x, y=y)
    pathlib.Path("ratings.csv").write_text(
        "a,b,quality\n" + "".join(f"{row[0]:.3f},{row[1]:.3f},{one}\n" for row, one in zip(x, y, strict=True))
    )
    words = ("--data_dir=../tfds", "--train_steps=2", "--batch_size=16", "--progress=none")
    arrays = here("train", "--dataset=npz:arrays.npz", "--workdir=of_arrays", *words)
    assert arrays.code == 0, arrays.err
    ratings = here(
        "train", "--dataset=csv:ratings.csv", "--label_key=quality", "--task=regression", "--workdir=of_ratings", *words
    )
    assert ratings.code == 0, ratings.err
    assert "root_mean_squared_error" in ratings.out
    assert "go on" not in ratings.out  # a cosine ends where the run ends
    there = here("evaluate", "--restore_from=of_ratings/exports/model.h5", "--json")
    assert there.json["metrics"] == pytest.approx(here("evaluate", "--workdir=of_ratings", "--json").json["metrics"])


def test_classes_in_another_order_are_told(here: Any) -> None:
    words = ("--columns=label,text", "--data_dir=../tfds", "--sequence_length=6", "--train_steps=2", "--batch_size=16")
    assert here("train", "--dataset=csv:../sms.tsv", "--workdir=run", "--progress=none", *words).code == 0
    text = pathlib.Path("../sms.tsv").read_text(encoding="utf-8")
    pathlib.Path("swapped.tsv").write_text(text.replace("ham\t", "zam\t"), encoding="utf-8")
    told = here("evaluate", "--restore_from=run/exports/model.h5", "--dataset=csv:swapped.tsv")
    assert told.code == 0, told.err
    assert "class 0 is 'spam'" in told.err and "classes are matched by number" in told.err
