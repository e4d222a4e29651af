"""One writer a folder: a lock that the kernel releases when its process dies, however it dies. Imports no TensorFlow."""

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
    """Holds `folder/lock` (`flock`) inside the block. The file stays: whether it's locked is what counts.

    Raises TrainingError (exit 2) with the pid and host of the process that holds it.
    """
    path = pathlib.Path(folder) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise TrainingError(
                f"--workdir={folder} is being written by {holder}; wait for it, stop it, or choose another --workdir",
                exit_code=2,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def in_turn(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process is in such a block for the folder, by `flock` of the folder itself.

    Where a file system has no locks of folders (NFS), nobody waits.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
