"""One writer per folder, by a lock that the kernel releases when the process dies for any reason. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from loopwright.trainer.base.errors import TrainingError

LOCK = "lock"


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Locks `folder/lock` by `flock` inside the block. The file stays afterwards; only the lock on it counts.

    Raises TrainingError (exit code 2) if another process holds the lock. The message has its process id and host.
    """
    path = pathlib.Path(folder) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise TrainingError(
                f"{folder} is being written by {holder}; wait for that process, stop it, or choose another folder",
                exit_code=2,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def in_turn(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lets one process at a time into such a block for a folder. The others wait for a `flock` on the folder itself.

    On a file system that can't lock folders (NFS), no process waits.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
