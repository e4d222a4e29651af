"""One job runs at a time, and no error of a job is lost."""

import os
import sys
import threading

import pytest

from loopwright.trainer.base.background import Background


def fail() -> None:
    raise OSError("disk on fire")


def test_jobs_run_one_after_the_other_in_another_thread() -> None:
    background, done, gate = Background(), [], threading.Event()

    def first() -> None:
        gate.wait()
        done.append(threading.current_thread().name)

    background.start(first)
    background.check()  # doesn't wait
    assert not done
    gate.set()
    background.start(lambda: done.append("second"))
    background.join()
    assert done == ["checkpoint writer", "second"]


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own")
def test_job_lets_training_go_first() -> None:
    background, own, found = Background(), os.nice(0), []
    background.start(lambda: found.append(os.nice(0)))
    background.join()
    assert found == [min(19, own + 10)]
    assert os.nice(0) == own


def test_failure_is_raised_once_by_whoever_asks_next() -> None:
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="disk on fire"):
        background.start(lambda: None)
    background.join()
    background.start(fail)
    with pytest.raises(OSError, match="disk on fire"):
        while True:
            background.check()
    background.join()
