"""What a run shows on a terminal and elsewhere, and what it does when a signal comes."""

import io
import os
import pathlib
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import tensorflow as tf
from rich.console import Console

from loopwright import trainer
from loopwright.trainer.hooks.signals import Interrupted, SaveOnSignal
from loopwright.trainer.observe.progress import Progress
from loopwright.trainer.observe.records import Record

VALUES = {"accuracy": 0.5, "loss": 1.25, "learning_rate": 0.001, "examples_per_second": 1234.5}


def show(progress: Progress, state: Any) -> None:
    """A run of 200 steps, of which 150 are done. It writes records of training and evaluation, and draws the view."""
    state.step.assign(150)
    with progress.open(state):
        progress.write(Record(100, "eval", {"loss": 1.5, "accuracy": 0.875}))
        progress.write(Record(150, "train", VALUES))
        progress(state, {"loss": tf.constant(1.25), "accuracy": tf.constant(0.5)})
        progress.write(Record(150, "eval", {"loss": 2.5, "accuracy": 0.75, "a_metric_with_a_long_name": 0.25}))
        with progress.clock.phase("checkpoint"):
            progress._live.refresh()


@pytest.fixture
def shown(make_state: Any) -> Any:
    def go(*, terminal: bool, mode: str = "auto", width: int = 120) -> str:
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=width, color_system=None)
        progress = Progress(num_steps=200, steps_per_epoch=100, monitor="accuracy", mode=mode, console=console)
        show(progress, make_state())
        return text.getvalue()

    return go


@pytest.mark.parametrize(("terminal", "mode"), [(False, "auto"), (False, "plain"), (True, "plain")])
def test_progress_prints_a_line_for_each_record_where_nothing_moves(shown: Any, terminal: bool, mode: str) -> None:
    assert shown(terminal=terminal, mode=mode).splitlines() == [
        "step 100  eval   loss 1.5000  accuracy 0.8750",
        "step 150  train  loss 1.2500  accuracy 0.5000  lr 0.001  1,234/s",
        "step 150  eval   loss 2.5000  a_metric_with_a_long_name 0.2500  accuracy 0.7500",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_none_says_nothing(shown: Any, terminal: bool) -> None:
    assert shown(terminal=terminal, mode="none") == ""


def test_progress_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode='loud'"):
        Progress(num_steps=1, steps_per_epoch=1, mode="loud")


def test_progress_refuses_a_monitor_without_a_direction() -> None:
    with pytest.raises(ValueError, match=r"monitor=edits: .*write edits:min or edits:max"):
        Progress(monitor="edits")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_progress_view_has_no_line_wider_than_the_terminal(shown: Any, width: int) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(terminal=True, width=width))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    assert max(map(len, lines)) <= width
    assert any("150/200" in line for line in lines) or width == 40


def test_progress_view_shows_epoch_numbers_best_and_what_is_going_on(shown: Any) -> None:
    text = shown(terminal=True)
    assert "epoch 2/2" in text
    assert "150/200" in text
    assert "1,234/s" in text
    assert "checkpoint …" in text
    assert "train  loss 1.2500  accuracy 0.5000" in text
    assert "best accuracy 0.8750 at step 100" in text
    assert "step 150  eval   loss 2.5000" in text
    assert "step 150  train" not in text


def test_progress_view_does_not_ask_for_numbers_at_every_call(make_state: Any) -> None:
    seconds, asked = [0.0], []

    class Means(Mapping[str, float]):
        def __getitem__(self, name: str) -> float:
            asked.append(seconds[0])
            return 1.0

        def __iter__(self) -> Iterator[str]:
            return iter(["loss"])

        def __len__(self) -> int:
            return 1

    console = Console(file=io.StringIO(), force_terminal=True)
    progress = Progress(num_steps=9, steps_per_epoch=9, console=console, now=lambda: 10 + seconds[0])
    for seconds[0] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6):
        progress(make_state(), Means())
    assert sorted(set(asked)) == [0.0, 0.3, 0.6]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_stops_after_the_call(
    make_state: Any,
    make_feed: Any,
    objective: Any,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    signum: int,
    code: int,
) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    former = signal.getsignal(signum)

    def kill(state: trainer.TrainState, metrics: Any) -> None:
        os.kill(os.getpid(), signum)

    step = trainer.gradient_step(objective)
    with pytest.raises(Interrupted, match="at step 5") as stopped:
        hooks = [trainer.every(5, kill), SaveOnSignal(checkpoint)]
        trainer.train(state, make_feed(), step, num_steps=20, execution=trainer.graph(2), hooks=hooks)
    assert isinstance(stopped.value, SystemExit)
    assert stopped.value.code == code
    name = signal.Signals(signum).name
    assert capsys.readouterr().err == f"loopwright: stopped by {name} at step 5, which is saved\n"
    assert signal.getsignal(signum) == former
    fresh = make_state()
    assert checkpoint.restore(fresh) == 5
    assert fresh.hashes() == state.hashes()


def test_no_signal_changes_nothing(make_state: Any, tmp_path: pathlib.Path) -> None:
    state, save_on_signal = make_state(), SaveOnSignal(trainer.Checkpoint(tmp_path))
    with save_on_signal.open(state):
        save_on_signal(state, {})
    assert not list(tmp_path.iterdir())


def test_run_in_another_thread_says_that_signals_do_not_save(
    make_state: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, former = make_state(), signal.getsignal(signal.SIGTERM)
    handlers: list[Any] = []

    def train() -> None:
        with SaveOnSignal(trainer.Checkpoint(tmp_path)).open(state):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert handlers == [former]
    assert "SIGTERM and SIGINT don't save this run" in capsys.readouterr().err


def test_signal_after_the_last_call_ends_the_run_all_the_same(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    state.step.assign(7)
    checkpoint = trainer.Checkpoint(tmp_path)
    save_on_signal = SaveOnSignal(checkpoint)
    with (
        pytest.raises(Interrupted, match="SIGTERM at step 7, which is saved") as stopped,
        save_on_signal.open(state),
    ):
        checkpoint(state, {})
        save_on_signal(state, {})
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143


def test_signal_after_the_last_call_does_not_call_saved_what_is_not(make_state: Any, tmp_path: pathlib.Path) -> None:
    state = make_state()
    state.model.variables[0].assign(tf.fill(state.model.variables[0].shape, float("nan")))
    checkpoint = trainer.Checkpoint(tmp_path)
    checkpoint.say = lambda line: None
    hook = SaveOnSignal(checkpoint)
    with pytest.raises(Interrupted, match="at step 0, which is not saved"), hook.open(state):
        hook(state, {})
        checkpoint(state, {})
        os.kill(os.getpid(), signal.SIGTERM)


def test_best_value_is_remembered_by_a_run_that_goes_on(make_state: Any) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    rows = [{"step": 50, "split": "eval", "accuracy": 0.9}, {"step": 60, "split": "train", "accuracy": 1.0}]
    progress = Progress(
        num_steps=200, steps_per_epoch=100, monitor="accuracy:max", console=console, records=lambda: rows
    )
    state = make_state()
    state.step.assign(100)
    with progress.open(state):
        progress.write(Record(150, "eval", {"loss": 2.5, "accuracy": 0.75}))
        assert progress._bar.tasks[0].completed == 100
    assert progress._best_text == "best accuracy 0.9000 at step 50"


def test_nan_is_never_the_best() -> None:
    progress = Progress(num_steps=10, steps_per_epoch=10, monitor="loss", mode="none")
    for step, loss in enumerate((float("nan"), 0.5, float("nan"), 0.75), 1):
        progress.write(Record(step, "eval", {"loss": loss}))
    assert progress._best_text == "best loss 0.5000 at step 2"
