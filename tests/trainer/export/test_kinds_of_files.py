"""Models that `.h5` can't hold are noticed, and another kind of file holds them: training goes on from it to the bit."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.export import formats
from loopwright.trainer.export.functional import NotRebuildable
from loopwright.trainer.export.same_training import check_same_training

layers = keras.layers
SHAPE = (4, 3)
X = np.random.default_rng(0).random((24, *SHAPE), np.float32)


def with_lora(x: Any) -> Any:
    dense = layers.Dense(4)
    y = dense(layers.Flatten()(x))
    dense.enable_lora(2)
    return y


#: What Keras's `.h5` loses, by a name.
LOST: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: layers.Dense(3)(x) + x,
    "quotient": lambda x: layers.Dense(3)(x / 255),
    "slice": lambda x: layers.Dense(3)(x[:, -1]),
    "masking": lambda x: layers.LSTM(3)(layers.Masking()(x)),
    "function": lambda x: keras.ops.relu(layers.Dense(3)(x)),
    "transposed": lambda x: keras.ops.transpose(layers.Dense(2)(x), (0, 2, 1)),
    "two axes": lambda x: layers.LayerNormalization(axis=(1, 2))(x),
    "unit norm of two axes": lambda x: layers.UnitNormalization(axis=(1, 2))(layers.Dense(3)(x)),
    "lora": with_lora,
}
HELD: dict[str, Callable[[Any], Any]] = {
    "attention": lambda x: layers.MultiHeadAttention(2, 3)(x, x),
    "nested": lambda x: keras.Sequential([keras.Input(SHAPE), layers.Dense(4), layers.BatchNormalization()])(x),
    "joined": lambda x: keras.ops.concatenate([layers.Dense(3)(x), x], axis=-1),
}


def make(body: Callable[[Any], Any]) -> trainer.TrainState:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    outputs = layers.Dense(3)(layers.Dropout(0.2)(layers.Flatten()(body(inputs))))
    return trainer.TrainState.create(keras.Model(inputs, outputs), keras.optimizers.Adam(0.01))


def train(state: trainer.TrainState, num_steps: int) -> None:
    step = trainer.gradient_step(trainer.classification(from_logits=True))
    feed = array_feed(X, np.arange(24) % 3, batch_size=8, seed=0)
    trainer.train(state, feed, step, num_steps=num_steps, execution=trainer.graph())


def assert_same(one: trainer.TrainState, other: trainer.TrainState) -> None:
    for ours, theirs in zip(one.model.variables, other.model.variables, strict=True):
        assert np.array_equal(ours, theirs), ours.path
    for ours, theirs in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
        assert np.array_equal(ours, theirs), ours.path


@pytest.mark.parametrize("name", LOST)
def test_model_that_h5_loses_is_refused_and_goes_on_from_keras_or_weights(tmp_path: pathlib.Path, name: str) -> None:
    state = make(LOST[name])
    train(state, 3)
    with pytest.raises(NotRebuildable, match="export_keras"):
        trainer.export_h5(state, tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())
    loaded = trainer.load_h5(trainer.export_keras(state, tmp_path / "model.keras"))
    fresh = make(LOST[name])
    trainer.restore_h5(trainer.export_weights(state, tmp_path / "model.weights.h5"), fresh)
    again = make(LOST[name])
    trainer.restore_h5(tmp_path / "model.keras", again)
    assert int(loaded.step) == int(fresh.step) == int(again.step) == 3
    for one in (state, loaded, fresh, again):
        train(one, 6)
    for one in (loaded, fresh, again):
        assert_same(one, state)


@pytest.mark.parametrize("name", HELD)
def test_model_that_h5_holds_is_not_refused(tmp_path: pathlib.Path, name: str) -> None:
    state = make(HELD[name])
    train(state, 3)
    loaded = trainer.load_h5(trainer.export_h5(state, tmp_path / "model.h5"))
    for one in (state, loaded):
        train(one, 6)
    assert_same(loaded, state)


def test_plain_keras_reads_the_keras_file(tmp_path: pathlib.Path) -> None:
    state = make(LOST["sum"])
    plain = keras.models.load_model(trainer.export_keras(state, tmp_path / "model.keras"))
    assert np.array_equal(plain(X), state.model(X))


def test_loss_of_a_keras_file_goes_on_with_fit(tmp_path: pathlib.Path) -> None:
    state = make(LOST["sum"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    path = trainer.export_keras(state, tmp_path / "model.keras", loss=loss, metrics=["accuracy"])
    loaded = trainer.load_h5(path).model
    state.model.compile(optimizer=state.optimizer, loss=loss, metrics=["accuracy"])
    for model in (state.model, loaded):
        model.fit(X, np.arange(24) % 3, batch_size=8, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(state.model.get_weights(), loaded.get_weights(), strict=True))


class Another(keras.layers.Layer):
    """A layer whose configuration lacks an argument."""

    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def get_config(self) -> dict[str, Any]:
        return super(keras.layers.Layer, self).get_config()

    def call(self, x: Any) -> Any:
        return x * self.factor


def test_new_process_notices_a_layer_that_trains_on_differently(tmp_path: pathlib.Path) -> None:
    state = make(lambda x: Another(0.5, name="another")(layers.Dense(3)(x)))
    before = state.hashes()
    path = trainer.export_h5(state, tmp_path / "model.h5")
    with pytest.raises(trainer.TrainingError, match="another model: its outputs differ"):
        check_same_training(state, path, X[:8])
    assert state.hashes() == before


def test_first_kind_that_holds_the_model_is_written_with_its_step(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    state = make(LOST["sum"])
    state.step.assign(40)
    before = state.hashes()
    path = formats.export_trained(state, tmp_path, X[:8], SHAPE, say=said.append)
    assert (path.name, state.hashes()) == ("model.keras", before)
    assert len(said) == 1
    assert "can't be written as .h5" in said[0]
    entry = formats.read_exports_manifest(tmp_path)["files"]["model.keras"]
    assert (entry["step"], entry["samples"], entry["largest_difference"]) == (40, 8, 0.0)
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "manifest.json"}


class NoConfig(keras.layers.Layer):
    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def test_layer_without_a_configuration_leaves_the_weights(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    state = make(lambda x: NoConfig(tf.math.sin)(layers.Dense(3)(x)))
    path = formats.export_trained(state, tmp_path, X[:8], SHAPE, say=said.append)
    assert (path.name, len(said)) == ("model.weights.h5", 2)
    fresh = make(lambda x: NoConfig(tf.math.sin)(layers.Dense(3)(x)))
    trainer.restore_h5(path, fresh)
    assert fresh.hashes() == state.hashes()


def adapted(mean: float) -> Callable[[Any], Any]:
    def body(x: Any) -> Any:
        layer = layers.Normalization()
        layer.adapt(X + mean)
        return layer(x)

    return body


@pytest.mark.parametrize("way", ["checkpoint", "weights", "h5", "keras", "weights.h5"])
def test_normalization_computes_with_what_was_loaded(tmp_path: pathlib.Path, way: str) -> None:
    from loopwright.trainer.checkpoint.checkpoint import Checkpoint, load_weights

    state, fresh = make(adapted(5.0)), make(adapted(0.0))
    expected = np.asarray(state.model(X))
    assert not np.array_equal(fresh.model(X), expected)
    if way in ("checkpoint", "weights"):
        folder = Checkpoint(tmp_path / "checkpoints").save(state)
        assert folder is not None
        if way == "checkpoint":
            Checkpoint(tmp_path / "checkpoints").restore(fresh)
        else:
            load_weights(folder, fresh.model)
    else:
        write = {"h5": trainer.export_h5, "keras": trainer.export_keras, "weights.h5": trainer.export_weights}[way]
        trainer.restore_h5(write(state, tmp_path / f"model.{way}"), fresh)
    assert np.array_equal(fresh.model(X), expected)


def test_file_of_weights_has_the_name_of_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"the name of a file of weights must end in .weights.h5"):
        trainer.export_weights(make(HELD[next(iter(HELD))]), tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_plain_file_that_no_run_goes_on_from_names_a_remedy_that_helps(tmp_path: pathlib.Path, suffix: str) -> None:
    state = make(LOST["sum"])
    path = tmp_path / f"model{suffix}"
    state.model.save(path) if suffix == ".keras" else state.model.save_weights(path)
    with pytest.raises(trainer.TrainingError, match="holds no training state; take its weights alone"):
        trainer.restore_h5(path, state)
    with pytest.raises(trainer.TrainingError, match=r"repair_h5 reads only .h5 files|holds no Keras model"):
        trainer.repair_h5(path)


def test_file_that_does_not_fit_the_optimizer_changes_nothing(tmp_path: pathlib.Path) -> None:
    name = next(iter(HELD))
    state = make(HELD[name])
    train(state, 3)
    path = trainer.export_h5(state, tmp_path / "model.h5")
    model = make(HELD[name]).model
    other = trainer.TrainState.create(model, keras.optimizers.Lion())
    before = [np.array(weight) for weight in model.weights]
    with pytest.raises(trainer.TrainingError, match="doesn't fit"):
        trainer.restore_h5(path, other)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
