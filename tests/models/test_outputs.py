"""Probabilities or logits: every model is asked, and what isn't sure is refused."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from loopwright import models, trainer


def flat() -> tuple[Any, Any]:
    inputs = keras.Input((4, 4, 1))
    return inputs, layers.Flatten()(inputs)


def head(*last: Any) -> keras.Model:
    inputs, x = flat()
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


def softmax() -> Any:
    return layers.Dense(3, activation="softmax")


def test_head_of_a_nested_model_is_asked_and_not_its_first_output() -> None:
    inputs, x = flat()
    inner = keras.Model(inputs, [layers.Dense(3)(x), layers.Dense(2, activation="sigmoid")(x)])
    outer = keras.Model(inputs, dict(zip("ab", inner(inputs), strict=True)))
    assert models.is_activated("", outer, "sigmoid", "auto", "b")
    assert not models.is_activated("", outer, "softmax", "auto", "a")


def mean_of_two_heads() -> keras.Model:
    inputs, x = flat()
    return keras.Model(inputs, layers.Average()([softmax()(x), softmax()(x)]))


def mean_by_operations() -> keras.Model:
    inputs, x = flat()
    return keras.Model(inputs, (softmax()(x) + softmax()(x)) / 2)


def nested_then_reshape() -> keras.Model:
    return keras.Sequential([keras.Input((4, 4, 1)), head(softmax()), layers.Reshape((3,))])


def softmax_in_half_precision() -> keras.Model:
    last = layers.Lambda(lambda x: tf.nn.softmax(x), dtype="mixed_bfloat16")
    return head(layers.Dense(3, dtype="mixed_bfloat16"), last)


def pixels_scaled_inside() -> keras.Model:
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)])


def token_ids() -> keras.Model:
    ids = keras.Input((4,), dtype="int32")
    return keras.Model(
        ids, layers.Lambda(lambda x: x * 1.0)(layers.Dense(3)(layers.Flatten()(layers.Embedding(9, 2)(ids))))
    )


def two_inputs() -> keras.Model:
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
    last = layers.Softmax()(layers.Dense(3)(layers.Concatenate()(list(inputs.values()))))
    return keras.Model(inputs, layers.Reshape((3,))(last))


PROBABILITIES: dict[str, Callable[[], keras.Model]] = {
    "softmax": lambda: head(softmax()),
    "reshape": lambda: head(softmax(), layers.Reshape((3,))),
    "linear activation": lambda: head(softmax(), layers.Activation("linear")),
    "own function": lambda: head(layers.Dense(3, activation=lambda x: keras.ops.softmax(x))),
    "mean of two heads": mean_of_two_heads,
    "mean by operations": mean_by_operations,
    "nested, then reshape": nested_then_reshape,
    "tf.nn.softmax in half precision": softmax_in_half_precision,
    "two inputs": two_inputs,
}
LOGITS: dict[str, Callable[[], keras.Model]] = {
    "linear": lambda: head(layers.Dense(3)),
    "linear head that begins with zeros": lambda: head(layers.Dense(3, kernel_initializer="zeros")),
    "softmax inside": lambda: head(softmax(), layers.Dense(3)),
    "log softmax": lambda: head(layers.Dense(3, activation="log_softmax")),
    "tanh": lambda: head(layers.Dense(3, activation="tanh")),
    "pixels scaled inside": pixels_scaled_inside,
    "token ids": token_ids,
}
UNSURE: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "a sigmoid for each class": (lambda: head(layers.Dense(3, activation="sigmoid")), "don't add up to 1"),
    "relu6 / 6": (
        lambda: head(layers.Dense(3), layers.Lambda(lambda x: tf.nn.relu6(x) / 6)),
        "don't add up to 1",
    ),
    "softmax over samples": (lambda: head(layers.Dense(3), layers.Softmax(axis=0)), "don't add up to 1"),
    "linear head that adds up to 1": (
        lambda: head(layers.Dense(3, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(1 / 3))),
        "its last operation says that it gives logits",
    ),
}


@pytest.mark.parametrize("name", [*PROBABILITIES, *LOGITS])
def test_every_model_is_asked_for_its_outputs(name: str) -> None:
    model = {**PROBABILITIES, **LOGITS}[name]()
    assert models.ends_in_probabilities("", model) == (name in PROBABILITIES)


@pytest.mark.parametrize("name", sorted(PROBABILITIES.keys() - {"two inputs"}))
def test_the_loss_is_that_of_fit(name: str) -> None:
    model = PROBABILITIES[name]()
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 4, 4, 1), np.float32), rng.integers(0, 3, 8)
    model.compile(loss="sparse_categorical_crossentropy")
    expected = model.evaluate(x, y, verbose=0, batch_size=8)
    objective = trainer.classification(from_logits=not models.ends_in_probabilities("", model))
    found = objective(model, {"x": tf.constant(x), "y": tf.constant(y)}, training=False)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-6)


@pytest.mark.parametrize("name", UNSURE)
def test_an_unsure_answer_is_refused_and_the_user_decides(name: str) -> None:
    build, part = UNSURE[name]
    model = build()
    with pytest.raises(models.ModelError, match=part) as error:
        models.ends_in_probabilities("nets:one", model)
    message = str(error.value)
    assert message.startswith("model='nets:one': ")
    assert message.endswith("; give outputs=logits or outputs=probabilities")
    assert "\n" not in message
    assert models.ends_in_probabilities("nets:one", model, "probabilities")
    assert not models.ends_in_probabilities("nets:one", model, "logits")


class Drawing(keras.Model):
    """Draws at inference, from its own seed and from Keras's global one, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3)
        self.seed = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        x = self.flatten(x)
        self.calls.assign_add(1.0)
        noise = keras.random.normal(keras.ops.shape(x), seed=self.seed) + keras.random.normal(keras.ops.shape(x))
        return self.dense(x + noise)


def test_asking_changes_no_seed_and_no_state() -> None:
    from keras.src.random.seed_generator import global_seed_generator

    model = Drawing()
    model(np.zeros((1, 4, 4, 1), np.float32))
    variables = [*model.variables, global_seed_generator().state]
    before = [np.array(variable) for variable in variables]
    assert not models.ends_in_probabilities("", model)
    assert models.scales_itself(model) is None
    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_model_of_a_tuple_of_inputs_is_asked() -> None:
    inputs = (keras.Input((4,)), keras.Input((4,)))
    model = keras.Model(inputs, layers.Reshape((3,))(softmax()(layers.Add()(inputs))))
    assert models.ends_in_probabilities("", model)


def test_model_of_strings_is_told_by_its_last_operation() -> None:
    inputs = keras.Input((), dtype="string")
    words = layers.Embedding(3, 4)(layers.StringLookup(vocabulary=["a", "b"])(inputs))
    assert not models.ends_in_probabilities("", keras.Model(inputs, layers.Dense(3)(words)))
    assert models.ends_in_probabilities("", keras.Model(inputs, softmax()(words)))
