"""The loop: when it calls hooks, what it gives them, and that no cadence changes a number."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer


def index_step(state: trainer.TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
    """Trains nothing. Its metric is the mean index of the samples, which a test can work out by hand."""
    index = tf.cast(batch["index"], tf.float32)
    return {"index": (tf.reduce_sum(index), tf.cast(tf.size(index), tf.float32))}


def means_by_hand(feed: Any, start: int, stop: int) -> float:
    """The mean index over the batches of the steps from `start` up to `stop`."""
    batches = [batch["index"].numpy() for batch in feed(start).take(stop - start)]
    return float(np.concatenate(batches).mean())


class Recorder:
    """A hook that keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
        self.calls.append((int(state.step), {name: float(mean) for name, mean in metrics.items()}))

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.calls]


class Reporter(Recorder):
    """A hook that only reports."""

    at_last = True


class StateOnly(Recorder):
    reads_metrics = False


def stop(state: trainer.TrainState, metrics: Any) -> None:
    raise trainer.StopTraining("enough")


@pytest.fixture
def run(make_state: Any, make_feed: Any) -> Callable[..., trainer.TrainState]:
    """Runs `index_step` over ragged batches with the hooks given."""

    def go(*hooks: Any, num_steps: int = 10, state: Any = None, steps_per_call: int = 50) -> trainer.TrainState:
        return trainer.train(
            state or make_state(),
            make_feed(),
            index_step,
            num_steps=num_steps,
            execution=trainer.graph(steps_per_call),
            hooks=hooks,
        )

    return go


def test_train_ends_at_the_absolute_last_step(run: Any) -> None:
    state = run(num_steps=4)
    assert int(state.step) == 4
    assert int(run(num_steps=10, state=state).step) == 10


def test_train_of_a_finished_state_calls_only_the_hooks_of_the_end(run: Any) -> None:
    state = run(num_steps=4)
    recorder, end = Recorder(), Recorder()
    assert run(recorder, trainer.every(1, recorder), trainer.at_end(end), num_steps=4, state=state) is state
    assert not recorder.calls
    assert end.steps == [4]  # because a process may have been killed before it came to them


@pytest.mark.parametrize(
    ("n", "start", "num_steps", "expected"),
    [(3, 0, 10, [3, 6, 9, 10]), (5, 0, 10, [5, 10]), (20, 0, 10, [10]), (1, 0, 3, [1, 2, 3]), (4, 6, 10, [8, 10])],
)
def test_every_calls_a_hook_that_reports_at_multiples_and_at_the_last_step(
    run: Any, n: int, start: int, num_steps: int, expected: list[int]
) -> None:
    recorder, reporter = Recorder(), Reporter()
    state = run(num_steps=start) if start else None
    run(trainer.every(n, recorder, at_last=True), trainer.every(n, reporter), num_steps=num_steps, state=state)
    assert recorder.steps == reporter.steps == expected


def test_every_calls_any_other_hook_at_multiples_alone(run: Any) -> None:
    multiples, between, reporter = Recorder(), Recorder(), Reporter()
    run(trainer.every(5, multiples), trainer.every(3, between), trainer.every(3, reporter, at_last=False))
    assert (multiples.steps, between.steps, reporter.steps) == ([5, 10], [3, 6, 9], [3, 6, 9])
    at_stop = Recorder()
    run(trainer.every(3, stop), trainer.every(2, at_stop))
    assert at_stop.steps == [2]


def test_run_that_is_made_longer_later_equals_one_that_was_longer_from_the_start(run: Any, make_state: Any) -> None:
    def grow(
        state: trainer.TrainState, metrics: Any
    ) -> None:  # a hook that changes the state, as a target network does
        state.extras["target"].assign(state.extras["target"] * 2 + 1)

    hashes = []
    for stops in ([10], [4, 10], [7, 8, 10]):
        state = make_state(extras={"target": tf.Variable(0.0)})
        for num_steps in stops:
            run(trainer.every(3, grow), trainer.every(4, Reporter()), num_steps=num_steps, state=state)
        hashes.append({name: value for name, value in state.hashes().items() if name.startswith(("extras", "model"))})
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("steps_per_call", [1, 3, 50])
@pytest.mark.parametrize(
    "execution", [trainer.graph, trainer.xla, lambda n: trainer.eager()], ids=["graph", "xla", "eager"]
)
def test_hooks_of_several_cadences_have_their_own_windows(
    make_state: Any, make_feed: Any, execution: Any, steps_per_call: int
) -> None:
    hooks = {n: Reporter() for n in (2, 3, 7)}
    trainer.train(
        make_state(),
        make_feed(),
        index_step,
        num_steps=10,
        execution=execution(steps_per_call),
        hooks=[trainer.every(n, hook) for n, hook in hooks.items()],
    )
    for n, hook in hooks.items():
        edges = [0, *hook.steps]
        assert hook.steps == [*range(n, 11, n), *([10] if 10 % n else [])]
        for (_, means), (start, stop_at) in zip(hook.calls, itertools.pairwise(edges), strict=True):
            assert means["index"] == pytest.approx(means_by_hand(make_feed(), start, stop_at), rel=1e-12)


def test_windows_of_several_cadences_go_on_after_a_restore(run: Any, make_state: Any, tmp_path: Any) -> None:
    straight = {n: Reporter() for n in (3, 7)}
    run(*(trainer.every(n, hook) for n, hook in straight.items()), num_steps=20)
    checkpoint = trainer.Checkpoint(tmp_path)
    run(*(trainer.every(n, Recorder()) for n in (3, 7)), trainer.every(5, checkpoint), num_steps=11)
    state, resumed = make_state(), {n: Reporter() for n in (3, 7)}
    assert trainer.Checkpoint(tmp_path).restore(state) == 11
    run(*(trainer.every(n, hook) for n, hook in resumed.items()), num_steps=20, state=state)
    for n in (3, 7):
        assert resumed[n].calls == [call for call in straight[n].calls if call[0] > 11]


def test_keras_metrics_follow_one_cadence_only(run: Any, make_state: Any) -> None:
    state = make_state(metrics=[keras.metrics.AUC(name="auc")])
    with pytest.raises(ValueError, match="every 2, every 5 steps, and the state of auc can follow one cadence only"):
        run(trainer.every(2, Recorder()), trainer.every(5, Recorder()), state=state)
    assert int(state.step) == 0


@pytest.mark.parametrize("n", [0, -1])
def test_every_refuses_less_than_one_step(n: int) -> None:
    with pytest.raises(ValueError, match=rf"every\({n}"):
        trainer.every(n, Recorder())


def test_plain_callable_is_called_after_every_call_of_the_execution(run: Any) -> None:
    plain = Recorder()
    run(plain, trainer.every(5, Recorder()), steps_per_call=4)
    assert plain.steps == [4, 5, 9, 10]


def test_hooks_are_called_in_order_and_those_at_the_end_last(run: Any) -> None:
    called = []

    def named(name: str) -> Any:
        return lambda state, metrics: called.append((name, int(state.step)))

    run(trainer.at_end(named("end")), trainer.every(5, named("a")), named("b"), trainer.every(10, named("c")))
    assert called == [("a", 5), ("b", 5), ("a", 10), ("b", 10), ("c", 10), ("end", 10)]


def test_at_end_is_called_once_with_the_last_metrics(run: Any, make_feed: Any) -> None:
    end = Recorder()
    run(trainer.at_end(end), trainer.every(4, Recorder()))
    assert end.calls == [(10, {"index": pytest.approx(means_by_hand(make_feed(), 8, 10))})]


def test_stop_training_lets_every_other_hook_run_once_and_ends(run: Any, make_feed: Any) -> None:
    before, after, not_due, end = Recorder(), Recorder(), Reporter(), Recorder()
    hooks = [trainer.every(3, before), trainer.every(3, stop), after, trainer.every(100, not_due), trainer.at_end(end)]
    state = run(*hooks)
    assert int(state.step) == 3
    for recorder in (before, after, not_due, end):
        assert recorder.calls == [(3, {"index": pytest.approx(means_by_hand(make_feed(), 0, 3))})]


def test_stop_training_keeps_its_reason() -> None:
    assert trainer.StopTraining("enough").reason == str(trainer.StopTraining("enough")) == "enough"


def test_error_of_a_hook_ends_training_at_once(run: Any) -> None:
    def fail(state: trainer.TrainState, metrics: Any) -> None:
        raise RuntimeError("disk full")

    after, end = Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="disk full"):
        run(trainer.every(3, fail), after, trainer.at_end(end))
    assert not after.calls + end.calls


def test_metrics_are_floats_of_the_step_at_which_the_hook_was_called(run: Any, make_feed: Any) -> None:
    kept: list[Any] = []
    run(trainer.every(5, lambda state, metrics: kept.append(metrics)))  # read only after training
    assert [list(metrics) for metrics in kept] == [["index"], ["index"]]
    assert [dict(metrics) for metrics in kept] == [
        {"index": pytest.approx(means_by_hand(make_feed(), start, start + 5), rel=1e-12)} for start in (0, 5)
    ]
    assert all(type(metrics["index"]) is float for metrics in kept)


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_window_means_are_those_worked_out_by_hand(run: Any, make_feed: Any, n: int) -> None:
    recorder = Reporter()
    run(trainer.every(n, recorder))
    start = 0
    for step, metrics in recorder.calls:
        assert metrics["index"] == pytest.approx(means_by_hand(make_feed(), start, step), rel=1e-12)
        start = step
    assert start == 10


def test_window_starts_again_only_where_metrics_are_read(run: Any) -> None:
    alone, beside = Recorder(), Recorder()
    run(trainer.every(5, alone))
    run(trainer.every(2, StateOnly()), Recorder(), trainer.every(5, beside), trainer.every(3, StateOnly()))
    assert alone.calls == beside.calls


@pytest.fixture(scope="module")
def logged(make_state: Any, make_feed: Any, objective: Any) -> Callable[..., Any]:
    """Trains 23 steps with dropout and ragged batches. Gives the numbers logged every 10 steps, and the state's hashes."""

    def go(execution: Any, *others: Any) -> tuple[list[Any], list[str]]:
        log, state = Reporter(), make_state()
        step = trainer.gradient_step(objective)
        hooks = [trainer.every(10, log), *others]
        trainer.train(state, make_feed(), step, num_steps=23, execution=execution, hooks=hooks)
        return log.calls, list(state.hashes().values())

    return go


@pytest.fixture(scope="module")
def reference(logged: Any) -> Any:
    return logged(trainer.graph())


@pytest.mark.parametrize("steps_per_call", [1, 7, 50])
@pytest.mark.parametrize("checkpoint_every", [4, 23])
def test_logged_numbers_are_bit_equal_for_any_call_length_and_checkpoint_cadence(
    logged: Any, reference: Any, steps_per_call: int, checkpoint_every: int
) -> None:
    checkpoints = trainer.every(checkpoint_every, StateOnly())
    assert logged(trainer.graph(steps_per_call), checkpoints) == reference
    assert [step for step, _ in reference[0]] == [10, 20, 23]
    assert all(set(metrics) == {"loss", "accuracy"} for _, metrics in reference[0])


def test_eager_logs_what_graph_logs(logged: Any, reference: Any) -> None:
    eager, _ = logged(trainer.eager())
    for (step, metrics), (step_of_graph, metrics_of_graph) in zip(eager, reference[0], strict=True):
        assert step == step_of_graph
        assert metrics == pytest.approx(metrics_of_graph, rel=1e-4)


def test_step_is_traced_once_in_a_whole_run(make_state: Any, make_feed: Any, objective: Any) -> None:
    traces = []
    update = trainer.gradient_step(objective)

    def step(state: trainer.TrainState, batch: dict[str, tf.Tensor]) -> Any:
        traces.append(batch)
        return update(state, batch)

    evaluated = []

    def counted(model: Any, batch: dict[str, tf.Tensor], *, training: bool) -> trainer.Outputs:
        evaluated.append(training)
        return objective(model, batch, training=training)

    trainer.train(
        make_state(),
        make_feed(),
        step,
        num_steps=23,
        execution=trainer.graph(7),
        hooks=[trainer.every(5, Recorder()), trainer.every(6, trainer.Evaluate(make_feed(shuffle=False), counted))],
    )
    assert len(traces) == 1
    assert evaluated == [False]
