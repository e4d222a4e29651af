"""What `predict` reads and prints, without a run."""

import csv
import io
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from loopwright.data.preprocessing import from_state
from loopwright.data.text import TextPreprocessing
from loopwright.flags import UsageError
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import exported
from loopwright.trainer.commands import predicting_inputs as inputs
from loopwright.trainer.commands import predicting_output as output
from loopwright.trainer.commands.predicting_model import Predictor
from loopwright.trainer.commands.predicting_texts import continued
from loopwright.trainer.export.open_export import OpenedModel


def head(kind: str, names: tuple[str, ...], task: str, *, shape: tuple[int, ...] = (), activated: bool = False) -> Any:
    return {"task": task, "kind": kind, "shape": list(shape), "names": list(names), "activated": activated}


def predictor(outputs: Any, heads: dict[str, Any], **more: Any) -> Predictor:
    """A model that gives `outputs` whatever it is given."""
    opened = OpenedModel(lambda x: outputs, (3,), model=object())
    return Predictor(opened, exported.assignment({"heads": heads}), **more)


X = np.zeros((2, 3), np.float32)


def test_positions_that_do_not_count_leave_a_gap() -> None:
    names, real = ("a", "b", "c"), np.array([True, False, True, True, False])
    label = inputs._with_gaps(names, np.array([0, 1, 2, 0, 0]), real)
    assert label == ["a", None, "c", "a"]
    assert output._score([(label, {"classes": ["a", "a", "c", "a", "b"]})]) == "3 of 3 positions right"
    assert inputs._with_gaps(names, np.array([[0, 1], [2, 0]]), real[:4].reshape(2, 2)) == [["a", None], ["c", "a"]]


def test_labels_of_two_heads_have_columns_apart() -> None:
    entry = {"labels": ["yes"], "probabilities": {"yes": 0.9}}
    assert set(output._cells({"colour": entry, "shape": entry})) == {
        *("predicted_colour", "predicted_shape", "probability_colour_yes", "probability_shape_yes")
    }
    assert "probability_yes" in output._cells({"colour": entry})


def test_images_of_every_kind_are_found_in_a_folder(tmp_path: pathlib.Path) -> None:
    for name in ("a.jpeg", "b.WEBP", "c.tiff", "d.jfif", "notes.txt", ".e.png"):
        (tmp_path / name).touch()
    found = inputs.image_files([str(tmp_path)])
    assert [path.name for path in found] == ["a.jpeg", "b.WEBP", "c.tiff", "d.jfif"]


def test_keras_model_is_given_token_ids_as_they_are() -> None:
    """As floats, half precision would round them: 257 to 256."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(600, 2), keras.layers.GlobalMaxPool1D()])
    model.layers[0].dtype_policy = "mixed_bfloat16"
    seen = []

    def call(x: np.ndarray) -> np.ndarray:
        seen.append(x.dtype)
        return np.zeros((len(x), 2))

    for kept in (model, None):
        Predictor(OpenedModel(call, (3,), probabilities=False, model=kept)).rows(np.array([[257, 3, 599]]), 1)
    assert seen == [np.int64, np.float32]


def test_outputs_become_probabilities_only_where_they_are_logits() -> None:
    logits = np.array([[0.0, math.log(3)], [math.log(4), 0.0]])
    classes = {"kind": head("class", ("cat", "dog"), "classification")}
    first, second = (row["top"] for row in predictor(logits, classes).rows(X, 2))
    assert first == [{"class": "dog", "probability": pytest.approx(0.75)}, {"class": "cat", "probability": 0.25}]
    assert second[0] == {"class": "cat", "probability": pytest.approx(0.8)}
    given = {"kind": head("class", ("cat", "dog"), "classification", activated=True)}
    assert predictor(np.array([[0.9, 0.1]] * 2), given).rows(X, 1)[0]["top"][0]["probability"] == 0.9
    binary = {"kind": head("class", ("cat", "dog"), "binary")}
    best = predictor(np.array([[-math.log(3)], [1000.0]]), binary).rows(X, 1)
    assert [row["top"][0] for row in best] == [
        {"class": "cat", "probability": pytest.approx(0.75)},
        {"class": "dog", "probability": 1.0},
    ]
    labels = {"traits": head("multi_hot", ("big", "wild"), "multi_label", shape=(2,))}
    assert predictor(np.array([[5.0, -5.0], [-5.0, -5.0]]), labels).rows(X, 1)[0]["labels"] == ["big"]


def test_several_heads_are_predicted_by_name_and_scored_each() -> None:
    heads = {"kind": head("class", ("cat", "dog"), "classification"), "price": head("number", ("price",), "regression")}
    outputs = {"kind": np.array([[0.0, 5.0], [5.0, 0.0]]), "price": np.array([[3.0], [10.0]])}
    rows = predictor(outputs, heads).rows(X, 1)
    assert [row["price"] for row in rows] == [{"prediction": 3.0}, {"prediction": 10.0}]
    items = [
        inputs.Item("a", None, {"kind": "dog", "price": 3.0}),
        inputs.Item("b", None, {"kind": "dog", "price": 6.0}),
    ]
    assert list(output.scores(items, rows)) == ["kind: 1 of 2 right", "price: RMSE 2.82843 over 2"]
    with pytest.raises(TrainingError, match="aren't those"):
        predictor(outputs["kind"], heads).rows(X, 1)


def test_positions_of_padding_are_not_counted() -> None:
    target = type("T", (), {"kind": "classes", "names": ("noun", "verb")})()
    real = np.array([True, True, False])
    labels = inputs.labels_of({"tags": target}, np.array([1, 0, 0]), real)
    assert labels == {"tags": ["verb", "noun"]}
    row = {"tags": {"classes": ["verb", "verb", "noun"]}}
    assert list(output.scores([inputs.Item("a", None, labels)], [row])) == ["1 of 2 positions right"]


def test_numbers_that_json_cannot_hold_are_null() -> None:
    rows = output.as_json([inputs.Item("a", None, {"price": 2.0})], [{"prediction": [math.nan, 1.0]}])
    assert rows == [{"input": "a", "label": 2.0, "prediction": [None, 1.0]}]


def test_table_keeps_its_columns_and_quotes_what_must_be() -> None:
    sheet = inputs.Sheet(["a", "predicted_b"], ",", [inputs.Item("t.csv:2", {}, row=['x, "y"', ""])])
    text = output.as_csv(sheet, [{"b": {"top": [{"class": "p, q", "probability": 0.5}]}}])
    assert list(csv.reader(io.StringIO(text))) == [
        ["a", "predicted_b", "predicted_b_", "probability_b"],
        ['x, "y"', "", "p, q", "0.5"],
    ]
    numbers = output.as_csv(sheet, [{"b": {"prediction": float(np.float32(0.1))}}])
    assert numbers.splitlines()[1].endswith(",,0.1")


def columns_of_table() -> Any:
    state = {"kind": "table", "columns": [
        {"name": name, "kind": kind, "mean": 0.0, "std": 1.0, "missing": 1, "values": values}
        for name, kind, values in (("age", "number", []), ("town", "category", ["Bern"]))
    ]}  # fmt: skip
    return from_state(state)


def test_table_is_read_with_and_without_a_header(tmp_path: pathlib.Path) -> None:
    heads = {"rent": head("number", ("rent",), "regression")}
    of_table = predictor(None, heads, preprocessing=columns_of_table(), inputs=("age", "town"))
    for text, columns in (
        ("town,rent,age\nBern,7.5,3\nRom,,\n", []),
        ("Bern,7.5,3\nRom,,\n", ["town", "rent", "age"]),
    ):
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        sheet = inputs.from_table(str(tmp_path / "t.csv"), of_table, columns)
        assert sheet.columns == ["town", "rent", "age"]
        assert [item.labels for item in sheet.items] == [{"rent": 7.5}, {}]
        assert [item.x["age"] for item in sheet.items] == ["3", ""]
    (tmp_path / "t.tsv").write_text("Bern\t3\n", encoding="utf-8")
    sheet = inputs.from_table(str(tmp_path / "t.tsv"), of_table, ["town", "rent", "age"])
    assert (sheet.columns, sheet.delimiter) == (["town", "age"], "\t")
    with pytest.raises(TrainingError, match="has no column 'age'"):
        inputs.from_table(str(tmp_path / "t.tsv"), of_table, [])


def test_labels_of_a_table_are_read_as_training_read_them(tmp_path: pathlib.Path) -> None:
    heads = {"grade": head("class", ("1", "2"), "classification")}
    of_table = predictor(None, heads, preprocessing=columns_of_table(), inputs=("age", "town"))
    (tmp_path / "t.csv").write_text("age,town,grade\n1,a,2.0\n1,a,\n1,a,9\n", encoding="utf-8")
    items = inputs.from_table(str(tmp_path / "t.csv"), of_table, []).items
    assert [item.labels for item in items] == [{"grade": "2"}, {}, {"grade": "9"}]


def test_texts_that_cannot_be_read_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "b.txt").write_bytes(b"\n \n")
    for word, part in (("a.txt", "byte 3 is not UTF-8"), ("b.txt", "holds no text"), ("", "is a folder")):
        with pytest.raises(UsageError, match=part):
            list(inputs.from_texts([str(tmp_path / word)]))
    (tmp_path / "c.txt").write_bytes("\ufeffone\r\n\r\ntwo, ü".encode())
    assert [item.x for item in inputs.from_texts([str(tmp_path / "c.txt")])] == ["one", "two, ü"]


LETTERS = TextPreprocessing("character", ["", "[UNK]", "a", "b", "c"], 4)


def after(ids: np.ndarray) -> np.ndarray:
    """A model for which the letter after each one is the next of the alphabet; padding and unknown ones are likelier."""
    scores = np.zeros((*ids.shape, 5))
    scores[..., :2] = 50
    for place in np.ndindex(ids.shape):
        scores[(*place, 2 + (int(ids[place]) - 1) % 3)] = 9
    return scores


def test_text_goes_on_from_its_last_token_also_beyond_the_window() -> None:
    assert continued(after, LETTERS, ["a", "abcabca", "zz"], length=5) == ["bcabc", "bcabc", "abcab"]


def test_drawn_tokens_depend_on_the_seed_and_the_temperature_alone() -> None:
    def flat(ids: np.ndarray) -> np.ndarray:
        return np.zeros((*ids.shape, 5))

    drawn = [continued(flat, LETTERS, ["a"], length=60, temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == set("abc")
    assert continued(after, LETTERS, ["a"], length=5, temperature=0.01) == ["bcabc"]


def test_separator_ends_a_text() -> None:
    ended = TextPreprocessing("character", ["", "[UNK]", "a", "b", "c"], 4, separator=True)

    def stop_after_b(ids: np.ndarray) -> np.ndarray:
        scores = np.concatenate([after(ids), np.zeros((*ids.shape, 1))], axis=-1)
        scores[ids == 3, 5] = 99
        return scores

    assert continued(stop_after_b, ended, ["a", "c"], length=9) == ["b", "ab"]
