"""The executions: xla compared with graph and fit, the programs that it compiles, and the choice between executions."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import models, trainer
from loopwright.trainer.checkpoint.checkpoint import restore_folder


def mlp() -> keras.Model:
    return models.create("mlp", (8, 8, 1), 3)


def dropout_mlp() -> keras.Model:
    dense = keras.layers.Dense(16, activation="relu")
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), dense, keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    )


def distance(one: keras.Model, other: keras.Model) -> float:
    pairs = zip(one.weights, other.weights, strict=True)
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)


class Counted:
    """A step that counts how often it is traced."""

    def __init__(self, step: Any) -> None:
        self.step, self.traces = step, 0

    def __call__(self, state: trainer.TrainState, batch: Any) -> Any:
        self.traces += 1
        return self.step(state, batch)


@pytest.fixture(scope="module")
def trained(make_state: Any, make_feed: Any, objective: Any) -> Callable[..., Any]:
    """Trains a fresh state. Gives the state, what was logged every 10 steps, and the number of traces."""

    def go(execution: Any, *, num_steps: int = 23, model: Any = mlp, feed: Any = None, hooks: Any = ()) -> Any:
        state, logged = make_state(model), []
        step = Counted(trainer.gradient_step(objective))

        def log(state: trainer.TrainState, metrics: Any) -> None:
            logged.append((int(state.step), {name: float(value) for name, value in metrics.items()}))

        hooks = [trainer.every(10, log), *hooks]
        feed = feed or make_feed()  # 5 steps an epoch, the last of them ragged
        trainer.train(state, feed, step, num_steps=num_steps, execution=execution, hooks=hooks)
        return state, logged, step.traces

    return go


@pytest.mark.slow
def test_xla_and_graph_reach_the_same_weights(trained: Any, make_feed: Any) -> None:
    feed = make_feed(samples=64)
    by_graph, logged, _ = trained(trainer.graph(), num_steps=50, feed=feed)
    by_xla, logged_by_xla, traces = trained(trainer.xla(50), num_steps=50, feed=feed)
    assert distance(by_graph.model, by_xla.model) <= 1e-6
    for (step, values), (step_by_xla, values_by_xla) in zip(logged, logged_by_xla, strict=True):
        assert step == step_by_xla
        assert values == pytest.approx(values_by_xla, abs=1e-6)
    assert traces == 1


@pytest.mark.slow
def test_xla_is_bit_equal_for_any_stack_and_cadence_with_two_programs(trained: Any, make_feed: Any) -> None:
    class Look:
        reads_metrics = False

        def __init__(self) -> None:
            self.steps: list[int] = []

        def __call__(self, state: Any, metrics: Any) -> None:
            self.steps.append(int(state.step))

    look = Look()
    one, logged, traces = trained(trainer.xla(3), model=dropout_mlp, hooks=[trainer.every(7, look)])
    assert traces == 2  # one for whole batches and one for ragged batches, however much of a stack is left
    assert look.steps == [7, 14, 21]  # a hook that may change the state is not called just because the run ends
    assert [step for step, _ in logged] == [10, 20]
    other, logged_by_other, traces = trained(trainer.xla(50), model=dropout_mlp)
    assert traces == 2
    assert logged_by_other == logged
    assert other.hashes() == one.hashes()


@pytest.mark.slow
def test_xla_goes_on_in_the_middle_of_a_stack(
    trained: Any, make_state: Any, make_feed: Any, objective: Any, tmp_path: Any
) -> None:
    checkpoint = trainer.Checkpoint(tmp_path)
    straight, logged, _ = trained(trainer.xla(4), model=dropout_mlp, hooks=[trainer.every(17, checkpoint)])
    state = make_state(dropout_mlp)
    restore_folder(tmp_path / "00000017", state)
    step, seen = trainer.gradient_step(objective), []
    hooks = [trainer.every(10, lambda state, metrics: seen.append({k: float(v) for k, v in metrics.items()}))]
    trainer.train(state, make_feed(), step, num_steps=23, execution=trainer.xla(4), hooks=hooks)
    assert state.hashes() == straight.hashes()
    assert seen == [values for step, values in logged if step > 17]


@pytest.mark.slow
def test_xla_draws_the_dropout_of_fit_by_xla(trained: Any, make_feed: Any, make_state: Any) -> None:
    feed = make_feed(samples=64)
    fitted = make_state(dropout_mlp)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted.model.compile(fitted.optimizer, loss, jit_compile=True)
    fitted.model.fit(feed().map(lambda batch: (batch["x"], batch["y"])).take(20), verbose=0, shuffle=False)
    ours, _, _ = trained(trainer.xla(8), num_steps=20, model=dropout_mlp, feed=feed)
    assert distance(fitted.model, ours.model) <= 1e-6


TWO_REPLICAS = """
import tensorflow as tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from loopwright import trainer
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    state = trainer.TrainState.create(model, keras.optimizers.SGD())
    try:
        trainer.xla()(state, trainer.gradient_step(trainer.classification(from_logits=True)), None)
    except trainer.TrainingError as error:
        print(error.exit_code, error)
"""


@pytest.mark.slow
def test_xla_refuses_several_replicas() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True, check=False)
    assert done.stdout == "2 xla runs on one replica only; use execution=graph()\n", done.stderr


GIVEN_BACK = """
import numpy as np
from loopwright.trainer.base.memory import give_back_memory

def resident():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024

blocks = [np.ones(12_000) for _ in range(1000)]  # of 96 kB, which glibc keeps in its heap
last = blocks.pop()  # so that the heap's end stays in use
blocks.clear()
before = resident()
give_back_memory()
print(before - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc gives memory back in this way")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60


class Uncompilable(keras.layers.Layer):
    """A layer whose output comes from Python, which XLA can't compile."""

    def call(self, x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda array: array, [x], tf.float32), x.shape)


def uncompilable() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, Uncompilable()(x) + x)


def test_xla_names_what_it_can_not_compile_in_one_line(trained: Any) -> None:
    with pytest.raises(trainer.TrainingError, match=r"PyFunc.*use execution=graph\(\)$") as error:
        trained(trainer.xla(3), model=uncompilable)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


CANDIDATES = {"graph": trainer.graph(4), "xla": trainer.xla(4)}


@pytest.mark.slow
def test_choice_leaves_no_trace_in_the_state(make_state: Any, make_feed: Any, objective: Any, trained: Any) -> None:
    state, step = make_state(dropout_mlp), trainer.gradient_step(objective)
    before = state.hashes()
    choice = trainer.choose(state, step, make_feed(), CANDIDATES, steps=6, repeats=2)
    assert state.hashes() == before
    assert choice.name == min(choice.milliseconds, key=lambda name: choice.milliseconds[name])
    assert set(choice.milliseconds) == set(CANDIDATES)
    assert not choice.failed
    trainer.train(state, make_feed(), step, num_steps=23, execution=trainer.graph())
    plain, _, _ = trained(trainer.graph(), model=dropout_mlp)
    named = [{n: d for n, d in s.hashes().items() if n != "window"} for s in (state, plain)]
    assert named[0] == named[1]


def test_choice_spends_a_tenth_of_the_steps_on_a_hopeless_execution(
    make_state: Any, make_feed: Any, objective: Any
) -> None:
    taken: list[int] = []

    def slow(state: Any, step: Any, feed: Any) -> Any:
        run = trainer.graph(4)(state, step, feed)

        def slowly(steps: int) -> int:
            done = run(steps)
            taken.append(done)
            time.sleep(0.5 * done)
            return done

        return slowly

    state, step = make_state(dropout_mlp), trainer.gradient_step(objective)
    choice = trainer.choose(state, step, make_feed(), {"graph": trainer.graph(4), "slow": slow}, steps=20, repeats=3)
    assert choice.name == "graph"
    assert choice.milliseconds["slow"] >= 500
    assert sum(taken) == 1 + 2


def test_choice_ends_before_the_feed_does(make_state: Any, make_feed: Any, objective: Any) -> None:
    state, step = make_state(dropout_mlp), trainer.gradient_step(objective)
    feed = make_feed(320, shuffle=False)
    assert feed.end == 20
    choice = trainer.choose(state, step, feed, {"graph": trainer.graph(4), "other": trainer.graph(3)})
    assert min(choice.milliseconds.values()) > 0
    with pytest.raises(trainer.TrainingError, match="ends in 5 steps, too soon"):
        trainer.choose(
            state, step, make_feed(80, shuffle=False), {"graph": trainer.graph(4), "other": trainer.graph(3)}
        )


@pytest.mark.slow
def test_choice_skips_an_execution_that_can_not_run(make_state: Any, make_feed: Any, objective: Any) -> None:
    state, step = make_state(uncompilable), trainer.gradient_step(objective)
    before = state.hashes()
    choice = trainer.choose(state, step, make_feed(), CANDIDATES, steps=6, repeats=1)
    assert choice.name == "graph"
    assert "use execution=graph()" in choice.failed["xla"]
    assert state.hashes() == before
    with pytest.raises(trainer.TrainingError, match="no execution"):
        trainer.choose(state, step, make_feed(), {"xla": CANDIDATES["xla"]}, steps=6, repeats=1)
    assert state.hashes() == before


def test_choice_leaves_out_an_execution_of_any_error_and_raises_that_of_the_step(
    make_state: Any, make_feed: Any, objective: Any
) -> None:
    def unable(state: Any, step: Any, feed: Any) -> Any:
        raise NotImplementedError

    def wrong(state: Any, batch: Any) -> Any:
        raise TypeError("the step is wrong")

    state, candidates = make_state(dropout_mlp), {"graph": trainer.graph(4), "xla": unable}
    choice = trainer.choose(state, trainer.gradient_step(objective), make_feed(), candidates, steps=2, repeats=1)
    assert (choice.name, choice.failed) == ("graph", {"xla": "NotImplementedError"})
    with pytest.raises(TypeError, match="the step is wrong"):
        trainer.choose(state, wrong, make_feed(), candidates, steps=2, repeats=1)


def test_choice_reports_a_change_that_it_can_not_undo(make_state: Any, make_feed: Any, objective: Any) -> None:
    class Growing(tf.Module):
        """Changes its value by itself, even when it is put back."""

        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        @property
        def variables(self) -> Any:  # type: ignore[override]
            self.reads += 1
            return [tf.Variable(float(self.reads))]

    state = make_state(dropout_mlp, extras={"growing": Growing()})
    with pytest.raises(trainer.TrainingError, match="changed extras/growing"):
        trainer.choose(
            state, trainer.gradient_step(objective), make_feed(), {"graph": trainer.graph(4)}, steps=2, repeats=1
        )


@pytest.mark.slow
def test_executions_take_a_feed_that_ends(make_state: Any, make_feed: Any, objective: Any) -> None:
    hashes = []
    for execution in (trainer.graph(3), trainer.xla(3)):
        state = make_state(mlp)
        feed = make_feed(shuffle=False)
        trainer.train(
            state, feed, trainer.gradient_step(objective), num_steps=feed.steps_per_epoch, execution=execution
        )
        hashes.append(state.model.weights[0].numpy())
    assert np.abs(hashes[0] - hashes[1]).max() <= 1e-6


def test_model_of_a_repeated_layer_name_has_every_weight_hashed() -> None:
    class Repeated(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="repeated")
            self.parts = [keras.layers.Dense(3, name="part"), keras.layers.Dense(3, name="part")]

        def call(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
            return x

    model = Repeated()
    model(tf.zeros([1, 3]))
    state = trainer.TrainState.create(model, keras.optimizers.SGD())
    assert len([name for name in state.variables() if name.startswith("model/")]) == 4
