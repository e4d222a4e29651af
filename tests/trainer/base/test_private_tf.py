"""TensorFlow's private parts, and training without them."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright.trainer.base import private_tf


def test_determinism_is_reported() -> None:
    assert not private_tf.determinism_is_on()
    tf.config.experimental.enable_op_determinism()  # a fixture for all tests switches it off again
    assert private_tf.determinism_is_on()


def test_callback_sees_operations_inside_the_block_only() -> None:
    seen = []

    def callback(op_type: str, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> Any:
        seen.append(tf.compat.as_str(op_type))
        return outputs

    with private_tf.on_each_operation(callback):
        tf.square(2.0)
    tf.sqrt(2.0)
    assert seen == ["Square"]
    with pytest.raises(KeyError), private_tf.on_each_operation(callback):
        raise KeyError
    tf.square(2.0)
    assert seen == ["Square"]


def test_function_optimized_alone_tells_the_shapes_of_its_variables() -> None:
    variable = tf.Variable(np.ones((2, 3), np.float32))
    function = private_tf.optimized_alone(lambda x: variable * x).get_concrete_function(tf.TensorSpec([]))
    definition = function.function_def
    assert definition.attr["_noinline"].b
    (shape,) = [a.attr["_handle_shapes"] for a in definition.arg_attr.values() if "_handle_shapes" in a.attr]
    assert [dimension.size for dimension in shape.list.shape[0].dim] == [2, 3]


def test_callbacks_and_determinism_are_part_of_what_a_trace_depends_on() -> None:
    before = private_tf.operation_callbacks()
    tf.debugging.enable_check_numerics()
    try:
        assert private_tf.operation_callbacks() != before
    finally:
        tf.debugging.disable_check_numerics()
    assert private_tf.operation_callbacks() == before
    tf.config.experimental.enable_op_determinism()
    assert private_tf.operation_callbacks() != before


def test_iterator_is_opened_again_as_iter_opens_it() -> None:
    def numbers(start: int) -> tf.data.Dataset:
        options = tf.data.Options()
        options.deterministic = False
        options.experimental_slack = True
        return tf.data.Dataset.range(start, start + 4).map(lambda x: x + 1).prefetch(1).with_options(options)

    iterator = iter(numbers(0))
    next(iterator)
    for start in (10, 20):
        dataset = numbers(start)
        assert private_tf.opened_again(iterator, dataset)
        assert [int(number) for number in iterator] == [int(number) for number in iter(dataset)]
    with pytest.raises(tf.errors.InvalidArgumentError):
        private_tf.opened_again(iterator, tf.data.Dataset.from_tensors(1.0))


@pytest.mark.parametrize("given", [[1], {"a": 1}])
def test_other_iterators_are_not_opened_again(given: Any) -> None:
    assert not private_tf.opened_again(iter(given), tf.data.Dataset.range(2))
    assert not private_tf.opened_again(iter(tf.data.Dataset.range(2)), given)


def test_object_graph_of_a_checkpoint_is_parsed(tmp_path: pathlib.Path) -> None:
    prefix = tf.train.Checkpoint(x=tf.Variable(np.ones(3, np.float32))).write(str(tmp_path / "state"))
    serialized = tf.train.load_checkpoint(prefix).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    root = private_tf.parse_object_graph(serialized).nodes[0]
    assert "x" in [child.local_name for child in root.children]


#: Trains with each private part hidden from this package in turn, and prints the results.
TRAINED_WITHOUT = """
import builtins, hashlib, json, sys
import keras, numpy as np, tensorflow as tf

PARTS = json.loads(sys.argv[1])
hidden = set(PARTS)  # all of them, while the package is imported
real_import = builtins.__import__

def import_(name, globals=None, locals=None, fromlist=(), level=0):
    asked = {name, *(f"{name}.{part}" for part in fromlist or ())}
    ours = (globals or {}).get("__name__", "").startswith("loopwright.")
    if ours and any(f"{module}.".startswith(f"{part}.") for module in asked for part in hidden):
        raise ImportError(f"{name} has moved")
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = import_

from loopwright import data, models, trainer
from loopwright.trainer.base import fast_max_pool, private_tf
from loopwright.trainer.base.clock import Clock

rng = np.random.default_rng(0)
feed = data.array_feed(rng.integers(0, 256, (70, 20, 20, 1), np.uint8), rng.integers(0, 3, 70), batch_size=16)
step = trainer.gradient_step(trainer.classification(from_logits=True))
real_gradient, calls = fast_max_pool.max_pool_gradient, []
fast_max_pool.max_pool_gradient = lambda *arguments: calls.append(1) or real_gradient(*arguments)

def trained():
    calls.clear()
    clock = Clock()
    keras.utils.set_random_seed(0)
    state = trainer.TrainState.create(models.create("cnn", (20, 20, 1), 3), keras.optimizers.Adam())
    for end in (2, 5):
        trainer.train(state, feed, step, num_steps=end, execution=trainer.graph(3, clock=clock))
    return {
        "weights": hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in state.model.weights)).hexdigest(),
        "substituted": bool(calls),
        "waits": clock.seconds()["input"] > 0,
        "onednn": private_tf.uses_onednn(),
        "deterministic": private_tf.determinism_is_on(),
    }

found = {}
for name in ["", *PARTS]:
    hidden = {name} - {""}
    found[name] = trained()
print(json.dumps(found))
"""

PORT = "tensorflow.python.util._pywrap_util_port"
CALLBACKS = "tensorflow.python.framework.op_callbacks"
CONFIG = "tensorflow.python.framework.config"
HANDLES = "tensorflow.python.ops.handle_data_util"
CONTEXT = "tensorflow.python.eager.context"


@pytest.mark.slow
def test_run_without_a_private_part_trains_to_the_same_weights() -> None:
    command = [sys.executable, "-c", TRAINED_WITHOUT, json.dumps([PORT, CALLBACKS, CONFIG, HANDLES, CONTEXT])]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len({result.pop("weights") for result in found.values()}) == 1
    usual = {"substituted": True, "waits": True, "onednn": False, "deterministic": False}
    assert found == {
        "": usual,
        PORT: {**usual, "substituted": False, "onednn": None},
        CALLBACKS: {**usual, "substituted": False},
        CONFIG: {**usual, "waits": False, "deterministic": True},
        HANDLES: usual,
        CONTEXT: usual,
    }
