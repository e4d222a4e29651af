"""One writer per folder, and the lock is released however the writer ends."""

import errno
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.lock import in_turn, only_process, only_writer

HOLDER = """
import sys, time
from loopwright.trainer.base.lock import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_second_writer_is_told_who_holds_the_folder_until_that_process_is_killed(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainingError) as error, only_writer(tmp_path):
            pass
        assert f"{tmp_path} is being written by process {holder.pid} on {socket.gethostname()}" in str(error.value)
        assert error.value.exit_code == 2
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with only_writer(tmp_path):
            pass


def test_lock_is_released_by_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError
    with only_writer(tmp_path), pytest.raises(TrainingError), only_writer(tmp_path):
        pass


def test_objects_of_one_process_share_a_lock_that_keeps_others_away(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", HOLDER.replace("only_writer", "only_process"), str(tmp_path)]
    with only_process(tmp_path):
        with only_process(tmp_path / "." / "x" / ".."):
            pass
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"TrainingError: {tmp_path} is being written by process {os.getpid()}" in refused.stderr
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=f"process {holder.pid}"), only_process(tmp_path):
            pass
        holder.kill()


def test_folder_that_cannot_be_locked_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_writer(tmp_path):
        pass
    assert f"{tmp_path} can't be locked (No locks available)" in capsys.readouterr().err


def test_turns_wait_for_each_other(tmp_path: pathlib.Path) -> None:
    code = HOLDER.replace("only_writer", "in_turn").replace("time.sleep(1000)", "sys.stdin.readline()")
    code += '    open(sys.argv[1] + "/done", "w").close()\n'
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.3, lambda: (holder.stdin.write("\n"), holder.stdin.flush())).start()
        with in_turn(tmp_path):
            assert (tmp_path / "done").exists()
