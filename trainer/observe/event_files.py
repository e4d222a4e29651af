"""TensorBoard's event files, written in the order of steps and cut where a run resumes.

An event file is a sequence of TFRecords, each of which is a serialized `Event`. TensorBoard reads every file in a folder
whose name contains `tfevents`, in the order of the names.
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
from loopwright.trainer.base.paths import local_path

_VERSION = "brain.Event:2"
_MARK = "tfevents"
_FRAME = 16  # bytes that TFRecord adds to each record: the length and two checksums


class EventFile:
    """A new event file in a folder. Its name sorts after the names of the folder's other event files.

    Args:
      folder: created if it is missing.
      start_step: the step at which the run resumes, or 0 for a new run. The file tells a running TensorBoard to forget
        everything it has read after this step.
      split: ends the name of the file, so that `split_folders` finds the folder again.
    """

    def __init__(self, folder: str | os.PathLike[str], start_step: int = 0, *, split: str | None = None) -> None:
        folder = local_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / (_next_name(folder) + _ending(split))
        with _one_line_errors(self.path):
            self._writer = tf.io.TFRecordWriter(str(self.path))
        self.write(Event(file_version=_VERSION))
        self.write(Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, event: Event) -> None:
        """Writes an event. An event without a wall time gets the present time."""
        event.wall_time = event.wall_time or time.time()
        with _one_line_errors(self.path):
            self._writer.write(event.SerializeToString())

    def add(self, step: int, summary: Summary, wall_time: float | None = None) -> None:
        """Writes a summary of a step."""
        self.write(Event(step=step, summary=summary, wall_time=wall_time or 0.0))

    def flush(self) -> None:
        """Hands all events to the operating system, which keeps them if this process is killed."""
        with _one_line_errors(self.path):
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with _one_line_errors(self.path):
            self._writer.close()


@contextlib.contextmanager
def _one_line_errors(path: pathlib.Path) -> Iterator[None]:
    """Raises a TrainingError of one line in place of TensorFlow's long error about a file."""
    try:
        yield
    except tf.errors.OpError as error:
        raise TrainingError(
            f"{path} can't be written: {reason(error)}; fix that and start the run again, and it resumes from its newest "
            "checkpoint"
        ) from error


def event_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The event files of a folder, in the order in which TensorBoard reads them."""
    return sorted(path for path in pathlib.Path(folder).glob(f"*{_MARK}*") if path.is_file())


def split_folders(logdir: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the splits that a run wrote in its `logdir`, by the names of their event files.

    Folders of other writers aren't among them, except under the names `train` and `eval`.
    """
    folders = {logdir / split for split in ("train", "eval")}
    for path in logdir.rglob(f"*{_MARK}*{_ending('*')}"):
        if path.name.endswith(_ending(path.parent.relative_to(logdir).as_posix())):
            folders.add(path.parent)
    return sorted(folders)


def _ending(split: str | None) -> str:
    """The end of the name of a split's event file."""
    return "" if split is None else f".split-{split.replace('/', '.')}"


def read_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The whole events of a file. A half-written event at the end, left by a killed writer, is skipped."""
    return map(Event.FromString, _records(pathlib.Path(path)))


def cut(folder: str | os.PathLike[str], step: int) -> None:
    """Removes the events after a step, and half-written events, from the event files of a folder.

    A changed file is first written under a name that TensorBoard doesn't read, and then renamed. A reader sees either the
    old file or the new file.
    """
    sweep(folder)
    for path in event_files(folder):
        kept = [record for record in _records(path) if Event.FromString(record).step <= step]
        if sum(len(record) + _FRAME for record in kept) != path.stat().st_size:
            _replace(path, kept)


def replace_events(path: pathlib.Path, events: Iterable[Event]) -> None:
    """Writes a whole event file at once. It replaces an older file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, [event.SerializeToString() for event in (Event(file_version=_VERSION), *events)])


def _records(path: pathlib.Path) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    except tf.errors.DataLossError:
        return


def _replace(path: pathlib.Path, records: Iterable[bytes]) -> None:
    def write(temporary: pathlib.Path) -> None:
        with _one_line_errors(path), tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in records:
                writer.write(record)

    replace_path(path, write, name=path.name.replace(_MARK, "cut"))


def _next_name(folder: pathlib.Path) -> str:
    """A name that sorts after all others, even if the clock was set back."""
    newest = max((_time_of(path.name) for path in event_files(folder)), default=0)
    return f"events.out.{_MARK}.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"


def _time_of(name: str) -> int:
    part = name.partition(f"{_MARK}.")[2].partition(".")[0]
    return int(part) if part.isdigit() else 0
