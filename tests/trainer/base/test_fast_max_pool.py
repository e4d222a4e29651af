"""The fast gradient of max pooling equals that of TensorFlow's kernel, and is used where the kernel is slow."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwright.trainer.base.fast_max_pool import max_pool_gradient

#: Few values, so that maxima are tied.
VALUES = np.array([-np.inf, -2.0, -0.0, 0.0, 1.0, 3.0, np.inf, np.nan], np.float32)


def bits(tensor: tf.Tensor) -> np.ndarray:
    return tensor.numpy().view(f"u{tensor.dtype.size}")


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 1000),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    over=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_gradient_equals_tensorflows_own(
    seed: int, window: tuple[int, int], grid: tuple[int, int], over: tuple[int, int], channels: int, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    height, width = (w * g + min(o, w - 1) for w, g, o in zip(window, grid, over, strict=True))
    x = tf.cast(rng.choice(VALUES, (2, height, width, channels)), dtype)
    y = tf.nn.max_pool2d(x, window, window, "VALID")
    dy = tf.cast(rng.choice(VALUES, y.shape), dtype)
    sizes = [1, *window, 1]
    own = tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, ksize=sizes, strides=sizes, padding="VALID")
    np.testing.assert_array_equal(bits(max_pool_gradient(x, dy, window)), bits(own))


ABOUT_A_TRACE = """
import json, sys
import tensorflow as tf
from loopwright.trainer.base.fast_max_pool import fast_pooling_gradients
from tensorflow.python.framework import op_callbacks

def kept(shape, window, strides, padding):
    '''Whether a trace of this pooling uses the gradient of TensorFlow's own kernel.'''
    @tf.function(input_signature=[tf.TensorSpec([None, *shape])])
    def gradient(x):
        with fast_pooling_gradients(), tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.max_pool2d(x, window, strides, padding)
            return tape.gradient(y, x)
    trace = gradient.get_concrete_function()
    x = tf.random.stateless_normal([2, *shape], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.max_pool2d(x, window, strides, padding)
    assert bool(tf.reduce_all(trace(x) == tape.gradient(y, x)))
    [own] = [operation for operation in trace.graph.get_operations() if operation.type == "MaxPoolGrad"]
    return bool(own.outputs[0].consumers())

@tf.function(jit_compile=True)
def compiled(x):
    return tf.nn.max_pool2d(x, 2, 2, "VALID")

@tf.function
def through_compiled(x):
    with fast_pooling_gradients(), tf.GradientTape() as tape:
        tape.watch(x)
        y = compiled(x)
        return tape.gradient(y, x)

assert float(tf.reduce_sum(through_compiled(tf.random.stateless_normal([2, 8, 6, 4], [1, 2])))) == 2 * 4 * 3 * 4
print(json.dumps([kept(*case) for case in json.loads(sys.argv[1])]))
assert not op_callbacks.should_invoke_op_callbacks()
"""

#: The shape of an example, the window, the strides, the padding, and whether the fast gradient is used.
POOLINGS = {
    "halves": ([8, 6, 4], 2, 2, "VALID", True),
    "thirds with a rest": ([8, 7, 4], 3, 3, "VALID", True),
    "along one axis": ([8, 1, 4], [2, 1], [2, 1], "VALID", True),
    "padding that adds nothing": ([8, 6, 4], 2, 2, "SAME", True),
    "padding": ([7, 6, 4], 2, 2, "SAME", False),
    "overlapping": ([8, 6, 4], 3, 2, "VALID", False),
    "large windows": ([8, 8, 4], 4, 4, "VALID", False),
}


def in_new_process(script: str, *words: str, onednn: bool) -> str:
    environment = {"TF_ENABLE_ONEDNN_OPTS": str(int(onednn)), "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "onednn", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["without oneDNN", "with oneDNN"]
)
def test_substitute_serves_where_it_is_faster(onednn: bool) -> None:
    cases = json.dumps([case[:-1] for case in POOLINGS.values()])
    kept = json.loads(in_new_process(ABOUT_A_TRACE, cases, onednn=onednn))
    served = {name: not own for name, own in zip(POOLINGS, kept, strict=True)}
    assert served == {name: case[-1] and not onednn for name, case in POOLINGS.items()}


TRAINED = """
import contextlib
import keras, numpy as np, tensorflow as tf
from loopwright import models, trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.core import execution

rng = np.random.default_rng(0)
feed = array_feed(rng.integers(0, 256, (70, 20, 20, 1), np.uint8), rng.integers(0, 3, 70), batch_size=16)
objective = trainer.classification(from_logits=True)

def penalised(state, batch):
    '''A step whose loss contains the gradient by the images, so the gradient of max pooling has a gradient, too.'''
    x = tf.cast(batch["x"], tf.float32)
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(x)
            outputs = objective(state.model, {**batch, "x": x}, training=True)
        loss = outputs.loss + tf.reduce_sum(tf.square(inner.gradient(outputs.loss, x)))
    variables = state.model.trainable_variables
    state.optimizer.apply(tape.gradient(loss, variables), variables)
    return outputs.metrics

def weights(step):
    keras.utils.set_random_seed(0)
    state = trainer.TrainState.create(models.create("cnn", (20, 20, 1), 3), keras.optimizers.Adam())
    trainer.train(state, feed, step, num_steps=7, execution=trainer.graph(3))
    return [weight.numpy() for weight in state.model.weights]

real, replaced = execution.fast_pooling_gradients, []

@contextlib.contextmanager
def counted():
    with real():
        yield
    added = tf.compat.v1.get_default_graph().get_operations()
    replaced.append(sum(own.type == "MaxPoolGrad" and not own.outputs[0].consumers() for own in added))

for step in (trainer.gradient_step(objective), penalised):
    execution.fast_pooling_gradients = counted
    faster = weights(step)
    execution.fast_pooling_gradients = contextlib.nullcontext
    own = weights(step)
    print(replaced, all(np.array_equal(one, other) for one, other in zip(faster, own, strict=True)))
"""


@pytest.mark.slow
def test_steps_train_alike_with_and_without() -> None:
    assert in_new_process(TRAINED, onednn=False).splitlines() == ["[2] True", "[2, 4] True"]
