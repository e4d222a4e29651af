"""The state: what is in it, and that its hashes show any change."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer
from loopwright.trainer.core.optimizers import inner_optimizer


def subclassed() -> keras.Model:
    return models.create("cnn_subclass", (12, 12, 1), 3)


def test_create_gives_a_state_at_step_zero_with_a_built_optimizer(make_state: Any) -> None:
    state = make_state()
    assert (state.step.dtype, int(state.step)) == (tf.int64, 0)
    assert state.optimizer.built
    assert len(state.optimizer.variables) == 2 + 2 * len(state.model.trainable_variables)


def test_create_refuses_an_unbuilt_model() -> None:
    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="not built"):
        trainer.TrainState.create(model, keras.optimizers.Adam())


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_create_takes_an_optimizer_by_name_as_compile_does(precision: str) -> None:
    dense = keras.layers.Dense(3, dtype=precision)
    model = keras.Sequential([keras.Input((4,)), dense])
    model.dtype_policy = keras.dtype_policies.get(precision)
    state = trainer.TrainState.create(model, "rmsprop")
    model.compile("rmsprop", "mse")
    assert state.optimizer.built
    assert type(state.optimizer) is type(model.optimizer)
    ours, theirs = (inner_optimizer(optimizer).get_config() for optimizer in (state.optimizer, model.optimizer))
    assert ours | {"name": ""} == theirs | {"name": ""}


@pytest.mark.parametrize(
    ("optimizer", "kind", "message"),
    [
        ("adamm", ValueError, "^optimizer='adamm' is not known to Keras by name; did you mean 'adam'[?]$"),
        ("LossScaleOptimizer", ValueError, "^optimizer='LossScaleOptimizer' is not known to Keras by name"),
        (
            keras.optimizers.Adam,
            TypeError,
            r"^optimizer is the class Adam; make one: Adam\(...\), or its name, such as 'adam'$",
        ),
        (None, TypeError, "^optimizer is None; give an optimizer of Keras, or its name, such as 'adam'$"),
        (0.1, TypeError, "^optimizer is 0.1; give an optimizer of Keras"),
    ],
)
def test_create_refuses_what_is_no_optimizer(optimizer: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        trainer.TrainState.create(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), optimizer)


@pytest.mark.parametrize(("model", "given"), [(None, "None"), (keras.Model, "the class Model"), ("mlp", "'mlp'")])
def test_create_refuses_what_is_no_model(model: Any, given: str) -> None:
    with pytest.raises(TypeError, match=f"^model is {given}; give a built Keras model$"):
        trainer.TrainState.create(model, "adam")


@pytest.mark.parametrize("model", [None, subclassed], ids=["sequential", "subclassed"])
def test_seeds_are_the_seed_generators_of_dropout(make_state: Any, model: Any) -> None:
    state = make_state(**({"model": model} if model else {}))
    assert len(state.seeds) == 1
    before = state.seeds[0].numpy()
    state.model(tf.zeros((2, 12, 12, 1) if model else (2, 8, 8, 1)), training=True)
    assert not np.array_equal(state.seeds[0].numpy(), before)


def test_hashes_are_equal_for_equal_states_and_show_every_change(make_state: Any) -> None:
    extras = {"average": tf.Variable([1.0, 2.0])}
    state, twin = make_state(extras=extras), make_state(extras=extras)
    first = state.hashes()
    assert first == twin.hashes()
    variables = [v.value for v in state.model.weights] + [v.value for v in state.optimizer.variables]
    for variable in [*variables, *state.seeds, state.step, extras["average"]]:
        old = variable.numpy()
        variable.assign(old + np.ones_like(old))
        assert sum(state.hashes()[name] != digest for name, digest in first.items()) == 1
        variable.assign(old)
    assert state.hashes() == first


def test_window_gives_means_and_is_cleared(make_state: Any) -> None:
    state = make_state()
    state.open_window(("a", "b"))
    state.window.assign([[6.0, 4.0], [1.0, 0.0]])
    means = state.window_means()
    assert means["a"] == 1.5
    assert np.isnan(means["b"])
    state.open_window(("a", "b"))
    assert state.window.numpy()[0, 0] == 6.0
    state.clear_window()
    assert np.isnan(state.window_means()["a"])


class Total(keras.metrics.Metric):
    """A metric whose result is its variable itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, value: float) -> None:
        self.total.assign_add(value)

    def result(self) -> Any:
        return self.total


@pytest.mark.parametrize("kind", [Total, keras.metrics.Sum, keras.metrics.Mean])
def test_keras_metrics_belong_to_the_window(make_state: Any, kind: Any) -> None:
    """Opening a window after a step, as `eager` does, loses nothing. Means that were kept don't change."""
    metric = kind(name="total")
    state = make_state(metrics=[metric])
    metric.update_state(3.0)
    state.open_window(("a",))
    means = state.window_means()
    state.clear_window()
    assert float(state.window_means()["total"]) == 0.0
    assert means["total"] == 3.0


def test_open_window_begins_again_for_another_number_of_metrics(make_state: Any) -> None:
    state = make_state()
    state.open_window(("a", "b"))
    state.window.assign([[6.0, 4.0], [1.0, 1.0]])
    state.open_window(("a", "b", "c"))
    assert state.window.numpy().tolist() == [[0, 0]] * 3
