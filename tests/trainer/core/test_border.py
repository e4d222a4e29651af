"""First mistakes: each is answered in a sentence before anything is traced, or taken for what is plainly meant."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.base.errors import TrainingError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 4)).astype(np.float32), RNG.integers(0, 3, 40)
OBJECTIVE = trainer.classification(from_logits=True)


class Counted(keras.layers.Dense):
    """A layer that counts its calls, which are traces of the model."""

    calls: list[Any] = []  # noqa: RUF012

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        self.calls.append(inputs)
        return super().call(inputs)


def new_state(optimizer: Any = "sgd") -> trainer.TrainState:
    keras.utils.clear_session(free_memory=False)  # names as in a new process
    keras.utils.set_random_seed(0)
    return trainer.TrainState.create(keras.Sequential([keras.Input((4,)), Counted(3, name="dense")]), optimizer)


def new_feed(y: Any = Y, **options: Any) -> Any:
    return array_feed(X, y, batch_size=8, **options)


def slices(*parts: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(parts or (X, Y))


def everything(*parts: Any) -> bool:
    return True


def unknown_length() -> tf.data.Dataset:
    return slices().batch(8).filter(everything)


class Tuples:
    """A feed by its members, with batches that aren't dicts."""

    element_spec = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64))
    steps_per_epoch, examples_per_epoch, end = 5, 40, None

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return slices().batch(8).repeat()

    def stacked(self, k: int) -> Any: ...


class NoStacks:
    """A feed for `graph` and `eager`."""

    element_spec, steps_per_epoch = new_feed().element_spec, 5

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return new_feed()(start_step)


def no_hook(metrics: Any) -> None: ...


def hook(state: Any, metrics: Any) -> None: ...


def no_step(batch: Any) -> dict[str, Any]:
    return {}


def no_start() -> tf.data.Dataset:
    return slices().batch(8)


def generator() -> Iterator[Any]:
    yield {"x": X, "y": Y}


def objective_of(result: Callable[[Any], Any]) -> Any:
    def objective(model: keras.Model, batch: Any, *, training: bool) -> Any:
        return result(model(batch["x"], training=training))

    return trainer.gradient_step(objective)


def without_training(model: keras.Model, batch: Any) -> Any: ...


def step_of(result: Callable[[Any], Any]) -> Any:
    def step(state: Any, batch: Any) -> Any:
        return result(batch["x"])

    return step


#: What is given to `train`, the error, and a pattern of the whole message.
TRAINING: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "list": ({"feed": [1, 2]}, TypeError, r"feed is a list, .*array_feed\(x, y, batch_size=32\), a tf.data.Dataset.*"),
    "generator": ({"feed": generator()}, TypeError, "feed is a generator, which can't be opened at a step; give .*"),
    "arrays": ({"feed": (X, Y)}, TypeError, r"feed is a tuple, .*array_feed\(x, y, batch_size=32\).*"),
    "array": ({"feed": X}, TypeError, r"feed is a NumPy array, .*array_feed\(x, y, batch_size=32\).*"),
    "no feed": ({"feed": None}, TypeError, "feed is None, which can't be opened.*"),
    "feed class": ({"feed": Tuples}, TypeError, "feed is the class Tuples, which can't be opened.*"),
    "function without step": ({"feed": no_start}, TypeError, r"feed is the function no_start.*def feed\(start_step\)"),
    "function of a list": ({"feed": lambda step: [X]}, TypeError, r"feed\(0\) gave a list; return a tf.data.Dataset.*"),
    "not batched": ({"feed": slices()}, ValueError, r".*shapes \(4,\), \(\), .*dataset.batch\(batch_size\)"),
    "one-hot, not batched": (
        {"feed": slices(X, np.eye(3)[Y])},
        ValueError,
        r".*shapes \(4,\), \(3,\), not one number of rows; is it batched\?.*",
    ),
    "four parts": ({"feed": slices(X, Y, Y, Y).batch(8)}, TypeError, "the feed's batches are tuples of 4; .*"),
    "empty dataset": ({"feed": slices().batch(8).take(0)}, ValueError, "the feed is a dataset without batches; .*"),
    "other names": (
        {"feed": tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).batch(8)},
        TypeError,
        "a batch of the feed holds image, label, but no x and no y; name the inputs x and the labels y",
    ),
    "no labels": ({"feed": slices(X).batch(8)}, TypeError, "a batch of the feed holds x, but no y; .*"),
    "tuples": ({"feed": Tuples()}, TypeError, "a batch of the feed is a tuple; give a dict with x and y.*"),
    "strings": ({"feed": new_feed(Y.astype(str))}, TypeError, "the labels y are strings; .*return_inverse=True.*"),
    "end": (
        {"feed": new_feed(shuffle=False), "num_steps": 6},
        TrainingError,
        r"num_steps=6 is more than the feed has: it ends before step 5; give num_steps=5, or .*",
    ),
    "end of a function": (
        {"feed": lambda step: slices().batch(8).skip(step), "num_steps": 6},
        TrainingError,
        "num_steps=6 .* before step 5; .*",
    ),
    "stacks of ragged batches": (
        {"feed": slices().batch(8), "execution": "xla"},
        TrainingError,
        r"xla needs batches of one size: .*drop_remainder=True.*execution=graph\(\)",
    ),
    "stacks of a function that ends": (
        {"feed": lambda step: slices().batch(8, drop_remainder=True), "execution": "xla"},
        TrainingError,
        r"xla needs a feed without an end; use dataset.repeat\(\) or execution=graph\(\)",
    ),
    "stacks of a feed without any": (
        {"feed": NoStacks(), "execution": "xla"},
        TrainingError,
        r"xla needs stacks, but the feed has no stacked\(k\); use execution=graph\(\)",
    ),
    "no state": ({"state": keras.Sequential()}, TypeError, r"state is a Sequential; give TrainState.create\(model, .*"),
    "objective": (
        {"step": OBJECTIVE},
        TypeError,
        r"step is a Classification, an objective; .*gradient_step\(objective\)",
    ),
    "loss": ({"step": "mse"}, TypeError, r"step is 'mse', a loss; .*gradient_step\(objective_from_keras\(loss\)\)"),
    "loss function": (
        {"step": keras.losses.mean_squared_error},
        TypeError,
        "step is the function mean_squ.*, a loss;.*",
    ),
    "step of a loss": (
        {"step": trainer.gradient_step(keras.losses.MeanSquaredError())},  # type: ignore[arg-type]
        TypeError,
        r"the objective is a MeanSquaredError, a loss of Keras; give objective_from_keras\(loss\)",
    ),
    "step of other arguments": (
        {"step": no_step},
        TypeError,
        r"step is the function no_step, .*def step\(state, batch\)",
    ),
    "objective of other arguments": (
        {"step": trainer.gradient_step(without_training)},  # type: ignore[arg-type]
        TypeError,
        r"the objective is the function without_training, .*def objective\(model, batch, \*, training\)",
    ),
    "whole float": ({"num_steps": 5.0}, TypeError, "num_steps=5.0 must be a whole number; give num_steps=5"),
    "float": ({"num_steps": 5.5}, TypeError, "num_steps=5.5 must be a whole number; give a whole number"),
    "negative": ({"num_steps": -1}, ValueError, "num_steps=-1: give a whole number of at least 0"),
    "text": ({"num_steps": "5"}, TypeError, "num_steps='5' must be a whole number; .*"),
    "execution": ({"execution": "fast"}, ValueError, "execution='fast': choose from graph, eager, xla"),
    "no execution": ({"execution": None}, TypeError, r"execution is None; give graph\(\), eager\(\) or xla\(\)"),
    "hook of other arguments": (
        {"hooks": [no_hook]},
        TypeError,
        r"hooks\[0\] is the function no_hook.*\(state, metrics\)",
    ),
    "scheduled": ({"hooks": [hook, trainer.every(2, no_hook)]}, TypeError, r"hooks\[1\] is the function no_hook.*"),  # type: ignore[arg-type]
    "number": ({"hooks": [3]}, TypeError, r"hooks\[0\] is 3; a hook is a function of the state and the metrics"),
    "name": ({"hooks": "log"}, TypeError, r"hooks\[0\] is 'log'; a hook is a function.*"),
    "hook class": ({"hooks": [trainer.Log]}, TypeError, r"hooks\[0\] is the class Log; make a hook of it: Log\(...\)"),
    "lists": ({"hooks": [[hook], [hook]]}, TypeError, r"hooks\[0\] is a list of hooks; .*\[\*first, \*second\]"),
    "callback": (
        {"hooks": keras.callbacks.EarlyStopping("loss")},
        TypeError,
        r"hooks\[0\] is an EarlyStopping, a callback of Keras; give hooks=keras_callback\(callback, ...\)",
    ),
}

#: What is found only when a step is traced or run.
RESULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tensor": (
        {"step": objective_of(tf.reduce_mean)},
        TypeError,
        r"the objective returned a tensor; return Outputs\(loss.*",
    ),
    "tuple": ({"step": objective_of(lambda z: (z, {}))}, TypeError, "the objective returned a tuple; return Outputs.*"),
    "vector loss": (
        {"step": objective_of(lambda z: trainer.Outputs(z[:, 0], {}))},
        ValueError,
        r"the objective's loss has the shape \(8,\); reduce it to a scalar.*",
    ),
    "no metrics": (
        {"step": objective_of(lambda z: trainer.Outputs(tf.reduce_mean(z), None))},  # type: ignore[arg-type]
        TypeError,
        r"the objective's metrics must be a dict .*, not None; give \{\} for none",
    ),
    "no result": ({"step": step_of(lambda x: None)}, TypeError, "the step's result must be a dict .*, not None; .*"),
    "mean": (
        {"step": step_of(lambda x: {"loss": tf.reduce_mean(x)})},
        TypeError,
        r"metric 'loss' is a tensor; give \(total, weight\).*",
    ),
    "vectors": (
        {"step": step_of(lambda x: {"loss": (x[:, 0], 8)})},
        ValueError,
        r"metric 'loss' has a total of shape \(8,\) and a weight of shape \(\); sum each to a scalar",
    ),
    "missing name": (
        {"step": lambda state, batch: {"a": (batch["image"], 1)}},
        LookupError,
        "the batch has no 'image'; it holds x, y, index",
    ),
}


def new_arguments(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": new_state(),
        "feed": new_feed(),
        "step": trainer.gradient_step(OBJECTIVE),
        "num_steps": 5,
        "execution": trainer.graph(),
    } | given


@pytest.mark.parametrize("case", TRAINING)
def test_mistake_is_told_in_a_sentence_before_anything_is_traced(case: str) -> None:
    given, kind, pattern = TRAINING[case]
    arguments = new_arguments(given)
    state = arguments["state"]
    traced, before = len(Counted.calls), state.hashes() if isinstance(state, trainer.TrainState) else {}
    with pytest.raises(kind) as caught:
        trainer.train(**arguments)
    assert type(caught.value) is kind
    assert re.fullmatch(pattern, str(caught.value))  # a dot matches no line break, so this is one line
    assert len(Counted.calls) == traced
    assert not before or state.hashes() == before


@pytest.mark.parametrize("execution", ["graph", "eager", "xla"])
@pytest.mark.parametrize("case", RESULTS)
def test_other_results_are_told_in_a_sentence_before_a_step_counts(case: str, execution: str) -> None:
    given, kind, pattern = RESULTS[case]
    arguments = new_arguments(given | {"execution": execution})
    weights = arguments["state"].model.get_weights()
    with pytest.raises(kind) as caught:
        trainer.train(**arguments)
    assert type(caught.value) is kind
    assert re.fullmatch(pattern, str(caught.value))
    assert int(arguments["state"].step) == 0
    assert all(map(np.array_equal, weights, arguments["state"].model.get_weights()))


@pytest.mark.parametrize("taken", [0, -1])
def test_execution_that_takes_no_step_is_refused_and_does_not_hang(taken: int) -> None:
    with pytest.raises(TrainingError, match=r"^the execution took (0|-1) steps, .*give steps_per_call of at least 1$"):
        trainer.train(**new_arguments({"execution": lambda state, step, feed: lambda n: taken}))


@pytest.mark.parametrize("make", [trainer.graph, trainer.xla])
@pytest.mark.parametrize("steps_per_call", [0, -1])
def test_execution_with_less_than_a_step_a_call_is_refused_when_it_is_made(make: Any, steps_per_call: int) -> None:
    with pytest.raises(ValueError, match=f"^steps_per_call={steps_per_call}: give at least 1$"):
        make(steps_per_call)


class Short(Tuples):
    """A feed that says nothing of its end."""

    element_spec = new_feed().element_spec  # type: ignore[assignment]

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        return new_feed(shuffle=False)(start_step)

    def stacked(self, k: int) -> Any:
        return new_feed(shuffle=False).stacked(k)


@pytest.mark.parametrize("feed", [Short(), lambda step: Short()(step).filter(everything)], ids=["members", "function"])
@pytest.mark.parametrize("execution", ["graph", "eager"])
def test_feed_that_ends_without_saying_so_is_told_in_a_sentence(feed: Any, execution: str) -> None:
    with pytest.raises(
        TrainingError, match=r"^the feed has too few batches for num_steps=9; it ended between .*goes on$"
    ):
        trainer.train(**new_arguments({"feed": feed, "execution": execution, "num_steps": 9}))


def test_stacks_that_end_without_saying_so_are_told_in_a_sentence() -> None:
    with pytest.raises(TrainingError, match=r"^the feed has too few batches for num_steps=9; it ended between"):
        trainer.train(**new_arguments({"feed": Short(), "execution": "xla", "num_steps": 9}))


@pytest.mark.parametrize("execution", ["graph", "eager"])
def test_label_out_of_range_is_told_in_a_sentence(execution: str) -> None:
    pattern = r"^a label is [34], outside the range \[0, 3\) of the model's outputs; give labels from 0, and .*class$"
    with pytest.raises(TrainingError, match=pattern):
        trainer.train(**new_arguments({"feed": new_feed(Y + 2), "execution": execution}))
    with pytest.raises(TrainingError, match=pattern):
        trainer.evaluate(new_state(), new_feed(Y + 2), OBJECTIVE)


#: What is given to `evaluate` and to the hook, the error, and a pattern of the whole message.
EVALUATION: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "list": ({"feed": [1]}, TypeError, "feed is a list, which can't be opened.*"),
    "endless": ({"feed": slices().batch(8).repeat()}, ValueError, "the feed never ends, .* leave out repeat.*"),
    "endless function": ({"feed": lambda step: slices().batch(8).repeat()}, ValueError, "the feed never ends, .*"),
    "unknown length": ({"feed": unknown_length()}, ValueError, "the feed doesn't know .*assert_cardinality.*"),
    "empty": ({"feed": slices().batch(8).take(0)}, ValueError, "the feed is a dataset without batches; .*"),
    "loss": ({"objective": "mse"}, TypeError, r"the objective is 'mse', a loss of Keras; give objective_from_keras.*"),
    "loss class": ({"objective": keras.losses.MeanSquaredError}, TypeError, "the objective is the class Mean.*"),
    "step": ({"objective": without_training}, TypeError, "the objective is the function without_training, .*"),
    "none": (
        {"objective": None},
        TypeError,
        r"the objective is None; give classification\(...\), regression\(\), or.*",
    ),
}


@pytest.mark.parametrize("case", EVALUATION)
def test_mistake_in_evaluation_is_told_before_anything_is_traced(case: str) -> None:
    given, kind, pattern = EVALUATION[case]
    arguments = {"feed": new_feed(shuffle=False), "objective": OBJECTIVE} | given
    state = new_state()
    for evaluate in (lambda: trainer.evaluate(state, **arguments), lambda: trainer.Evaluate(**arguments)):
        traced = len(Counted.calls)
        with pytest.raises(kind) as caught:
            evaluate()
        assert type(caught.value) is kind
        assert re.fullmatch(pattern, str(caught.value))
        assert len(Counted.calls) == traced


def test_strings_and_short_feeds_are_refused_in_evaluation() -> None:
    with pytest.raises(TypeError, match=r"^the labels y are strings; "):
        trainer.evaluate(new_state(), new_feed(Y.astype(str)), OBJECTIVE)

    class Shorter(Short):
        steps_per_epoch = 6

    with pytest.raises(TrainingError, match=r"^the feed has too few batches for an evaluation of 6 steps; take"):
        trainer.evaluate(new_state(), Shorter(), OBJECTIVE)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_dataset_of_batches_trains_as_fit_does(optimizer: str) -> None:
    """Three weighted epochs with a ragged last batch, against `fit`, and its evaluation."""
    model = new_state().model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    weights = tf.linspace(0.5, 1.5, 40)
    data = slices(X, Y, weights).batch(9)
    model.fit(data, epochs=3, verbose=0)
    state = new_state(optimizer)
    step = trainer.gradient_step(OBJECTIVE)
    trainer.train(state, data, step, num_steps=15, execution="graph", hooks=hook)
    for ours, theirs in zip(state.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    plain = slices().batch(9)
    expected = model.evaluate(plain, verbose=0, return_dict=True)
    assert trainer.evaluate(state, plain, OBJECTIVE) == pytest.approx(expected, rel=1e-5)
    assert trainer.evaluate(state, lambda step: plain, OBJECTIVE) == pytest.approx(expected, rel=1e-5)


def test_dicts_and_functions_train_as_the_feed_that_they_hold() -> None:
    feed = new_feed()
    hashes = [
        trainer.train(**new_arguments({"feed": given, "execution": trainer.graph})).hashes()
        for given in (feed, feed(), lambda step: feed(step))
    ]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("execution", ["graph", "eager", "xla"])
def test_resumed_run_over_a_dataset_equals_a_straight_one(execution: str) -> None:
    """The dataset gives the same batches every time, and ends within the run: it has five batches."""
    straight, resumed = new_state("adam"), new_state("adam")
    step, data = trainer.gradient_step(OBJECTIVE), slices().batch(8, drop_remainder=True)
    trainer.train(straight, data, step, num_steps=13, execution=execution)
    for num_steps in (4, 7, 13):
        trainer.train(resumed, data, step, num_steps=num_steps, execution=execution)
    assert resumed.hashes() == straight.hashes()


def test_dataset_of_unknown_length_trains_on_past_its_end() -> None:
    known, unknown = (
        trainer.train(**new_arguments({"feed": data, "num_steps": 12})).hashes()
        for data in (slices().batch(8), unknown_length())
    )
    assert known == unknown


def test_one_hook_and_no_hooks_are_taken() -> None:
    seen: list[int] = []
    one = trainer.every(2, lambda state, metrics: seen.append(int(state.step)))
    trainer.train(**new_arguments({"hooks": one}))
    assert seen == [2, 4]
    assert int(trainer.train(**new_arguments({"hooks": None})).step) == 5
    assert int(trainer.train(**new_arguments({"num_steps": np.int64(3)})).step) == 3


def test_checked_step_gives_the_bits_of_the_step_itself() -> None:
    checked, bare = new_state("adam"), new_state("adam")
    step = trainer.gradient_step(OBJECTIVE, norms=True)
    trainer.train(checked, new_feed(), step, num_steps=7, execution=trainer.graph())
    run = trainer.graph()(bare, step, new_feed())
    assert run(7) == 7
    assert checked.hashes() == bare.hashes()


def test_fit_takes_datasets(tmp_path: Any) -> None:
    data = slices().batch(9)
    state = trainer.fit(new_state().model, "sgd", OBJECTIVE, data, data, epochs=2, workdir=tmp_path)
    expected = trainer.train(**new_arguments({"feed": data, "num_steps": 10}))
    assert int(state.step) == 10
    assert all(map(np.array_equal, state.model.get_weights(), expected.model.get_weights()))
    with pytest.raises(TypeError, match=r"^epochs=2.0 must be a whole number; give epochs=2$"):
        trainer.fit(new_state().model, "sgd", OBJECTIVE, data, epochs=2.0, workdir=tmp_path / "b")  # type: ignore[arg-type]
