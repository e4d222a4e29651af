"""Exports of several inputs and outputs, of texts and of tables, and the facts that each format holds."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from loopwright import trainer
from loopwright.data.table import Column, TablePreprocessing
from loopwright.data.text import TextPreprocessing
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.export import formats, open_export, serving
from loopwright.trainer.export.h5_reader import read_facts

#: More than the 64 KB that an attribute of an HDF5 file holds by itself.
FACTS = {"identity": {"task": "regression"}, "preprocessing": {"vocabulary": [f"wörd{n}" for n in range(20_000)]}}
ALL = ("h5", "keras", "saved_model", "litert")


def two_of_each() -> tuple[trainer.TrainState, dict[str, np.ndarray]]:
    inputs = {name: keras.Input(shape, name=name) for name, shape in (("size", (2,)), ("image", (3, 2)))}
    x = layers.Concatenate()([inputs["size"], layers.Flatten()(inputs["image"])])
    model = keras.Model(inputs, {"price": layers.Dense(1)(x), "kind": layers.Dense(3)(x)})
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(size=(5, *part.shape[1:])).astype(np.float32) for name, part in inputs.items()}
    return trainer.TrainState.create(model, keras.optimizers.Adam()), samples


def test_several_inputs_and_outputs_go_by_name_in_every_format(tmp_path: pathlib.Path) -> None:
    state, samples = two_of_each()
    manifest = formats.export_all(formats.Export(state, samples, facts=FACTS), tmp_path, ALL)
    assert {entry["largest_difference"] <= 1e-5 for entry in manifest["files"].values()} == {True}
    assert manifest["files"]["model.h5"]["inputs"] == {"size": "float32", "image": "float32"}
    expected = state.model(samples)
    for name in ALL:
        path = tmp_path / formats.FORMATS[name]
        opened = open_export.open_export(path, trust=True)
        assert opened.input_shape == {"size": (2,), "image": (3, 2)}
        found = opened.call(samples)
        assert set(found) == {"price", "kind"}
        for part, value in expected.items():
            np.testing.assert_allclose(found[part], value, atol=1e-5)
        assert {key: opened.facts[key] for key in FACTS} == FACTS
        assert open_export.read_facts(path) == opened.facts


def test_small_output_beside_a_large_one_must_agree_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price of a million allows no difference in the chance beside it."""
    state, samples = two_of_each()
    price, kind = sorted(
        (layer for layer in state.model.layers if isinstance(layer, layers.Dense)), key=lambda d: d.units
    )
    price.bias.assign([1e6])
    write = formats._write

    def wrong(export: Any, name: str, path: pathlib.Path) -> None:
        kind.bias.assign_add([0.5, 0, 0])
        write(export, name, path)
        kind.bias.assign_sub([0.5, 0, 0])

    formats.export_all(formats.Export(state, samples), tmp_path, ["saved_model"])
    monkeypatch.setattr(formats, "_write", wrong)
    with pytest.raises(TrainingError, match=r"its outputs differ by 0\.5 from the live model's outputs"):
        formats.export_all(formats.Export(state, samples), tmp_path, ["saved_model"])


def test_long_facts_lie_in_the_file_itself(tmp_path: pathlib.Path) -> None:
    state, _ = two_of_each()
    for export, name in ((trainer.export_h5, "a.h5"), (trainer.export_keras, "a.keras")):
        assert read_facts(export(state, tmp_path / name, facts=FACTS)) == FACTS
    trainer.restore_h5(tmp_path / "a.h5", state)
    keras.models.load_model(tmp_path / "a.h5")


def test_saved_model_of_a_table_takes_its_columns(tmp_path: pathlib.Path) -> None:
    table = TablePreprocessing(
        [
            Column("area (m²)", "number", 50.0, 10.0, 1),
            Column("2nd", "flag"),
            Column("town", "category", values=("Bern", "Zürich")),
            Column("rank", "class", values=("a", "b")),
        ]
    )
    model = keras.Sequential([keras.Input(tuple(table.spec.shape)), layers.Dense(1)])
    rows = [
        {"area (m²)": "61.5", "2nd": "1", "town": "Zürich", "rank": "b"},
        {"area (m²)": "", "2nd": "0", "town": "", "rank": "a"},
    ]
    raw = table.batch(rows)
    state = trainer.TrainState.create(model, keras.optimizers.Adam())
    export = formats.Export(state, table(raw).numpy(), "table", "outputs", preprocessing=table, raw=raw)
    manifest = formats.export_all(export, tmp_path, ["saved_model", "litert"])
    assert manifest["files"]["saved_model"]["inputs"]["town"] == "string"
    assert manifest["files"]["model.tflite"]["inputs"] == "float32"
    opened = open_export.open_export(tmp_path / "saved_model", trust=True)
    assert opened.call_raw is not None
    np.testing.assert_allclose(opened.call_raw(raw), model(table(raw)), atol=1e-5)
    np.testing.assert_allclose(opened.call(table(raw)), model(table(raw)), atol=1e-5)
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    assert set(served.structured_input_signature[1]) == {"area__m__", "x2nd", "town", "rank"}


@pytest.mark.parametrize("words", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_saved_model_of_texts_takes_strings(tmp_path: pathlib.Path, words: bool) -> None:
    text = TextPreprocessing("word", ["", "[UNK]", "cat", "dög"], 3, words=words)
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(4, 2)(ids))))
    raw = text.batch(["cat dög bird", "dög", ""])
    state = trainer.TrainState.create(model, keras.optimizers.Adam())
    export = formats.Export(state, text(raw).numpy(), "text", "logits", preprocessing=text, raw=raw)
    manifest = formats.export_all(export, tmp_path, ALL)
    kinds = {name: entry["inputs"] for name, entry in manifest["files"].items()}
    assert kinds == {**dict.fromkeys(formats.FORMATS.values(), "int32"), "saved_model": "string"}
    opened = open_export.open_export(tmp_path / "saved_model", trust=True)
    assert opened.call_raw is not None
    np.testing.assert_allclose(opened.call_raw(raw), model(text(raw)), atol=1e-5)
    assert [keras.models.load_model(tmp_path / "model.h5").inputs[0].dtype, opened.dtype] == ["int32", "int32"]


@keras.saving.register_keras_serializable("test_serving")
class Strange(layers.Layer):
    """LiteRT knows no such operation."""

    def call(self, x: Any) -> Any:
        return tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32) * 0.0 + x


def test_format_that_cannot_hold_the_model_is_named_and_the_others_are_written(tmp_path: pathlib.Path) -> None:
    image = keras.Input((2,))
    model = keras.Model(image, layers.Dense(1)(Strange()(image)))
    state = trainer.TrainState.create(model, keras.optimizers.Adam())
    export, said = formats.Export(state, np.ones((2, 2), np.float32)), []
    manifest = formats.export_all(export, tmp_path, ["saved_model", "litert"], say=said.append)
    assert set(manifest["files"]) == {"saved_model"}
    assert len(said) == 1
    assert said[0].startswith("format litert: the model can't be converted (")
    assert not (tmp_path / "model.tflite").exists()
    with pytest.raises(TrainingError, match="format litert"):
        formats.export_all(export, tmp_path / "none", ["litert"])


def test_names_in_a_signature_are_plain_and_different() -> None:
    names = open_export.signature_names(["a b", "a-b", "1st", "ü", "ok"])
    assert names == {"a b": "a_b", "a-b": "a_b_", "1st": "x1st", "ü": "x_", "ok": "ok"}
    assert serving.Unwritable("x").exit_code == 1
