"""What `evaluate`, `predict` and `export` read, and what they learn from it."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base import private_tf
from loopwright.trainer.commands import predict, setup, sources
from loopwright.trainer.export.open_export import OpenedModel

FACTS = {"identity": {"scale": "none", "outputs": "logits"}, "class_names": ["cat", "dog"]}


def state() -> trainer.TrainState:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    return trainer.TrainState.create(model, keras.optimizers.SGD())


@pytest.mark.parametrize(("write", "name"), [(trainer.export_h5, "a.h5"), (trainer.export_keras, "a.keras")])
def test_file_far_from_its_manifest_tells_of_its_run(tmp_path: pathlib.Path, write: Any, name: str) -> None:
    assert sources.facts_in(write(state(), tmp_path / name, facts=FACTS)) == FACTS
    assert sources.identity_in(tmp_path / name) == FACTS["identity"]


def test_file_of_plain_keras_tells_nothing(tmp_path: pathlib.Path) -> None:
    state().model.save(tmp_path / "a.keras")
    assert sources.facts_in(tmp_path / "a.keras") == {}
    assert sources.identity_in(tmp_path / "a.keras") is None


def test_predict_takes_every_kind_of_image_that_training_takes(tmp_path: pathlib.Path) -> None:
    for name in ("a.jpeg", "b.WEBP", "c.tiff", "d.jfif", "notes.txt", ".e.png"):
        (tmp_path / name).touch()
    assert [path.name for path in predict._files([str(tmp_path)])] == ["a.jpeg", "b.WEBP", "c.tiff", "d.jfif"]


def test_predict_gives_a_keras_model_token_ids_as_they_are() -> None:
    """As floats, half precision would round them: 257 to 256."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(600, 2), keras.layers.GlobalMaxPool1D()])
    model.layers[0].dtype_policy = "mixed_bfloat16"
    seen = []

    def call(x: np.ndarray) -> np.ndarray:
        seen.append(x.dtype)
        return np.zeros((len(x), 2))

    items = [predict.Item("one", np.array([257, 3, 599]))]
    predict._rows(OpenedModel(call, (3,), probabilities=False, model=model), items, 1)
    predict._rows(OpenedModel(call, (3,), probabilities=False), items, 1)
    assert seen == [np.int64, np.float32]


def test_deterministic_operations_end_with_the_command_that_wanted_them() -> None:
    setup.start_tensorflow(deterministic=True)
    assert private_tf.determinism_is_on()
    setup.start_tensorflow()
    assert not private_tf.determinism_is_on()
    tf.random.uniform([2])  # Deterministic operations would refuse it without a seed.
