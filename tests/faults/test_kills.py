"""SIGKILL at random and at chosen moments, and at last a run that equals one that was never interrupted."""

import os
import pathlib
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from loopwright.trainer.compare import kill_and_compare

FAULTS = os.environ.get("FAULTS", "quick")
KILLS = {"quick": 2, "full": 40, "long": 200}[FAULTS]
STEPS = {"quick": 60, "full": 400, "long": 400}[FAULTS]


def test_kill_at_random_moments(
    start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    rng, done, in_save, number = random.Random(1), 0, 0, 0
    # Of two kills one alone is aimed at a save, and may come too late for it: then there are more.
    while done < KILLS or (FAULTS == "quick" and not in_save and number < 10):
        number += 1
        workdir, newest = tmp_path / f"run-{number}", 0
        per_run = max(2, min(KILLS - done, 10))
        for kill in kill_and_compare.random_kills(per_run, STEPS - 10, rng):
            trainer = start(workdir, f"--train_steps={STEPS}")
            if trainer.until_step(kill.step) and (not kill.in_save or trainer.until(trainer.saving)):
                time.sleep(kill.delay / 2)
            trainer.send(signal.SIGKILL)
            if trainer.wait() != -signal.SIGKILL:
                break
            done += 1
            in_save += trainer.saving()
            newest = assert_whole(workdir, at_least=newest)
        goes_on(workdir, STEPS)
    assert in_save >= 0.3 * KILLS
    survived(f"kill -9 at a random moment ({in_save} of them inside a save)", done)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deletion"] if FAULTS == "quick" else ["deletion", "asynchronous save", "evaluation"])
def test_kill_in(start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any, kind: str) -> None:
    words = {"deletion": ["--keep=1"], "asynchronous save": ["--async_checkpoints"], "evaluation": []}[kind]
    like = ["--eval_every=10"] if kind == "evaluation" else []
    moments: dict[str, Callable[[Any, pathlib.Path], Any]] = {
        "deletion": lambda trainer, workdir: any((workdir / "checkpoints").glob(".tmp-*-deleted-*")),
        "asynchronous save": lambda trainer, workdir: trainer.saving(),
        "evaluation": lambda trainer, workdir: (
            (workdir / "metrics.jsonl").is_file() and kill_and_compare.last_logged_step(workdir) == 20
        ),
    }
    for number in range(10):  # Who looks now and then may look too late, on a fast disk above all.
        workdir = tmp_path / f"run-{number}"
        trainer = start(workdir, *words, *like)
        assert trainer.until_step(12)
        if trainer.until(lambda trainer=trainer, workdir=workdir: moments[kind](trainer, workdir)):
            break
    trainer.send(signal.SIGKILL)
    assert trainer.wait() == -signal.SIGKILL
    assert assert_whole(workdir) >= 5
    goes_on(workdir, 60, *words, like=like)
    survived(f"kill -9 in {kind}")
