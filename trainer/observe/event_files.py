"""TensorBoard's event files: written in order of steps, and cut where a run goes on.

An event file is a sequence of TFRecords, each a serialised `Event`. TensorBoard reads every file of a folder whose name
holds `tfevents`, in the order of their names.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from loopwright.trainer.base.atomic import replace_path, sweep
from loopwright.trainer.base.errors import TrainingError, reason

_VERSION = "brain.Event:2"
_MARK = "tfevents"
_FRAME = 16  # bytes that TFRecord adds to a record: its length and two checksums


class EventFile:
    """One new event file in a folder; its name sorts behind those that are there.

    Args:
      folder: made where it isn't there.
      start_step: the step at which the run goes on, 0 for a new one. A TensorBoard that is watching is told to forget what
        it has read past it.
    """

    def __init__(self, folder: str | os.PathLike[str], start_step: int = 0) -> None:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / _next_name(folder)
        with _told(self.path):
            self._writer = tf.io.TFRecordWriter(str(self.path))
        self.write(Event(file_version=_VERSION))
        self.write(Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, event: Event) -> None:
        """Writes an event; its wall time is now, unless it has one."""
        event.wall_time = event.wall_time or time.time()
        with _told(self.path):
            self._writer.write(event.SerializeToString())

    def add(self, step: int, summary: Summary, wall_time: float | None = None) -> None:
        """Writes a summary at a step."""
        self.write(Event(step=step, summary=summary, wall_time=wall_time or 0.0))

    def flush(self) -> None:
        """Hands everything to the operating system, which keeps it when this process is killed."""
        with _told(self.path):
            self._writer.flush()


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """TensorFlow's error about a file, which is long and no OSError, in a line."""
    try:
        yield
    except tf.errors.OpError as error:
        raise TrainingError(
            f"{path} can't be written: {reason(error)}; put that right, and the same command goes on from the newest "
            "checkpoint"
        ) from error


def event_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The event files of a folder, in the order in which TensorBoard reads them."""
    return sorted(path for path in pathlib.Path(folder).glob(f"*{_MARK}*") if path.is_file())


def read_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The whole events of a file; what a killed writer left half-written at its end is passed over."""
    return map(Event.FromString, _records(pathlib.Path(path)))


def cut(folder: str | os.PathLike[str], step: int) -> None:
    """Takes the events past a step out of a folder's files, and half-written ones.

    A file that changes is written anew under a name that TensorBoard doesn't read, then renamed: a reader sees the old
    file or the new one.
    """
    sweep(folder)
    for path in event_files(folder):
        kept = [record for record in _records(path) if Event.FromString(record).step <= step]
        if sum(len(record) + _FRAME for record in kept) != path.stat().st_size:
            _replace(path, kept)


def replace_events(path: pathlib.Path, events: Iterable[Event]) -> None:
    """Writes a whole event file at once, in the place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, [event.SerializeToString() for event in (Event(file_version=_VERSION), *events)])


def _records(path: pathlib.Path) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    except tf.errors.DataLossError:
        return


def _replace(path: pathlib.Path, records: Iterable[bytes]) -> None:
    def write(temporary: pathlib.Path) -> None:
        with _told(path), tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in records:
                writer.write(record)

    replace_path(path, write, name=path.name.replace(_MARK, "cut"))


def _next_name(folder: pathlib.Path) -> str:
    """A name behind all others, though the clock may have been set back."""
    newest = max((_time_of(path.name) for path in event_files(folder)), default=0)
    return f"events.out.{_MARK}.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"


def _time_of(name: str) -> int:
    part = name.partition(f"{_MARK}.")[2].partition(".")[0]
    return int(part) if part.isdigit() else 0
