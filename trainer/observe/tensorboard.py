"""What a run writes for TensorBoard: scalars, pictures, histograms, flags and hyperparameters, the graph.

`train` and `eval` are two runs that record the same names, so that they share a chart. Flags, hyperparameters and the
graph belong to no step. They lie in the folder above the two, in one file that is written again at each start.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util import tensor_util

from loopwright.trainer.base.paths import local_path
from loopwright.trainer.observe.event_files import EventFile, cut, replace_events, split_folders
from loopwright.trainer.observe.records import Record

_ABOUT = "events.out.tfevents.0000000000.about"


class TensorBoard:
    """A writer of records, and of what else TensorBoard shows, under `logdir`.

    A hook that writes here opens it with the state's step first. Then every step is there once, and no step is there that
    the run takes back. What is written is in the hands of the operating system when the call returns.
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        self.logdir = local_path(logdir)
        self._start = 0
        self._files: dict[str, EventFile] = {}
        self._about: list[Event] = []

    @contextlib.contextmanager
    def open(self, step: int) -> Iterator[None]:
        """Cuts the events past a step, which a run that goes on from there writes again, and closes the files at the end."""
        self._close()
        self._start = step
        for folder in split_folders(self.logdir):
            cut(folder, step)
        try:
            yield
        finally:
            self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __call__(self, record: Record) -> None:
        self.write(record.split, record.step, _scalars(record.values), wall_time=record.wall_time)

    def write(self, split: str, step: int, *summaries: Summary, wall_time: float | None = None) -> None:
        """Writes summaries at a step."""
        if split not in self._files:
            self._files[split] = EventFile(self.logdir / split, self._start, split=split)
        merged = Summary(value=[value for summary in summaries for value in summary.value])
        self._files[split].add(step, merged, wall_time)
        self._files[split].flush()

    def goodput(self, step: int, summary: Mapping[str, Any]) -> None:
        """Writes the share of each phase in the seconds of a run, as `Goodput` gives them."""
        self.write("train", step, _scalars({f"goodput/{name}": share for name, share in summary["share"].items()}))

    def describe(self, name: str, values: Mapping[str, Any], texts: Mapping[str, str], graph: Any = None) -> None:
        """Writes what belongs to no step, and replaces what was written before.

        Args:
          name: the name of the run in the table of hyperparameters.
          values: hyperparameters by name. Those without a value are left out. TensorBoard shows a folder of runs as a table
            of them.
          texts: Markdown by title.
          graph: a GraphDef.
        """
        known = {name: value for name, value in values.items() if value not in (None, "")}
        summaries = [hparams.hparams_pb(known, trial_id=name), *(text_pb(title, text) for title, text in texts.items())]
        now = time.time()
        self._about = [Event(summary=summary, wall_time=now) for summary in summaries]
        if graph is not None:
            self._about.append(Event(graph_def=graph.SerializeToString(), wall_time=now))
        replace_events(self.logdir / _ABOUT, self._about)

    def finish(self) -> None:
        """Marks the run as finished in the table of hyperparameters, if `describe` has put it there."""
        if not self._about:
            return
        # Made of TensorFlow's class of summaries, not of TensorBoard's.
        end = Summary.FromString(hparams_summary.session_end_pb(STATUS_SUCCESS).SerializeToString())
        replace_events(self.logdir / _ABOUT, [*self._about, Event(summary=end, wall_time=time.time())])


def _scalars(values: Mapping[str, float]) -> Summary:
    """What TensorBoard's `scalar_pb` makes of each value, in a sixth of its time. Every logged step waits for it."""
    metadata = scalar_metadata.create_summary_metadata(display_name=None, description="")
    summary = Summary()
    for name, value in values.items():
        tensor = TensorProto(dtype=DT_FLOAT, tensor_shape={}, float_val=[value])
        summary.value.add(tag=name, metadata=metadata, tensor=tensor)
    return summary


def picture(tag: str, png: bytes) -> Summary:
    """A PNG as an image summary."""
    metadata = create_summary_metadata(None, None, converted_to_tensor=True)
    width, height = struct.unpack(">II", png[16:24])  # of the header chunk, which always comes first
    parts = np.array([str(width).encode(), str(height).encode(), png], object)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(parts))])


def model_graph(model: keras.Model, inputs: Any) -> Any:
    """The GraphDef of a prediction, with the operations under the names of their layers. The model isn't changed.

    Args:
      inputs: the TensorSpec of a batch's `x`, or several of them by name.
    """
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(inputs)
    return traced.graph.as_graph_def()
