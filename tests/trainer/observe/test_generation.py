"""Texts that a model writes: the same from a compiled loop, from a plain one, and from exports."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.observe.generation import next_tokens, writer

CONTEXT, VOCABULARY = 8, 11


@pytest.fixture
def state() -> trainer.TrainState:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(2)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((CONTEXT,), dtype="int32"),
            layers.Embedding(VOCABULARY, 16, embeddings_initializer="normal"),
            layers.Conv1D(16, 3, padding="causal", activation="tanh"),
            layers.Dropout(0.5),
            layers.Dense(VOCABULARY, kernel_initializer="normal"),
        ]
    )
    return trainer.TrainState.create(model, trainer.make_optimizer("adam", 0.01))


PROMPTS = np.array([[1, 2, 3], [4, 5, 6]])


def by_hand(call: Any, prompt: list[int], count: int) -> list[int]:
    """The likeliest next tokens, a token at a time."""
    row = list(prompt)
    for _ in range(count):
        seen = row[-CONTEXT:]
        scores = np.array(call(np.array([seen + [0] * (CONTEXT - len(seen))], np.int32)))[0, len(seen) - 1]
        row.append(1 + int(scores[1:].argmax()))
    return row[len(prompt) :]


def test_likeliest_tokens_slide_over_the_context(state: Any) -> None:
    expected = [by_hand(state.model, prompt, 20) for prompt in PROMPTS.tolist()]
    assert next_tokens(state.model, PROMPTS, 20, CONTEXT).tolist() == expected
    assert writer(state, CONTEXT, temperature=0)(PROMPTS, 20).tolist() == expected


def test_long_prompts_are_seen_to_their_ends(state: Any) -> None:
    long = np.tile(np.arange(1, 11), (2, 2))
    expected = next_tokens(state.model, long[:, -CONTEXT:], 5, CONTEXT)
    np.testing.assert_array_equal(next_tokens(state.model, long, 5, CONTEXT), expected)
    np.testing.assert_array_equal(writer(state, CONTEXT, temperature=0)(long, 5), expected)


def test_padding_is_never_written(state: Any) -> None:
    head = state.model.layers[-1]
    head.bias.assign(tf.one_hot(0, VOCABULARY) * 100.0)
    assert (next_tokens(state.model, PROMPTS, 9, CONTEXT) > 0).all()
    assert (writer(state, CONTEXT)(PROMPTS, 9) > 0).all()


def test_drawn_tokens_depend_on_seed_and_temperature(state: Any) -> None:
    drawn = writer(state, CONTEXT, seed=1)(PROMPTS, 40)
    np.testing.assert_array_equal(writer(state, CONTEXT, seed=1)(PROMPTS, 40), drawn)
    assert (writer(state, CONTEXT, seed=2)(PROMPTS, 40) != drawn).any()
    cold = writer(state, CONTEXT, temperature=1e-6)(PROMPTS, 40)
    np.testing.assert_array_equal(cold, next_tokens(state.model, PROMPTS, 40, CONTEXT))


def test_probabilities_write_as_logits_do(state: Any) -> None:
    drawn = writer(state, CONTEXT)(PROMPTS, 30)
    soft = keras.Sequential([state.model, keras.layers.Softmax()])
    other = trainer.TrainState.create(soft, trainer.make_optimizer("adam", 0.01))
    assert np.mean(writer(other, CONTEXT, activated=True)(PROMPTS, 30) == drawn) > 0.9


def test_state_of_a_model_that_draws_is_put_back() -> None:
    keras.utils.set_random_seed(2)
    x = keras.Input((CONTEXT,), dtype="int32")
    y = keras.layers.Embedding(VOCABULARY, 8)(x)
    y = keras.layers.LSTM(VOCABULARY, return_sequences=True, stateful=False)(y)
    y = Noise()(y)
    state = trainer.TrainState.create(keras.Model(x, y), trainer.make_optimizer("adam", 0.01))
    before = [np.array(part) for part in tf.nest.flatten(state.tensors())]
    writer(state, CONTEXT)(PROMPTS, 5)
    for old, new in zip(before, tf.nest.flatten(state.tensors()), strict=True):
        np.testing.assert_array_equal(old, new)


class Noise(keras.layers.Layer):
    """A layer that draws in inference, too, and so moves its seed."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.generator)


def test_exports_write_the_same_tokens(state: Any, tmp_path: pathlib.Path) -> None:
    expected = next_tokens(state.model, PROMPTS, 20, CONTEXT)
    state.model.save(tmp_path / "model.h5")
    opened = keras.models.load_model(tmp_path / "model.h5", compile=False)
    np.testing.assert_array_equal(next_tokens(opened, PROMPTS, 20, CONTEXT), expected)
    state.model.export(tmp_path / "saved_model", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_array_equal(next_tokens(saved.serve, PROMPTS, 20, CONTEXT), expected)
