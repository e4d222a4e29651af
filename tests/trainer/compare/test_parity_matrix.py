"""The loop is `fit` to the bit for Keras's optimizers, over three kinds of models and common activations.

TensorFlow's graph optimizer rewrites products, quotients and constants of a step. Which it rewrites depends on all three.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, optimizers

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.compare.parity import FIT_OPTIONS

WORDS, LENGTH, CLASSES = 20, 6, 3

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optimizers.SGD(0.1),
    "sgd-momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "sgd-nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "rmsprop-centered": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "adam": lambda: optimizers.Adam(0.01),
    "adam-amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "adam-clipped": lambda: optimizers.Adam(0.01, global_clipnorm=0.1, use_ema=True),
    "adadelta": lambda: optimizers.Adadelta(1.0),
    "adagrad": lambda: optimizers.Adagrad(0.01),
    "adamax": lambda: optimizers.Adamax(0.01),
    "adafactor": lambda: optimizers.Adafactor(0.01),
    "nadam": lambda: optimizers.Nadam(0.01),
    "ftrl": lambda: optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "lion": lambda: optimizers.Lion(0.01),
    "lamb": lambda: optimizers.Lamb(0.01),
    "muon": lambda: optimizers.Muon(0.01),
}
ACTIVATIONS = ("relu", "gelu", "swish", "elu", "tanh", "softplus", "mish")


def dense(*activations: str) -> list[Any]:
    return [layers.Dense(8, activation) for activation in activations]


def batch_norm(*activations: str) -> list[Any]:
    blocks = [(layers.Dense(8), layers.BatchNormalization(), layers.Activation(name)) for name in activations]
    return [layer for block in blocks for layer in block]


def embedding(*activations: str) -> list[Any]:
    return [layers.Embedding(WORDS, 4), layers.Flatten(), *dense(*activations)]


BODIES = (dense, batch_norm, embedding)


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_graph_is_fit_to_the_bit_with_a_layer_of_each_activation(
    optimizer: str, body: Callable[..., list[Any]]
) -> None:
    assert certified(optimizer, body, *ACTIVATIONS).first_difference is None


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adam", "rmsprop-centered"])
def test_graph_is_fit_to_the_bit_with_each_activation_alone(
    optimizer: str, body: Callable[..., list[Any]], activation: str
) -> None:
    assert certified(optimizer, body, activation).first_difference is None


@pytest.mark.parametrize(
    ("optimizer", "body", "activation"),
    [
        pytest.param("adam", dense, "gelu", id="constants"),
        pytest.param("sgd-momentum", batch_norm, "relu", id="products-with-shapes-of-variables"),
        pytest.param("rmsprop-centered", dense, "swish", id="several-rewrites"),
    ],
)
def test_graph_is_fit_where_tensorflow_rewrites_the_step(optimizer: str, body: Any, activation: str) -> None:
    assert certified(optimizer, body, activation).first_difference is None


def certified(optimizer: str, body: Callable[..., list[Any]], *activations: str) -> trainer.Certificate:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, WORDS, (40, LENGTH))
    x = tokens if body is embedding else rng.uniform(size=(40, LENGTH)).astype(np.float32)
    feed = array_feed(x, rng.integers(0, CLASSES, 40), batch_size=16)

    def fresh() -> keras.Model:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        inputs = keras.Input((LENGTH,), dtype=x.dtype.name)
        return keras.Sequential([inputs, *body(*activations), layers.Dense(CLASSES)])

    fitted, model = fresh(), fresh()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted.compile(OPTIMIZERS[optimizer](), loss, metrics=["accuracy"], **FIT_OPTIONS["graph"])
    state = trainer.TrainState.create(model, OPTIMIZERS[optimizer]())
    step = trainer.gradient_step(trainer.classification(from_logits=True))
    return trainer.certify(fitted, state, step, feed, num_steps=4, execution=trainer.graph(3))
