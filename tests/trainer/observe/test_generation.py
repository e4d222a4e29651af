"""Texts that a model writes: the same from a compiled loop, from a plain one, and from exports."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.observe.generation import continued, writer

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


PROMPTS = [[1, 2, 3], [4, 5, 6]]


def by_hand(call: Any, prompt: list[int], count: int) -> list[int]:
    """The likeliest next tokens, a token at a time."""
    row = list(prompt)
    for _ in range(count):
        seen = row[-CONTEXT:]
        scores = np.array(call(np.array([seen + [0] * (CONTEXT - len(seen))], np.int32)))[0, len(seen) - 1]
        row.append(1 + int(scores[1:].argmax()))
    return row[len(prompt) :]


def test_likeliest_tokens_slide_over_the_context(state: Any) -> None:
    expected = [by_hand(state.model, prompt, 20) for prompt in PROMPTS]
    assert continued(state.model, PROMPTS, CONTEXT, 20) == expected
    assert writer(state, CONTEXT)(PROMPTS, 20) == expected


def test_long_prompts_are_seen_to_their_ends(state: Any) -> None:
    long = [[*range(1, 11), *range(1, 11)], [7]]  # prompts may differ in length
    expected = [by_hand(state.model, row[-CONTEXT:], 5) for row in long]
    assert continued(state.model, long, CONTEXT, 5) == expected
    assert writer(state, CONTEXT)(long, 5) == expected


def test_text_ends_at_its_end_and_unwritten_tokens_stay_unwritten(state: Any) -> None:
    free = continued(state.model, PROMPTS, CONTEXT, 20)
    end = free[0][4]
    stopped = continued(state.model, PROMPTS, CONTEXT, 20, end=end)
    assert stopped[0] == free[0][: free[0].index(end)]
    assert end not in continued(state.model, PROMPTS, CONTEXT, 20, never=(0, end))[0]


def test_padding_is_never_written(state: Any) -> None:
    head = state.model.layers[-1]
    head.bias.assign(tf.one_hot(0, VOCABULARY) * 100.0)
    for rows in (continued(state.model, PROMPTS, CONTEXT, 9), writer(state, CONTEXT, temperature=1.0)(PROMPTS, 9)):
        assert min(min(row) for row in rows) > 0


def test_drawn_tokens_depend_on_seed_and_temperature(state: Any) -> None:
    warm = {"temperature": 0.8}
    drawn = writer(state, CONTEXT, seed=1, **warm)(PROMPTS, 40)
    again = writer(state, CONTEXT, seed=1, **warm)
    assert again(PROMPTS, 40) == drawn == again(PROMPTS, 40)
    assert writer(state, CONTEXT, seed=2, **warm)(PROMPTS, 40) != drawn
    assert writer(state, CONTEXT, temperature=1e-6)(PROMPTS, 40) == continued(state.model, PROMPTS, CONTEXT, 40)


def test_probabilities_write_as_logits_do(state: Any) -> None:
    drawn = writer(state, CONTEXT)(PROMPTS, 30)
    soft = keras.Sequential([state.model, keras.layers.Softmax()])
    other = trainer.TrainState.create(soft, trainer.make_optimizer("adam", 0.01))
    assert writer(other, CONTEXT, activated=True)(PROMPTS, 30) == drawn


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
    expected = continued(state.model, PROMPTS, CONTEXT, 20)
    state.model.save(tmp_path / "model.h5")
    opened = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert continued(opened, PROMPTS, CONTEXT, 20) == expected
    state.model.export(tmp_path / "saved_model", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved_model")
    assert continued(saved.serve, PROMPTS, CONTEXT, 20) == expected
