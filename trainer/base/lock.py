"""One writer per folder, by a lock that the kernel releases when the process dies for any reason. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import threading
from collections.abc import Iterator

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.say import say

LOCK = "lock"
#: What a file system says that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
#: How often this process is in `only_process`, by process id and folder, and what ends its lock.
_held: dict[tuple[int, str], tuple[int, contextlib.ExitStack]] = {}
_mutex = threading.RLock()


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Locks `folder/lock` by `flock` inside the block. The file stays afterwards; only the lock on it counts.

    On a file system without locks, a line says that nothing keeps another process away.

    Raises TrainingError (exit code 2) if another process holds the lock, or this one. The message has its process id and
    host.
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
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(f"{folder} can't be locked ({error.strerror}); see to it that no other process writes there")
        holder_line = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
        if os.pread(descriptor, 200, 0) != holder_line:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder_line, 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_process(folder: str | os.PathLike[str]) -> Iterator[None]:
    """`only_writer` for a folder that several objects of this process write. The last one to leave releases the lock."""
    key = os.getpid(), os.path.realpath(folder)
    with _mutex:
        if key not in _held:
            stack = contextlib.ExitStack()
            stack.enter_context(only_writer(folder))
            _held[key] = 0, stack
        count, stack = _held[key]
        _held[key] = count + 1, stack
    try:
        yield
    finally:
        with _mutex:
            count, stack = _held.pop(key)
            if count > 1:
                _held[key] = count - 1, stack
            else:
                stack.close()


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
