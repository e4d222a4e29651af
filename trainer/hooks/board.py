"""Hooks that show more than numbers on TensorBoard: pictures, the accuracy of each class, histograms, and a profile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from loopwright.trainer.core.hook import NEVER
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.predictions import Predictions
from loopwright.trainer.observe.tensorboard import TensorBoard, picture

#: The most classes whose accuracy is shown one by one, and how many samples a picture shows.
_CLASSES, _SAMPLES = 100, 8


class Pictures:
    """A hook that predicts a split, keeps the predictions in a file, and shows them on TensorBoard.

    It shows eight first samples and eight of the surest mistakes with their predicted and true names, the confusion matrix,
    and the accuracy of each of up to 100 classes.

    Args:
      predict: as `predictor` gives it.
      tensorboard: the writer.
      names: the names of the classes.
      keep: the path of the `.npz` file.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        predict: Callable[[], Predictions],
        tensorboard: TensorBoard,
        names: Sequence[str],
        keep: str | os.PathLike[str],
    ) -> None:
        self.predict, self.tensorboard, self.names, self.keep = predict, tensorboard, list(names), keep

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        found = self.predict()
        found.save(self.keep)
        scalars = []
        if found.num_classes <= _CLASSES:
            named = zip(self.names, found.class_accuracy(), strict=True)
            scalars = [scalar_pb(f"accuracy_of_class/{name}", share) for name, share in named]
        self.tensorboard.write("eval", found.step, *scalars, *self._pictures(found))

    def _pictures(self, found: Predictions) -> list[Any]:
        from loopwright.trainer.observe import pictures

        drawn = [picture("confusion_matrix", pictures.confusion_png(found.confusion(), self.names))]
        if found.inputs.ndim == 4 and found.inputs.shape[-1] in (1, 3):
            for tag, places in (("samples/first", found.first), ("samples/surest_mistakes", found.mistakes)):
                places = places[:_SAMPLES]
                if len(places):
                    rows = found.shown[places]
                    names = (
                        [self.names[k] for k in found.labels[rows]],
                        [self.names[k] for k in found.predicted[rows]],
                    )
                    drawn.append(picture(tag, pictures.sheet_png(found.inputs[places], *names, found.confidence[rows])))
        return drawn


class Histograms:
    """A hook that writes the distributions of the weights, and of the gradients of the batch that comes next.

    The gradients are those of training, dropout included. Every variable of the state is put back afterwards, so the hook
    changes no bit of the run.
    """

    reads_metrics = False
    at_last = True

    def __init__(self, tensorboard: TensorBoard, objective: Objective, feed: Any) -> None:
        self.tensorboard, self.objective, self.feed = tensorboard, objective, feed
        self._gradients: Callable[[Any], list[tf.Tensor]] | None = None

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._gradients is None:
            self._gradients = tf.function(self._of_batch(state), input_signature=[self.feed.element_spec])
        step, before = int(state.step), state.tensors()
        gradients = self._gradients(next(iter(self.feed(step).take(1))))
        state.assign(before)
        summaries = []
        for variable, gradient in zip(state.model.trainable_variables, gradients, strict=True):
            summaries.append(histogram_pb(f"weights/{variable.path}", np.array(variable.value)))
            summaries.append(histogram_pb(f"gradients/{variable.path}", gradient.numpy()))
        self.tensorboard.write("train", step, *summaries)

    def _of_batch(self, state: TrainState) -> Callable[[Any], list[tf.Tensor]]:
        def gradients(batch: Any) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                outputs = self.objective(state.model, batch, training=True)
                scaled = state.optimizer.scale_loss(outputs.loss)
            scale = state.optimizer.scale_loss(tf.constant(1.0))
            variables = state.model.trainable_variables
            found = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) / tf.cast(scale, gradient.dtype) for gradient in found]

        return gradients


class Profile:
    """A hook that records TensorFlow's profile of the steps from `first` up to `last`, for the plugin `xprof`.

    Each of these steps is a call of its own, so that the profile tells them apart. A run that ends between the two keeps
    what was recorded. Where a run goes on after `first`, nothing is recorded.

    Raises ValueError unless 0 < first < last.
    """

    reads_metrics = False

    def __init__(self, logdir: str | os.PathLike[str], first: int, last: int) -> None:
        if not 0 < first < last:
            raise ValueError(
                f"profile_steps={first}:{last}: the first step must be at least 1 and come before the last"
            )
        self.logdir, self.first, self.last = os.fspath(logdir), first, last
        self._running = False

    def next_due(self, step: int) -> int:
        """`first`, then each step while it records, then none."""
        if step < self.first:
            return self.first
        return step + 1 if self._running else NEVER

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Writes after the block what is still being recorded."""
        try:
            yield
        finally:
            self._stop()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if int(state.step) == self.first:
            tf.profiler.experimental.start(self.logdir)
            self._running = True
        elif int(state.step) >= self.last:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
