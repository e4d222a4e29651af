"""What a run shows on a terminal and elsewhere, and how it takes a signal."""

import io
import os
import pathlib
import signal
from typing import Any

import pytest
from rich.console import Console

from loopwright import trainer
from loopwright.trainer.progress import Progress
from loopwright.trainer.records import Record
from loopwright.trainer.signals import Interrupted, SaveOnSignal


@pytest.fixture
def shown(make_state: Any) -> Any:
    def go(terminal: bool) -> str:
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
        state = make_state()
        with Progress(num_steps=200, steps_per_epoch=100, console=console) as progress:
            state.step.assign(150)
            progress.write(Record(150, "train", {"accuracy": 0.5, "loss": 1.25, "examples_per_second": 1234.5}))
            progress(state, {"loss": 1.25})
            progress.write(Record(150, "eval", {"loss": 2.5, "accuracy": 0.75}))
        return text.getvalue()

    return go


def test_progress_prints_a_line_a_record_where_there_is_no_terminal(shown: Any) -> None:
    assert shown(False).splitlines() == [
        "step 150  train  loss 1.2500  accuracy 0.5000  1,234/s",
        "step 150  eval   loss 2.5000  accuracy 0.7500",
    ]


def test_progress_moves_a_bar_on_a_terminal(shown: Any) -> None:
    text = shown(True)
    assert "150/200" in text
    assert "epoch 2" in text
    assert "loss 1.2500" in text
    assert "step 150  eval   loss 2.5000  accuracy 0.7500" in text
    assert "step 150  train" not in text


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_stops_after_the_call(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path, signum: int, code: int
) -> None:
    state, checkpoint = make_state(), trainer.Checkpoint(tmp_path)
    former = signal.getsignal(signum)

    def kill(state: trainer.TrainState, metrics: Any) -> None:
        os.kill(os.getpid(), signum)

    with SaveOnSignal(checkpoint) as save_on_signal, pytest.raises(Interrupted, match="at step 5") as stopped:
        hooks = [trainer.every(5, kill), save_on_signal]
        step = trainer.gradient_step(objective)
        trainer.train(state, make_feed(), step, num_steps=20, execution=trainer.graph(2), hooks=hooks)
    assert stopped.value.exit_code == code
    assert signal.getsignal(signum) == former
    fresh = make_state()
    assert checkpoint.restore(fresh) == 5
    assert fresh.hashes() == state.hashes()


def test_no_signal_changes_nothing(make_state: Any, tmp_path: pathlib.Path) -> None:
    with SaveOnSignal(trainer.Checkpoint(tmp_path)) as save_on_signal:
        save_on_signal(make_state(), {})
    assert not list(tmp_path.iterdir())
