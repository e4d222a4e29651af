"""Compiled calls that the next call of `train` or `evaluate` uses again, and what makes them unfit."""

import copy
import gc
import logging
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.core import execution as executions
from loopwright.trainer.core.traces import MOST_KEPT, Traces

#: Ends of calls in the middle of an epoch, at its end and after its ragged batch (5 steps an epoch).
ENDS = (3, 5, 11, 20, 23)


class CountedStep:
    """The default step. It counts its traces and has an attribute that it reads while it is traced."""

    def __init__(self, objective: Any) -> None:
        self.step, self.traces, self.weight = trainer.gradient_step(objective), 0, 1.0

    def __call__(self, state: trainer.TrainState, batch: Any) -> Any:
        self.traces += 1
        return self.step(state, batch) | {"weight": (tf.constant(self.weight), tf.constant(1.0))}


@pytest.fixture
def counted(objective: Any) -> CountedStep:
    return CountedStep(objective)


@pytest.mark.parametrize(("kind", "traces"), [("graph", 1), ("xla", 2)])  # xla has a program for the ragged batch
def test_calls_of_train_trace_once_and_equal_one_long_call(
    make_state: Any, make_feed: Any, counted: CountedStep, kind: str, traces: int
) -> None:
    make: Callable[..., Any] = getattr(trainer, kind)
    state = make_state()
    for end in ENDS:
        trainer.train(state, make_feed(), counted, num_steps=end, execution=make(4))
    assert counted.traces == traces
    straight = make_state()
    trainer.train(straight, make_feed(), counted, num_steps=ENDS[-1], execution=make(4))
    assert counted.traces == 2 * traces  # each state has its own
    assert state.hashes() == straight.hashes()


def test_new_but_equal_steps_and_objectives_are_not_traced_again(make_state: Any, make_feed: Any) -> None:
    state, scale = make_state(), 2.0
    for end in (2, 4, 6):
        feed = make_feed()
        inner = trainer.classification(from_logits=True, class_weight={0: 1.0, 1: scale})
        step = trainer.gradient_step(lambda model, batch, training, inner=inner: inner(model, batch, training=training))
        trainer.train(state, feed, step, num_steps=end, execution="graph")
        trainer.evaluate(state, make_feed(shuffle=False), trainer.classification(from_logits=True))
    assert len(state.compiled_calls) == 2


def test_frozen_layer_is_traced_again_and_stays_as_it_is(make_state: Any, make_feed: Any, objective: Any) -> None:
    state, feed, step = make_state(), make_feed(), trainer.gradient_step(objective)
    layer = state.model.get_layer("conv")

    def trains() -> bool:
        before = layer.kernel.numpy()
        trainer.train(state, feed, step, num_steps=int(state.step) + 2, execution="graph")
        return bool((layer.kernel.numpy() != before).any())

    assert trains()
    layer.trainable = False
    assert not trains()
    assert len(state.compiled_calls) == 2
    layer.trainable = True
    assert trains()
    assert len(state.compiled_calls) == 2  # the first trace fits again


CHANGES: dict[str, Callable[[trainer.TrainState, CountedStep], Any]] = {
    "rate": lambda state, step: setattr(state.model.get_layer("dropout"), "rate", 0.1),
    "momentum": lambda state, step: setattr(state.model.get_layer("norm"), "momentum", 0.5),
    "activation": lambda state, step: setattr(state.model.get_layer("conv"), "activation", keras.activations.tanh),
    "attribute of the step": lambda state, step: setattr(step, "weight", 3.0),
    "step in the step": lambda state, step: setattr(
        step, "step", trainer.gradient_step(step.step.objective, norms=True)
    ),
    "clipping": lambda state, step: setattr(state.optimizer, "clipnorm", 0.1),
    "schedule": lambda state, step: setattr(
        state.optimizer, "learning_rate", keras.optimizers.schedules.CosineDecay(0.1, 9)
    ),
    "another optimizer": lambda state, step: setattr(
        state, "optimizer", trainer.TrainState.create(state.model, "sgd").optimizer
    ),
    "extras": lambda state, step: state.extras.update(seen=tf.Variable(0.0)),
    "determinism": lambda state, step: tf.config.experimental.enable_op_determinism(),
    "seed": lambda state, step: tf.random.set_seed(123),
}


def test_hook_of_evaluation_follows_what_has_changed_between_two_calls(make_state: Any, make_feed: Any) -> None:
    class Scaled:
        scale = 1.0

        def __call__(self, model: Any, batch: Any, *, training: bool) -> Any:
            loss = tf.reduce_mean(model(batch["x"], training=training) ** 2) * self.scale
            return trainer.Outputs(loss, {"loss": (loss, tf.constant(1.0))})

    state, objective = make_state(), Scaled()
    evaluate = trainer.Evaluate(make_feed(shuffle=False), objective)
    step, seen = trainer.gradient_step(objective), []
    for number, scale in enumerate((1.0, 100.0), 1):
        objective.scale = scale
        state.optimizer.learning_rate = 0.0
        hooks = [trainer.every(2, evaluate)]
        trainer.train(state, make_feed(), step, num_steps=2 * number, execution="graph", hooks=hooks)
        seen.append(evaluate.last["loss"])
    assert seen[1] == pytest.approx(trainer.evaluate(state, make_feed(shuffle=False), objective)["loss"], rel=1e-6)
    assert seen[1] > 10 * seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_trace_depends_on_is_traced_again(
    make_state: Any, make_feed: Any, counted: CountedStep, name: str
) -> None:
    state, feed = make_state(), make_feed()
    trainer.train(state, feed, counted, num_steps=2, execution="graph")
    CHANGES[name](state, counted)
    trainer.train(state, feed, counted, num_steps=4, execution="graph")
    assert counted.traces == 2
    trainer.train(state, feed, counted, num_steps=6, execution="graph")
    assert counted.traces == 2


def test_another_step_another_spec_and_another_execution_are_traced(
    make_state: Any, make_feed: Any, counted: CountedStep
) -> None:
    state = make_state()
    trainer.train(state, make_feed(), counted, num_steps=2, execution="graph")
    trainer.train(state, make_feed(), counted, num_steps=4, execution=trainer.graph(3))  # only the calls are shorter
    assert counted.traces == 1
    trainer.train(state, make_feed(drop_remainder=True), counted, num_steps=6, execution="graph")
    assert counted.traces == 2

    def still(state: Any, batch: Any) -> Any:
        return {"loss": (tf.constant(7.0), tf.constant(1.0))}

    before = state.model.weights[0].numpy()
    seen: list[float] = []
    hook = trainer.every(2, lambda state, metrics: seen.append(metrics["loss"]))
    trainer.train(state, make_feed(), still, num_steps=8, execution="graph", hooks=hook)
    assert (state.model.weights[0].numpy() == before).all()
    assert seen == [7.0]


def test_hooks_of_other_cadences_get_their_windows_from_the_same_trace(
    make_state: Any, make_feed: Any, counted: CountedStep
) -> None:
    def logged(*ends: int) -> list[Any]:
        state, seen = make_state(), []
        for end in ends:
            hooks = [
                trainer.every(2, lambda state, metrics: seen.append((2, int(state.step), dict(metrics)))),
                trainer.every(3, lambda state, metrics: seen.append((3, int(state.step), dict(metrics)))),
            ]
            trainer.train(state, make_feed(), counted, num_steps=end, execution="graph", hooks=hooks)
        return seen

    assert logged(6, 12) == logged(12)
    assert counted.traces == 2


def test_runs_at_the_same_time_have_their_own_streams(make_state: Any, make_feed: Any) -> None:
    def rows(state: Any, batch: Any) -> Any:
        first = tf.cast(batch["index"][0], tf.float32)
        return {"first": (first, tf.constant(1.0))}

    state = make_state()
    feeds = [make_feed(seed=seed) for seed in (0, 1)]
    runs = [executions.graph()(state, rows, feed) for feed in feeds]
    for feed, run in zip(feeds, runs, strict=True):
        state.clear_window()
        run(1)
        assert state.window_means()["first"] == int(next(iter(feed()))["index"][0])
    del run, runs
    assert len(state.compiled_calls) == 2


def test_finished_run_holds_neither_its_feed_nor_what_that_read_ahead(
    make_state: Any, make_feed: Any, counted: CountedStep
) -> None:
    class Source:
        """Batches from Python. Its generators are closed with the pipeline that reads them."""

        open = 0

        def __call__(self) -> Any:
            Source.open += 1
            try:
                while True:
                    yield {"x": np.ones((4, 8, 8, 1), np.float32), "y": np.zeros(4, np.int64)}
            finally:
                Source.open -= 1

    spec = {"x": tf.TensorSpec([4, 8, 8, 1]), "y": tf.TensorSpec([4], tf.int64)}
    state = make_state()
    for end in (2, 4, 6):
        dataset = tf.data.Dataset.from_generator(Source(), output_signature=spec).prefetch(2)
        gone = weakref.ref(dataset)
        trainer.train(state, dataset, counted, num_steps=end, execution="graph")
        del dataset
        gc.collect()
        assert gone() is None
        assert Source.open == 0
    assert counted.traces == 1


def test_state_model_and_step_are_freed(make_state: Any, make_feed: Any, objective: Any) -> None:
    def used(kind: str) -> list[Any]:
        state, step = make_state(), CountedStep(objective)
        trainer.train(state, make_feed(), step, num_steps=2, execution=kind)
        trainer.evaluate(state, make_feed(shuffle=False), objective)
        return [weakref.ref(part) for part in (state, state.model, state.optimizer, step)]

    for kind in ("graph", "xla"):
        gone = used(kind)
        gc.collect()
        assert [ref() for ref in gone] == [None] * 4


def test_training_goes_on_after_an_error(make_state: Any, make_feed: Any, counted: CountedStep) -> None:
    def fail(state: Any, metrics: Any) -> None:
        raise KeyError("the hook")

    state, straight = make_state(), make_state()
    for end in (4, 7):
        with pytest.raises(KeyError):
            trainer.train(state, make_feed(), counted, num_steps=9, execution="graph", hooks=trainer.every(end, fail))
    trainer.train(state, make_feed(), counted, num_steps=9, execution="graph")
    trainer.train(straight, make_feed(), counted, num_steps=9, execution="graph")
    plain = [{n: d for n, d in one.hashes().items() if n != "window"} for one in (state, straight)]
    assert plain[0] == plain[1]


def test_iterator_that_can_not_be_opened_again_is_traced_again(
    make_state: Any, make_feed: Any, counted: CountedStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "opened_again", lambda iterator, dataset: False)
    state = make_state()
    for end in ENDS[:2]:
        trainer.train(state, make_feed(), counted, num_steps=end, execution="graph")
    assert counted.traces == 2
    monkeypatch.undo()
    straight = make_state()
    trainer.train(straight, make_feed(), counted, num_steps=ENDS[1], execution="graph")
    assert state.hashes() == straight.hashes()


def test_trace_between_two_programs_that_a_hook_has_changed_is_used_by_no_other_run(
    make_state: Any, make_feed: Any, counted: CountedStep
) -> None:
    def change(state: Any, metrics: Any) -> None:
        counted.weight = 2.0

    state = make_state()
    trainer.train(state, make_feed(), counted, num_steps=5, execution=trainer.xla(4), hooks=trainer.every(2, change))
    assert (counted.traces, len(state.compiled_calls)) == (2, 0)


def test_evaluate_traces_once(make_state: Any, make_feed: Any, objective: Any) -> None:
    state, traces, temperature = make_state(), [], [1.0]

    def cooled(model: Any, batch: Any, *, training: bool) -> trainer.Outputs:
        traces.append(training)
        outputs = objective(model, batch, training=training)
        return outputs._replace(metrics={"loss": (outputs.loss * temperature[0], tf.constant(1.0))})

    first = [trainer.evaluate(state, make_feed(shuffle=False), cooled)["loss"] for _ in range(3)]
    assert (len(traces), len(set(first))) == (1, 1)
    state.model.trainable_variables[0].assign_add(tf.ones_like(state.model.trainable_variables[0]))
    second = trainer.evaluate(state, make_feed(shuffle=False), cooled)["loss"]
    assert second != first[0]
    temperature[0] = 2.0
    assert trainer.evaluate(state, make_feed(shuffle=False), cooled)["loss"] == pytest.approx(2 * second)
    assert len(traces) == 2


def test_what_is_traced_again_and_again_is_told(
    make_state: Any, make_feed: Any, counted: CountedStep, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state()
    with caplog.at_level(logging.WARNING, "loopwright"):
        for number in range(4):
            assert not caplog.messages
            counted.weight = float(number)
            trainer.train(state, make_feed(), counted, num_steps=number + 1, execution="graph")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the training loop was compiled again")
    assert "weight was 2.0 and is 3.0" in caplog.messages[0]


def test_copies_of_a_state_begin_without_traces_and_few_are_kept() -> None:
    traces = Traces()
    for number in range(MOST_KEPT + 2):
        traces.keep("loop", {"number": number}, {"call": number})
    assert len(traces) == MOST_KEPT
    for made in (copy.copy(traces), copy.deepcopy(traces), pickle.loads(pickle.dumps(traces))):
        assert len(made) == 0


GROWTH = """
import gc, sys
import keras, numpy as np, tensorflow as tf
from loopwright import data, models, trainer

def resident():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (70, 8, 8, 1), np.uint8), rng.integers(0, 3, 70)
feed, held_out = (data.array_feed(x, y, batch_size=16, shuffle=shuffle) for shuffle in (True, False))
state = trainer.TrainState.create(models.create("mlp", (8, 8, 1), 3), keras.optimizers.Adam())
objective = trainer.classification(from_logits=True)
for call in range(60):
    if call == 30:
        gc.collect()
        before = resident()
    if sys.argv[1] == "evaluate":
        trainer.evaluate(state, held_out, objective)
    else:
        step = trainer.gradient_step(objective)
        trainer.train(state, feed, step, num_steps=(call + 1) * 5, execution=sys.argv[1])
gc.collect()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["graph", "xla", "evaluate"])
def test_thirty_calls_do_not_grow(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH, kind], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 3
