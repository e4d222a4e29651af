"""The contract of every model in the table, and models of users."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer

SHAPES = [(28, 28, 1), (32, 32, 3)]
PRECISIONS = ["float32", "mixed_bfloat16", "mixed_float16"]
IMAGE_MODELS = [name for name, entry in models.MODELS.items() if "images" in entry.takes]


def images(shape: tuple[int, ...], count: int = 8) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).random((count, *shape), np.float32))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_model_keeps_the_contract(name: str, shape: tuple[int, ...], precision: str) -> None:
    before = keras.config.dtype_policy()
    model = models.create(name, shape, 10, precision=precision)
    assert keras.config.dtype_policy() is before
    assert model.built
    outputs = model(images(shape), training=False)
    assert outputs.shape == (8, 10)
    assert outputs.dtype == tf.float32
    assert {weight.dtype for weight in model.weights} == {"float32"}
    hidden = next(layer for layer in model.layers if layer.weights)
    assert hidden.dtype_policy.name == precision
    sums_to_one = np.allclose(tf.reduce_sum(outputs, axis=-1), 1, atol=1e-3)
    assert sums_to_one == (models.MODELS[name].outputs == "probabilities")
    assert sums_to_one == models.ends_in_probabilities(name, model)


@pytest.mark.parametrize("name", models.MODELS)
def test_model_table_says_how_the_model_ends(name: str) -> None:
    entry = models.MODELS[name]
    assert entry.outputs in ("logits", "probabilities")
    assert entry.summary
    assert "\n" not in entry.summary


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("cnn", (32, 32, 3), 122_570),
        ("cnn_subclass", (32, 32, 3), 42_442),
        ("mlp", (28, 28, 1), 101_770),
        ("resnet20", (32, 32, 3), 271_098),
    ],
)
def test_model_has_exactly_its_parameters(name: str, shape: tuple[int, ...], parameters: int) -> None:
    assert models.create(name, shape, 10).count_params() == parameters


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_one_step_changes_every_trainable_variable(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = models.create(name, (28, 28, 1), 10)
    optimizer = trainer.make_optimizer("adam", 1e-3, momentum=0, weight_decay=0, precision="float32")
    state = trainer.TrainState.create(model, optimizer)
    step = trainer.gradient_step(trainer.classification(from_logits=not models.ends_in_probabilities(name, model)))
    before = [variable.numpy() for variable in model.trainable_variables]
    step(state, {"x": images((28, 28, 1)), "y": tf.range(8, dtype=tf.int64)})
    assert before
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), old), variable.path


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_create_gives_the_same_weights_from_the_same_seed(name: str) -> None:
    def weights(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        return models.create(name, (28, 28, 1), 10).get_weights()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


USER_MODELS = """
import keras
from keras import layers

def by_shape(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), layers.Dense(num_classes)])

def of_nothing():
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])

def unbuilt(input_shape, num_classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(num_classes), layers.Softmax()])

def compiled(input_shape, num_classes):
    model = by_shape(input_shape, num_classes)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3)
        self.soft = layers.Activation("softmax")

    def call(self, x):
        return self.soft(self.dense(self.flatten(x)))

def no_model():
    return [1]

def too_deep(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), layers.Conv2D(4, 9), layers.Flatten(), layers.Dense(3)])

def too_few(input_shape, num_classes):
    return by_shape(input_shape, num_classes - 1)

def no_vector(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), layers.Dense(num_classes)])

def other_inputs():
    return by_shape((5, 5, 1), 3)

def nested(input_shape, num_classes):
    inner = keras.Sequential([layers.Flatten(), layers.Dense(num_classes, activation="softmax")])
    return keras.Sequential([keras.Input(input_shape), inner])

def by_operation(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.ops.softmax(layers.Dense(num_classes)(layers.Flatten()(inputs))))

class Gated(keras.Model):
    def __init__(self, last):
        super().__init__()
        head = {"head": layers.Dense(3, activation="softmax" if last == "gate" else None)}
        gate = {"gate": layers.Dense(16, activation="sigmoid")}
        for name, layer in (head | gate if last == "gate" else gate | head).items():
            setattr(self, name, layer)
        self.flatten = layers.Flatten()

    def call(self, x):
        x = self.flatten(x)
        return self.head(x * self.gate(x))

def gate_last():
    return Gated("gate")

def logits_before_gate():
    model = Gated("gate")
    model.head.activation = keras.activations.linear
    return model

def sigmoids():
    class Sigmoids(Net):
        def __init__(self):
            super().__init__()
            self.soft = layers.Activation("sigmoid")
    return Sigmoids()

def too_many(input_shape, num_classes):
    return by_shape(input_shape, num_classes + 1)

def one_argument(input_shape):
    return by_shape(input_shape, 3)

def by_keyword(input_shape, *, num_classes):
    return by_shape(input_shape, num_classes)

NUMBER = 3
"""


@pytest.fixture
def user_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "nets_of_a_user.py").write_text(USER_MODELS, encoding="utf-8")
    (tmp_path / "broken_nets_of_a_user.py").write_text("def net(:\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "nets_of_a_user"


@pytest.mark.parametrize(
    ("function", "probabilities"),
    [
        *(("by_shape", False), ("of_nothing", True), ("unbuilt", True), ("compiled", False), ("Net", True)),
        *(("nested", True), ("by_operation", True)),
    ],
)
def test_create_takes_a_users_function(user_module: str, function: str, probabilities: bool) -> None:
    name = f"{user_module}:{function}"
    model = models.create(name, (4, 4, 1), 3, precision="mixed_bfloat16")
    assert model.built
    assert model.count_params() == 16 * 3 + 3
    assert model(images((4, 4, 1))).shape == (8, 3)
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert models.ends_in_probabilities(name, model) == probabilities


@pytest.mark.parametrize(("function", "probabilities"), [("gate_last", True), ("logits_before_gate", False)])
def test_order_of_a_models_attributes_says_nothing_of_its_outputs(
    user_module: str, function: str, probabilities: bool
) -> None:
    model = models.create(f"{user_module}:{function}", (4, 4, 1), 3)
    assert models.ends_in_probabilities("", model) == probabilities


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cnm", "did you mean 'cnn'?"),
        ("zzzz", "module:function"),
        ("no_such_module:net", "can't be imported"),
        ("nets_of_a_user:no_such_function", "can't be imported"),
        ("nets_of_a_user:NUMBER", "not a function (type int)"),
        ("nets_of_a_user:no_model", "returned a list"),
        ("nets_of_a_user:too_deep", "shape (4, 4, 1)"),
        ("nets_of_a_user:too_few", "(2,) for a sample; 3 classes need (3,)"),
        ("nets_of_a_user:too_many", "(4,) for a sample; 3 classes need (3,)"),
        (
            "nets_of_a_user:one_argument",
            "takes (input_shape); a model function takes (input_shape, num_classes), or nothing",
        ),
        ("nets_of_a_user:by_keyword", "takes (input_shape, *, num_classes); a model function takes"),
        ("broken_nets_of_a_user:net", "can't be imported: invalid syntax (broken_nets_of_a_user.py, line 1)"),
        ("nets_of_a_user:no_vector", "(4, 4, 3) for a sample"),
        ("nets_of_a_user:other_inputs", "can't take samples of shape (4, 4, 1)"),
        ("cnn", "shape (4, 4, 1)"),
        ("cnn_subclass", "shape (4, 4, 1)"),
    ],
)
def test_create_refuses_what_is_no_model_in_one_line(user_module: str, name: str, part: str) -> None:
    before = keras.config.dtype_policy()
    with pytest.raises(models.ModelError) as error:
        models.create(name, (4, 4, 1), 3, precision="mixed_float16")
    message = str(error.value)
    assert message.startswith(f"model='{name}': ")
    assert part in message
    assert "\n" not in message
    assert error.value.exit_code == 2
    assert keras.config.dtype_policy() is before


def test_check_fits_takes_named_inputs_and_regressions() -> None:
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(list(inputs.values()))))
    models.check_fits("it", model, {"a": (2,), "b": (3,)}, 0)
    with pytest.raises(models.ModelError, match="it: gives outputs of shape"):
        models.check_fits("it", model, {"a": (2,), "b": (3,)}, 2)


@pytest.mark.parametrize("name", [*models.MODELS, "any_module:function"])
def test_check_name_accepts_what_may_be_a_model(name: str) -> None:
    models.check_name(name)
