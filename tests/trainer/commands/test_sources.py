"""What `evaluate`, `predict` and `export` read, and what they learn from it."""

import pathlib
from typing import Any

import keras
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base import private_tf
from loopwright.trainer.commands import setup, sources

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


def test_deterministic_operations_end_with_the_command_that_wanted_them() -> None:
    setup.start_tensorflow(deterministic=True)
    assert private_tf.determinism_is_on()
    setup.start_tensorflow()
    assert not private_tf.determinism_is_on()
    tf.random.uniform([2])  # Deterministic operations would refuse it without a seed.
