"""Exports: plain Keras reads the file and gives the same outputs, and an older file survives a failure."""

import errno
import pathlib
import resource
import signal
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer

IMAGE_MODELS = [name for name, entry in models.MODELS.items() if "images" in entry.takes]


def names(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_exported_model_gives_the_same_outputs(tmp_path: pathlib.Path, name: str, precision: str) -> None:
    shape = (28, 28, 1)
    model = models.create(name, shape, 10, precision=precision)
    path = trainer.export_h5(model, tmp_path / "exports" / "model.h5", shape)
    x = np.random.default_rng(0).random((16, *shape), np.float32)
    loaded = keras.models.load_model(path)
    assert np.abs(np.asarray(loaded(x)) - np.asarray(model(x, training=False))).max() == 0.0
    assert loaded.count_params() == model.count_params()
    assert names(path.parent) == ["model.h5"]


def test_export_after_training_holds_the_trained_weights(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path
) -> None:
    state = make_state()
    trainer.train(state, make_feed(), trainer.gradient_step(objective), num_steps=3, execution=trainer.graph())
    before = state.hashes()
    loaded = keras.models.load_model(trainer.export_h5(state.model, tmp_path / "model.h5", (8, 8, 1)))
    for ours, theirs in zip(state.model.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    assert state.hashes() == before


class Plain(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


class Raw(Plain):
    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.dense(tf.math.square(inputs))


class NoDefault(Plain):
    def call(self, inputs: Any, training: bool) -> Any:
        return self.dense(inputs)


@pytest.mark.parametrize("kind", [Plain, NoDefault])
def test_subclassed_model_is_exported_whatever_its_call_takes(tmp_path: pathlib.Path, kind: type) -> None:
    model = kind()
    model(np.zeros((1, 4), np.float32), training=False)
    loaded = keras.models.load_model(trainer.export_h5(model, tmp_path / "model.h5", (4,)))
    assert np.array_equal(loaded.get_weights()[0], model.get_weights()[0])


class OnlyTraining(Plain):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.dense(inputs) + self.head(inputs) if training else self.dense(inputs)


class OfNoLayer(Plain):
    def build(self, shape: Any) -> None:
        self.head = self.add_weight(shape=(), name="head")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs) * self.head


@pytest.mark.parametrize("kind", [OnlyTraining, OfNoLayer])
def test_weight_out_of_reach_is_not_lost(tmp_path: pathlib.Path, kind: type) -> None:
    model = kind()
    model(np.zeros((1, 4), np.float32), **({"training": True} if kind is OnlyTraining else {}))
    with pytest.raises(trainer.TrainingError, match=r"holds .*head"):
        trainer.export_h5(model, tmp_path / "model.h5", (4,))
    other = kind()
    other(np.zeros((1, 4), np.float32), **({"training": True} if kind is OnlyTraining else {}))
    other.load_weights(trainer.export_weights(model, tmp_path / "model.weights.h5"))
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def test_step_that_is_given_stands_in_the_file_alone(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    state.step.assign(7)
    path = trainer.export_h5(state, tmp_path / "model.h5", (8, 8, 1), step=100)
    assert (int(state.step), int(trainer.load_h5(path).step)) == (7, 100)


def test_optimizer_that_keras_does_not_list_is_loaded(make_state: Any, tmp_path: pathlib.Path) -> None:
    x, y = np.random.default_rng(0).random((8, 4)), np.arange(8) % 3
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Lamb(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, verbose=0)
    path = trainer.export_h5(model, tmp_path / "model.h5")
    assert keras.models.load_model(path).count_params() == 15
    state = trainer.load_h5(path)
    assert type(state.optimizer) is keras.optimizers.Lamb
    for ours, theirs in zip(state.optimizer.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("write", [trainer.export_h5, trainer.export_weights])
def test_full_disk_is_an_error_of_the_system(tmp_path: pathlib.Path, write: Any) -> None:
    model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(400)])
    path = tmp_path / ("model.weights.h5" if write is trainer.export_weights else "model.h5")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            write(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert not names(tmp_path)


def test_model_of_raw_operations_is_refused_in_a_line(tmp_path: pathlib.Path) -> None:
    model = Raw(name="raw")
    model(np.zeros((1, 4), np.float32))
    with pytest.raises(trainer.TrainingError, match="'raw' can't be written") as error:
        trainer.export_h5(model, tmp_path / "model.h5", (4,))
    assert "\n" not in str(error.value)
    assert not names(tmp_path)


def test_failed_export_leaves_the_old_file(
    make_state: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    path = trainer.export_h5(state.model, tmp_path / "model.h5", (8, 8, 1))
    before = path.read_bytes()

    def break_off(model: keras.Model, filepath: Any, **options: Any) -> None:
        pathlib.Path(filepath).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", break_off)
    with pytest.raises(OSError, match="No space"):
        trainer.export_h5(state.model, path, (8, 8, 1))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["model.h5"]


class Reshaped(Plain):
    def call(self, inputs: Any) -> Any:
        return self.dense(keras.ops.reshape(inputs, (-1, 4)))


@pytest.mark.parametrize("kind", [Raw, Reshaped])
def test_weights_of_a_model_of_raw_operations_are_written_with_the_path_of_its_class(
    tmp_path: pathlib.Path, kind: type
) -> None:
    model, other = kind(name="raw"), kind(name="raw")
    x = np.random.default_rng(0).random((2, 4)).astype("float32")
    assert not np.array_equal(model(x), other(x))
    with pytest.raises(trainer.TrainingError, match=r"export_(weights|keras)"):
        trainer.export_h5(model, tmp_path / "model.h5")
    path = trainer.export_weights(model, tmp_path / "model.weights.h5")
    other.load_weights(path)
    assert np.array_equal(model(x), other(x))
    with h5py.File(path) as file:
        assert file.attrs["model_class"] == f"{kind.__module__}:{kind.__qualname__}"
    assert names(tmp_path) == ["model.weights.h5"]
