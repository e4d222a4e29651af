"""Files of Keras 2 (made with tf_keras 2.21): the optimizer goes on as Keras 2 went on, and their weights can be taken.

`keras2/expected.npz` holds the weights that Keras 2 reached after one more epoch.
"""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base.named_weights import give_weights
from loopwright.trainer.checkpoint.plain import plain_weights, prefix_of
from loopwright.trainer.export.weight_files import file_weights

FILES = pathlib.Path(__file__).with_name("keras2")
OPTIMIZERS = ["adam", "adamw_cosine", "rmsprop_centered", "legacy_sgd_decay", "legacy_adam"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_file_of_keras_2_trains_on_like_keras_2(name: str) -> None:
    x = np.random.default_rng(0).random((16, 4), np.float32)
    state = trainer.repair_h5(FILES / f"{name}.h5")
    assert int(state.step) == 6
    state.model.fit(x, np.arange(16) % 3, epochs=1, batch_size=8, shuffle=False, verbose=0)
    with np.load(FILES / "expected.npz") as expected:
        for number, weight in enumerate(state.model.get_weights()):
            np.testing.assert_allclose(weight, expected[f"{name}/{number}"], rtol=0, atol=1e-6)


def test_slot_that_keras_2_did_not_write_is_named() -> None:
    with pytest.raises(trainer.TrainingError, match=r"Keras 2 wrote no value.*Nadam"):
        trainer.repair_h5(FILES / "nadam.h5")


def model_of(head: str = "head") -> keras.Model:
    keras.utils.clear_session()
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name=head)(keras.layers.BatchNormalization(name="norm")(hidden)))


def take(path: pathlib.Path, model: keras.Model, **options: Any) -> list[str]:
    prefix = None if path.suffix in (".h5", ".keras") else prefix_of(path)
    found = file_weights(path, model) if prefix is None else plain_weights(prefix, model)
    return give_weights(path, found, model, **options)


@pytest.mark.parametrize(
    "name", ["adam.h5", "adam.weights.h5", "adam.keras", "adam_tf/ckpt", "adam_tf", "adam_tf/ckpt.index"]
)
def test_weights_of_keras_2_are_taken(name: str) -> None:
    model = model_of()
    assert len(take(FILES / name, model)) == 8
    with np.load(FILES / "expected.npz") as expected:
        for number, weight in enumerate(model.get_weights()):
            assert np.array_equal(weight, expected[f"adam/before/{number}"])


KINDS = ["model.h5", "model.weights.h5", "model.keras", "checkpoint", "of_model"]


def written(folder: pathlib.Path, kind: str) -> tuple[pathlib.Path, keras.Model]:
    model = model_of()
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    path = folder / kind
    if kind.endswith(".weights.h5"):
        model.save_weights(path)
    elif kind == "checkpoint":
        tf.train.Checkpoint(net=model, opt=model.optimizer, step=tf.Variable(3)).write(str(path))
    elif kind == "of_model":
        tf.train.Checkpoint(model).write(str(path))
    else:
        model.save(path)
    return path, model


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_taken_from_every_kind_of_file(tmp_path: pathlib.Path, kind: str) -> None:
    path, model = written(tmp_path, kind)
    other = model_of()
    take(path, other)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_variables_keep_their_values_and_a_table_says_so(tmp_path: pathlib.Path, kind: str) -> None:
    path, model = written(tmp_path, kind)
    other = model_of("new_head")
    before, said = other.get_weights(), list[str]()
    assert len(take(path, other, exclude="new_head", say=said.append)) == 6
    assert np.array_equal(other.get_weights()[0], model.get_weights()[0])
    assert np.array_equal(other.get_weights()[-2], before[-2])
    (table,) = said
    assert "taken" in table
    assert "excluded        2  new_head/kernel, new_head/bias" in table


def test_weight_without_a_value_is_named_and_nothing_is_taken(tmp_path: pathlib.Path) -> None:
    path, _ = written(tmp_path, "model.h5")
    other = model_of("new_head")
    before = other.get_weights()
    with pytest.raises(trainer.TrainingError, match="missing: new_head/kernel"):
        take(path, other)
    assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights(), strict=True))
