"""A new process that loads exports as they will be loaded later: without anything that this process knows."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `python -m module arguments` beside the block, with the threads of this process. An error in the block ends it.

    The same number of threads gives the same bits. GPU memory grows, because two processes share it.
    """
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    if threads:
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def failure(process: subprocess.Popen[str]) -> str | None:
    """Waits for the end of a process. The last line that it said on stderr if it failed, and None if it didn't."""
    _, said = process.communicate()
    if not process.returncode:
        return None
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {process.returncode}"
