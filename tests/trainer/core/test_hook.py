"""Hooks: what they open, what the loop sees of them, and hooks that are called by the clock."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.core.hook import NEVER, Contract
from loopwright.trainer.hooks.board import Profile
from loopwright.trainer.hooks.guards import AbortOnNonfinite, StallTimeout
from loopwright.trainer.hooks.signals import ShortCalls
from loopwright.trainer.observe.goodput import Goodput


def index_step(state: trainer.TrainState, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
    """Trains nothing. Its metric is the mean index of the samples."""
    index = tf.cast(batch["index"], tf.float32)
    return {"index": (tf.reduce_sum(index), tf.cast(tf.size(index), tf.float32))}


class Recorder:
    """A hook that keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
        self.calls.append((int(state.step), dict(metrics)))

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.calls]


class Reporter(Recorder):
    """A hook that only reports."""

    at_last = True


class StateOnly(Recorder):
    reads_metrics = False


class Opened(StateOnly):
    """A hook that writes into a list when it is opened, called and closed. It can fail or stop training at each moment."""

    def __init__(self, name: str, log: list[str], *, at: str = "", error: Exception | None = None) -> None:
        super().__init__()
        self.name, self.log, self.at, self.error = name, log, at, error

    def note(self, moment: str, step: Any) -> None:
        self.log.append(f"{moment} {self.name} {int(step)}")
        if moment == self.at and self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def open(self, state: trainer.TrainState) -> Iterator[None]:
        self.note("open", state.step)
        try:
            yield
        except BaseException as error:
            self.log.append(f"{self.name} sees {type(error).__name__}")
            raise
        finally:
            self.note("close", state.step)

    def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
        self.note("call", state.step)


def stop(state: trainer.TrainState, metrics: Any) -> None:
    raise trainer.StopTraining("enough")


@pytest.fixture
def run(make_state: Any, make_feed: Any) -> Callable[..., trainer.TrainState]:
    """Runs `index_step` over ragged batches with the hooks given."""

    def go(
        *hooks: Any, num_steps: int = 10, state: Any = None, steps_per_call: int = 50, execution: Any = None
    ) -> trainer.TrainState:
        return trainer.train(
            state or make_state(),
            make_feed(),
            index_step,
            num_steps=num_steps,
            execution=execution or trainer.graph(steps_per_call),
            hooks=hooks,
        )

    return go


def test_hooks_open_before_the_first_step_and_close_in_reverse_after_the_last(run: Any) -> None:
    log: list[str] = []
    state = run(
        trainer.at_end(Opened("end", log)),
        trainer.every(5, Opened("a", log)),
        Recorder(),
        Opened("b", log),
        steps_per_call=5,
    )
    around = ["open end 0", "open a 0", "open b 0"], ["close b 10", "close a 10", "close end 10"]
    assert log == [*around[0], "call a 5", "call b 5", "call a 10", "call b 10", "call end 10", *around[1]]
    log.clear()
    run(Opened("c", log), trainer.at_end(Opened("d", log)), state=state)  # nothing is left to train
    assert log == ["open c 10", "open d 10", "call d 10", "close d 10", "close c 10"]


def test_hooks_see_the_error_that_ends_training_and_close_in_reverse(run: Any) -> None:
    log: list[str] = []
    hooks = [Opened("a", log), trainer.every(3, Opened("b", log, at="call", error=RuntimeError("disk full")))]
    with pytest.raises(RuntimeError, match="disk full"):
        run(*hooks, trainer.at_end(Opened("end", log)))
    assert log == [
        *("open a 0", "open b 0", "open end 0", "call a 3", "call b 3"),
        *(
            "end sees RuntimeError",
            "close end 3",
            "b sees RuntimeError",
            "close b 3",
            "a sees RuntimeError",
            "close a 3",
        ),
    ]


def test_error_while_opening_closes_what_is_open_and_takes_no_step(run: Any, make_state: Any) -> None:
    log: list[str] = []
    state = make_state()
    failing = Opened("b", log, at="open", error=RuntimeError("no such folder"))
    with pytest.raises(RuntimeError, match="no such folder"):
        run(Opened("a", log), trainer.every(3, failing), Opened("c", log), state=state)
    assert log == ["open a 0", "open b 0", "a sees RuntimeError", "close a 0"]
    assert int(state.step) == 0


def test_error_while_closing_is_passed_on_after_the_others_are_closed(run: Any) -> None:
    log: list[str] = []
    failing = Opened("b", log, at="close", error=RuntimeError("disk full"))
    with pytest.raises(RuntimeError, match="disk full"):
        run(Opened("a", log), failing, steps_per_call=10)
    assert log == ["open a 0", "open b 0", "call a 10", "call b 10", "close b 10", "a sees RuntimeError", "close a 10"]


def test_stop_training_closes_hooks_as_at_the_last_step(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    later = trainer.every(3, Opened("b", log, at="call", error=trainer.StopTraining("too late")))
    state = run(Opened("a", log), trainer.every(3, stop), later, trainer.at_end(Opened("end", log)))
    assert int(state.step) == 3
    assert log == [
        *("open a 0", "open b 0", "open end 0", "call a 3", "call b 3", "call end 3"),
        *("close end 3", "close b 3", "close a 3"),
    ]
    # The first reason counts.
    assert capsys.readouterr() == ("", "loopwright: training stopped at step 3: enough\n")


def test_training_that_nobody_stops_says_nothing(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(trainer.every(3, Recorder()))
    assert capsys.readouterr() == ("", "")


def test_stop_training_while_opening_ends_well_without_a_step(
    run: Any, make_state: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []
    state = make_state()
    state.step.assign(4)
    stopping = trainer.every(3, Opened("b", log, at="open", error=trainer.StopTraining("enough")))
    later = Opened("d", log, at="open", error=trainer.StopTraining("too late"))

    def execution(*arguments: Any) -> Any:
        raise AssertionError("nothing is compiled where no step is taken")

    end, plain = Recorder(), Recorder()
    hooks = [Opened("a", log), stopping, Opened("c", log), later, plain, trainer.every(1, plain), trainer.at_end(end)]
    assert run(*hooks, trainer.at_end(Opened("end", log)), state=state, execution=execution) is state
    assert int(state.step) == 4
    assert end.steps == [4]
    assert not plain.calls
    assert log == [
        *("open a 4", "open b 4", "open c 4", "open d 4", "open end 4", "call end 4"),
        *("close end 4", "close c 4", "close a 4"),  # b and d aren't open
    ]
    assert capsys.readouterr() == ("", "loopwright: training stopped at step 4: enough\n")


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "every": lambda hook: trainer.every(5, hook),
    "at_end": trainer.at_end,
    "every_seconds": lambda hook: trainer.every_seconds(5, hook),
    "timed": lambda hook: Clock().timed("work", hook),
    "every of timed": lambda hook: trainer.every(5, Clock().timed("work", hook)),
    "at_end of timed": lambda hook: trainer.at_end(Clock().timed("work", hook)),
    "every_seconds of timed": lambda hook: trainer.every_seconds(5, Clock().timed("work", hook)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapper_opens_the_hook_inside(run: Any, make_state: Any, wrap: Callable[[Any], Any]) -> None:
    log: list[str] = []
    wrapped = wrap(Opened("a", log))
    run(wrapped)
    assert log == ["open a 0", *(line for line in log if line.startswith("call a")), "close a 10"]
    assert log[-2] == "call a 10"
    with Contract.of(wrap(StateOnly())).open(make_state()):  # a hook that opens nothing needs no member for that
        pass


class Due(Recorder):
    """A hook that says itself when it is due."""

    def next_due(self, step: int) -> int:
        return step + 2


class DueStateOnly(Due):
    reads_metrics = False


class ReadingInName(Recorder):
    reads_metrics = True


#: Hooks, and what the loop sees of them: the cadence of their window, the next step at which a call ends for them, and
#: whether they are called after steps 4 and 5, at the last step and at the end.
CONTRACTS: dict[str, tuple[Callable[[], Any], int | None, int, bool, bool, bool, bool]] = {
    "plain": (Recorder, None, NEVER, True, True, False, False),
    "function": (lambda: stop, None, NEVER, True, True, False, False),
    "plain that says it reads": (ReadingInName, None, NEVER, True, True, False, False),
    "plain, of the state": (StateOnly, None, NEVER, True, True, False, False),
    "every": (lambda: trainer.every(5, Recorder()), 5, 5, False, True, False, False),
    "every, of the state": (lambda: trainer.every(5, StateOnly()), None, 5, False, True, False, False),
    "every, at the last": (lambda: trainer.every(5, Recorder(), at_last=True), 5, 5, False, True, True, False),
    "every, not at the last": (
        lambda: trainer.every(5, trainer.Log([]), at_last=False),
        5,
        5,
        False,
        True,
        False,
        False,
    ),
    "every of timed": (lambda: trainer.every(5, Clock().timed("log", trainer.Log([]))), 5, 5, False, True, True, False),
    "timed every": (lambda: Clock().timed("log", trainer.every(5, trainer.Log([]))), 5, 5, False, True, True, False),
    "timed, of the state": (lambda: Clock().timed("save", StateOnly()), None, NEVER, True, True, False, False),
    "at_end": (lambda: trainer.at_end(Recorder()), None, NEVER, True, True, False, True),
    "every_seconds": (
        lambda: trainer.every_seconds(5, StateOnly(), now=float),
        None,
        NEVER,
        False,
        False,
        True,
        False,
    ),
    "due by itself": (Due, 0, 5, False, True, False, False),
    "due by itself, of the state": (DueStateOnly, None, 5, False, True, False, False),
    "profile": (lambda: Profile("/nowhere", 5, 7), None, 5, False, True, False, False),
    "short calls": (lambda: ShortCalls(30, Clock()), None, 4, True, True, False, False),
    "guard": (AbortOnNonfinite, None, NEVER, True, True, False, False),
    "skips": (lambda: trainer.AbortOnSkips(5), None, NEVER, True, True, False, False),
    "stall": (lambda: StallTimeout(5), None, NEVER, True, True, False, False),
    "signals": (lambda: trainer.SaveOnSignal(trainer.Checkpoint("/nowhere")), None, NEVER, True, True, False, False),
    "checkpoint": (lambda: trainer.every(5, trainer.Checkpoint("/x")), None, 5, False, True, True, False),
    "goodput": (lambda: trainer.every(5, Goodput("/nowhere", Clock())), None, 5, False, True, True, False),
    "log": (lambda: trainer.every(5, trainer.Log([])), 5, 5, False, True, True, False),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract_says_how_the_loop_sees_a_hook(name: str) -> None:
    make, cadence, next_due, due_at_4, due_at_5, at_last, at_end = CONTRACTS[name]
    hook = make()
    contract = Contract.of(hook)
    assert contract.call is hook
    assert contract.cadence == cadence
    assert contract.next_due(3) == next_due
    assert (contract.is_due(3, 4), contract.is_due(3, 5)) == (due_at_4, due_at_5)
    assert (contract.at_last, contract.at_end) == (at_last, at_end)


@pytest.mark.parametrize(
    "make",
    [
        Recorder,
        ReadingInName,
        lambda: Clock().timed("work", Recorder()),
        lambda: trainer.every(3, StateOnly()),
        lambda: trainer.every(3, Clock().timed("work", StateOnly())),
        lambda: trainer.at_end(Recorder()),
        lambda: trainer.every_seconds(1e-9, StateOnly()),
        DueStateOnly,
        lambda: trainer.every(3, Recorder()),
        lambda: trainer.every(3, Clock().timed("work", Recorder())),
        Due,
    ],
)
def test_hook_has_the_means_of_its_own_window_whatever_stands_beside_it(run: Any, make: Callable[[], Any]) -> None:
    reference, beside = Recorder(), Recorder()
    run(trainer.every(5, reference))
    run(make(), trainer.every(5, beside), steps_per_call=2)
    assert beside.steps == reference.steps == [5, 10]
    for (_, means), (_, expected) in zip(beside.calls, reference.calls, strict=True):
        assert means == pytest.approx(expected, rel=1e-12)


class Time:
    """A clock that goes on by a second for each step, and otherwise only where a test moves it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def graph(self, steps_per_call: int) -> Any:
        """A graph execution whose steps take a second each."""

        def execution(state: Any, step: Any, feed: Any) -> Any:
            take = trainer.graph(steps_per_call)(state, step, feed)

            def one_second_a_step(n: int) -> int:
                taken = take(n)
                self.seconds += taken
                return taken

            return one_second_a_step

        return execution


@pytest.mark.parametrize(
    ("seconds", "steps_per_call", "called"),
    [(4, 2, [4, 8, 10]), (3, 2, [4, 8, 10]), (5, 1, [5, 10]), (2, 5, [5, 10]), (99, 2, [10])],
)
def test_every_seconds_calls_after_that_time_and_at_the_last_step(
    run: Any, seconds: float, steps_per_call: int, called: list[int]
) -> None:
    now, hook = Time(), StateOnly()
    run(trainer.every_seconds(seconds, hook, now=now), execution=now.graph(steps_per_call))
    assert hook.steps == called


def test_every_seconds_counts_from_the_end_of_the_last_call(run: Any) -> None:
    now = Time()

    class Slow(StateOnly):
        def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
            super().__call__(state, metrics)
            now.seconds += 3

    hook = Slow()
    run(trainer.every_seconds(3, hook, now=now), execution=now.graph(1))
    assert hook.steps == [3, 6, 9, 10]


def test_every_seconds_is_called_where_another_hook_stops_training(run: Any) -> None:
    now, hook = Time(), StateOnly()
    run(trainer.every_seconds(99, hook, now=now), trainer.every(4, stop), execution=now.graph(1))
    assert hook.steps == [4]


@pytest.mark.parametrize("seconds", [0, -1.5])
def test_every_seconds_refuses_a_time_that_is_not_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"every_seconds\({seconds}, …\): the time must be longer than 0 seconds"):
        trainer.every_seconds(seconds, StateOnly())


@pytest.mark.parametrize("make", [Recorder, lambda: trainer.Log([]), lambda: trainer.every(5, Recorder())])
def test_every_seconds_refuses_a_hook_that_reads_the_metrics(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"every_seconds\(60, …\): the hook reads the metrics.*use every\(n, hook\)"):
        trainer.every_seconds(60, make())


@pytest.fixture(scope="module")
def trained(make_state: Any, make_feed: Any, objective: Any) -> Callable[..., Any]:
    """Trains 23 steps with dropout and ragged batches. Gives the hashes of the state and what was logged."""

    def go(*hooks: Any, steps_per_call: int = 50) -> tuple[dict[str, str], Any]:
        log, state = Reporter(), make_state()
        step = trainer.gradient_step(objective)
        hooks = (trainer.every(10, log), *hooks)
        trainer.train(state, make_feed(), step, num_steps=23, execution=trainer.graph(steps_per_call), hooks=hooks)
        return state.hashes(), log.calls

    return go


@pytest.fixture(scope="module")
def undisturbed(trained: Any) -> Any:
    return trained()


@pytest.mark.parametrize("seed", range(4))
def test_the_clock_decides_nothing_that_a_run_computes(
    trained: Any, undisturbed: Any, make_feed: Any, objective: Any, tmp_path: Any, seed: int
) -> None:
    rng = random.Random(seed)
    elapsed = [0.0]

    def now() -> float:
        elapsed[0] += rng.expovariate(1)
        return elapsed[0]

    seen = StateOnly()
    evaluate = trainer.Evaluate(make_feed(shuffle=False), objective)
    hooks = [
        trainer.every_seconds(rng.uniform(0.1, 5), hook, now=now)
        for hook in (seen, trainer.Checkpoint(tmp_path), evaluate)
    ]
    assert trained(*hooks, steps_per_call=rng.randrange(1, 5)) == undisturbed
    assert [step for step, _ in undisturbed[1]] == [10, 20, 23]
    assert seen.steps[-1] == 23
    assert len(seen.steps) > 1
