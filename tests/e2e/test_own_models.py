"""A user's own models and data through `train`, `export`, `evaluate` and `predict`."""

import json
import pathlib
import shlex
import shutil
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

FEED = ["--dataset=own_models:feed", "--eval_split=test", "--batch_size=10", "--train_steps=4"]
SAMPLES = ["--dataset=own_models:samples", "--eval_split=test", "--batch_size=10", "--train_steps=4"]


@pytest.fixture
def own(tmp_path: pathlib.Path) -> pathlib.Path:
    """The module `own_models` in the folder in which commands run."""
    return pathlib.Path(shutil.copy(pathlib.Path(__file__).with_name("own_models.py"), tmp_path))


def succeeded(result: Any) -> Any:
    assert result.code == 0, result.err
    return result


def refused(result: Any) -> str:
    """The line that says why."""
    assert result.code in (1, 2)
    *promises, line = result.err.splitlines()
    assert all("makes its own stream" in promise for promise in promises)
    return line


@pytest.mark.slow
@pytest.mark.parametrize("words", [FEED, SAMPLES], ids=["feed", "samples"])
def test_every_command_takes_a_users_data(loopwright: Any, own: pathlib.Path, words: list[str]) -> None:
    succeeded(loopwright("train", *words, "--model=mlp", "--workdir=a run"))
    files = succeeded(loopwright("export", "--workdir=a run", "--json")).json["files"]
    assert set(files) == {"model.h5", "model.keras", "saved_model", "model.tflite"}
    rows = succeeded(loopwright("predict", "--workdir=a run", "--split=test", "--json")).json["predictions"]
    assert [row["input"] for row in rows] == [f"test#{place}" for place in range(40)]


def test_lines_to_copy_are_quoted(loopwright: Any, own: pathlib.Path) -> None:
    said = succeeded(loopwright("train", *SAMPLES, "--model=mlp", "--workdir=a run")).out
    lines = {line[:13].strip(): shlex.split(line[13:]) for line in said.splitlines()}
    assert lines["report"] == ["loopwright", "report", "--workdir=a run"]
    assert lines["go on"][:4] == ["loopwright", "train", "--flagfile=a run/flags.txt", "--workdir=a run"]
    assert succeeded(loopwright(*lines["go on"][1:], "--json")).json["step"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("model", ["scaled", "listed", "subclassed"])
def test_layers_of_a_user_are_exported_and_opened_when_trusted(loopwright: Any, own: pathlib.Path, model: str) -> None:
    succeeded(loopwright("train", *FEED, f"--model=own_models:{model}", "--workdir=run"))
    exported = succeeded(loopwright("export", "--workdir=run", "--formats=h5,keras", "--json")).json["files"]
    assert [entry["largest_difference"] for entry in exported.values()] == [0.0, 0.0]
    expected = succeeded(loopwright("predict", "--workdir=run", "--split=test", "--json", *FEED[:1])).json[
        "predictions"
    ]
    for name in exported:
        words = ["--split=test", f"--restore_from=run/exports/{name}", "--json", *FEED[:1]]
        if model != "listed":  # in this process Keras knows that one
            refused(loopwright("predict", *words))
        found = succeeded(loopwright("predict", *words, "--trust_file")).json["predictions"]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours["top"][0]["probability"] == pytest.approx(theirs["top"][0]["probability"], abs=1e-6)


def test_class_that_is_not_there_is_named(loopwright: Any, own: pathlib.Path) -> None:
    succeeded(loopwright("train", *FEED, "--model=own_models:scaled", "--workdir=run"))
    with h5py.File("run/exports/model.h5", "r+") as file:
        file.attrs["loopwright_classes"] = json.dumps({"Scale": "nowhere:Scale"})
    said = refused(loopwright("evaluate", "--restore_from=run/exports/model.h5", *FEED[:2], "--trust_file"))
    assert "No module named 'nowhere'" in said


@pytest.mark.slow
def test_names_in_the_file_are_the_models_own(loopwright: Any, own: pathlib.Path) -> None:
    for run, words in (("a", FEED), ("b", SAMPLES)):
        succeeded(loopwright("train", *words, "--model=mlp", f"--workdir={run}"))
    succeeded(loopwright("export", "--workdir=a", "--formats=h5,litert", "--output=served"))
    pathlib.Path("served/model.h5").rename("served/other.hdf5")
    succeeded(loopwright("export", "--workdir=b", "--formats=h5", "--output=served"))
    named = {
        "other.hdf5": {"red", "green", "blue"},
        "model.tflite": {"red", "green", "blue"},
        "model.h5": {"0", "1", "2"},
    }
    for file, names in named.items():
        words = [f"--restore_from=served/{file}", "--split=test", "--json", *FEED[:1]]
        rows = succeeded(loopwright("predict", *words)).json["predictions"]
        assert {entry["class"] for entry in rows[0]["top"]} == names


def test_predict_knows_what_a_file_ends_in(loopwright: Any, own: pathlib.Path) -> None:
    def dense(**options: Any) -> keras.Model:
        wide = keras.initializers.RandomNormal(stddev=20.0, seed=1)
        layer = keras.layers.Dense(3, kernel_initializer=wide, **options)
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), layer])

    x = tf.cast(np.random.default_rng(0).random((40, 8, 8, 1), np.float32), tf.float32)
    for options in ({"activation": "softmax", "dtype": "mixed_bfloat16"}, {"activation": "sigmoid"}, {}):
        model = dense(**options)
        model.save("model.keras")
        outputs = tf.cast(model(x), tf.float32)
        expected = (outputs if "activation" in options else tf.nn.softmax(outputs)).numpy().max(axis=1)
        words = ["predict", "--restore_from=model.keras", "--split=test", "--json", *SAMPLES[:1]]
        if options.get("activation") == "sigmoid":
            refused = loopwright(*words)
            assert refused.code == 2
            assert refused.err.strip().endswith("give --outputs=logits or --outputs=probabilities")
            words.append("--outputs=probabilities")
        rows = succeeded(loopwright(*words))
        found = [row["top"][0]["probability"] for row in rows.json["predictions"]]
        assert found == pytest.approx(expected.tolist(), abs=1e-2)


def models_that_are_no_classifiers() -> dict[str, keras.Model]:
    one, other = keras.Input((8, 8, 1), name="one"), keras.Input((8, 8, 1), name="other")
    flat, dense = keras.layers.Flatten()(one), keras.layers.Dense
    return {
        "other inputs (one, other)": keras.Model(
            {"one": one, "other": other}, dense(3)(keras.layers.Flatten()(one + other))
        ),
        "several outputs (a, b)": keras.Model(one, {"a": dense(3)(flat), "b": dense(4)(flat)}),
        "shape (8, 8, 3)": keras.Model(one, keras.layers.Conv2D(3, 1)(one)),
        "shape (1,)": keras.Model(one, dense(1)(flat)),
    }


def test_predict_refuses_what_is_no_classifier(loopwright: Any, own: pathlib.Path) -> None:
    for part, model in models_that_are_no_classifiers().items():
        model.save("model.keras")
        assert part in refused(loopwright("predict", "--restore_from=model.keras", "--split=test", *SAMPLES[:1]))


def test_predict_takes_a_model_of_any_size(loopwright: Any, own: pathlib.Path) -> None:
    inputs = keras.Input((None, None, 1))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(3)(features)).save("model.keras")
    rows = succeeded(loopwright("predict", "--restore_from=model.keras", "--split=test", "--json", *SAMPLES[:1]))
    assert len(rows.json["predictions"]) == 40


def test_json_holds_null_for_what_is_no_number(loopwright: Any, own: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.layers[-1].bias.assign([np.nan, 0, 0])
    model.save("model.keras")
    for command, words in (("evaluate", ["--eval_split=test"]), ("predict", ["--split=test"])):
        said = succeeded(loopwright(command, "--restore_from=model.keras", "--json", *SAMPLES[:1], *words)).out
        assert "null" in said
        assert "NaN" not in said
