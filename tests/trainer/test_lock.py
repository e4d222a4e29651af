"""One writer a folder, whatever becomes of it."""

import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.lock import only_writer

HOLDER = """
import sys, time
from loopwright.trainer.lock import only_writer
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
        assert f"process {holder.pid} on {socket.gethostname()}" in str(error.value)
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
