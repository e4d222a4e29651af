"""SIGTERM at every kind of moment, a second one, SIGSTOP, and a run that stands still."""

import os
import pathlib
import signal
from typing import Any

import pytest

from loopwright.trainer.compare import kill_and_compare

FULL = os.environ.get("FAULTS", "quick") != "quick"


@pytest.mark.parametrize("kind", ["step", "evaluation", "asynchronous save"] if FULL else ["evaluation"])
def test_sigterm_saves_and_the_run_goes_on(
    start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any, kind: str
) -> None:
    workdir = tmp_path / "run"
    like = ["--eval_every=10"] if kind == "evaluation" else []
    words = ["--async_checkpoints"] if kind == "asynchronous save" else ["--grace_seconds=20"]
    trainer = start(workdir, *words, *like)
    assert trainer.until_step(20 if kind == "evaluation" else 11), trainer.said()
    if kind == "asynchronous save":
        assert trainer.until(trainer.saving)
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == 143
    step = assert_whole(workdir, at_least=11)
    assert trainer.said().splitlines()[-1] == f"loopwright: stopped by SIGTERM at step {step}, which is saved"
    assert step == kill_and_compare.last_logged_step(workdir) < 60
    goes_on(workdir, 60, *words, like=like)
    survived(f"SIGTERM in a{'n' if kind[0] in 'ae' else ''} {kind}")


@pytest.mark.slow
def test_second_sigterm_ends_at_once_and_loses_nothing_committed(
    start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    workdir = tmp_path / "run"
    # One call of the execution that takes for ever: a Python handler would never run.
    for words in (
        ["--train_steps=20"],
        ["--train_steps=10000000", "--log_every=10000000", "--checkpoint_every=10000000"],
    ):
        trainer = start(workdir, *words, "--eval_every=10000000", "--steps_per_call=10000000")
        if len(words) == 1:
            assert trainer.wait() == 0, trainer.said()
    assert trainer.until_step(21), trainer.said()
    trainer.send(signal.SIGTERM)
    here = kill_and_compare.last_logged_step(workdir)
    assert trainer.until_step(here + 20)  # The first one waits for the call.
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == 143
    assert "stopped at once by a second SIGTERM" in trainer.said()
    assert assert_whole(workdir) == 20
    survived("second SIGTERM")


@pytest.mark.slow
def test_stopped_worker_keeps_its_folder_and_goes_on(
    start: Any, goes_on: Any, tmp_path: pathlib.Path, survived: Any, host: str
) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir)
    assert trainer.until_step(7)
    trainer.send(signal.SIGSTOP)
    second = start(workdir)
    assert second.wait() == 2
    assert f"is being written by process {trainer.pid} on {host}" in second.said()
    trainer.send(signal.SIGCONT)
    assert trainer.wait() == 0
    goes_on(workdir)
    survived("worker stopped with SIGSTOP")
    survived("two writers")


def test_run_that_stands_still_dumps_its_stacks_and_fails(
    start: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir, "--augment=tiny:hang", "--stall_timeout=6")
    assert trainer.wait() == 1
    said = trainer.said()
    assert "Timeout (0:00:06)!" in said
    assert "in train" in said  # the stacks of all threads
    assert_whole(workdir)
    survived("no step finishes")
