"""Hooks that show more than numbers on TensorBoard: predictions, written texts, histograms, and a profile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram.summary_v2 import histogram_pb

from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import NEVER
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe import prediction_files
from loopwright.trainer.observe.generation import writer
from loopwright.trainer.observe.tensorboard import TensorBoard
from loopwright.trainer.observe.text_predictions import TextPredictions

#: How many texts a language model writes, the most tokens of their prompts, and the tokens that it adds.
_TEXTS, _PROMPT, _WRITTEN = 2, 64, 200
TEMPERATURE = 0.8


class Pictures:
    """A hook that predicts a split, keeps the predictions in a file, and shows them on TensorBoard.

    What it shows goes by the kind of the predictions. For classes these are eight first samples and eight of the surest
    mistakes with their predicted and true names, the confusion matrix, and the scores of each of up to 100 classes.

    Args:
      predict: as `predictor` gives it, or `gatherer`.
      tensorboard: the writer.
      names: the names of the classes or labels; for `gatherer`, those of each head by its name.
      keep: the path of the `.npz` file.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        predict: Callable[[], Any],
        tensorboard: TensorBoard,
        names: Sequence[str] | Mapping[str, Sequence[str]],
        keep: str | os.PathLike[str],
    ) -> None:
        self.predict, self.tensorboard, self.keep = predict, tensorboard, keep
        self.names = names if isinstance(names, Mapping) else {"": names}

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        from loopwright.trainer.observe.predictions_on_board import summaries

        found = self.predict()
        heads = found if isinstance(found, Mapping) else {"": found}
        prediction_files.save(self.keep, heads)
        shown = [one for head, part in heads.items() for one in summaries(part, self.names[head], head)]
        self.tensorboard.write("eval", int(state.step), *shown)


class Written:
    """A hook that shows on TensorBoard, and keeps in a file, what a language model writes after the beginnings of samples.

    Tokens are drawn with a fixed seed and a temperature of 0.8, so that texts of several steps differ by the weights alone.

    Args:
      feed: a finite feed of token ids `[B, T]`, whose first samples begin with the prompts.
      keep: the path of the `.npz` file.
      text: makes a text of token ids.
      options: `activated`, `never` and `end` of `generation.writer`.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        state: TrainState,
        feed: Feed,
        tensorboard: TensorBoard,
        keep: str | os.PathLike[str],
        *,
        text: Callable[[Any], str],
        **options: Any,
    ) -> None:
        self.feed, self.tensorboard, self.keep, self.text = feed, tensorboard, keep, text
        self.context = feed.element_spec["x"].shape[1]
        self.write = writer(state, self.context, temperature=TEMPERATURE, **options)

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        from loopwright.trainer.observe.predictions_on_board import summaries

        batch = next(iter(self.feed().take(1)))
        prompts = batch["x"].numpy()[:_TEXTS, : min(_PROMPT, (self.context + 1) // 2)]
        index = batch["index"].numpy()[:_TEXTS] if "index" in batch else np.arange(len(prompts))
        written = self.write(prompts.tolist(), _WRITTEN)
        found = TextPredictions(
            index,
            prompts=np.array([self.text(ids) for ids in prompts], np.str_),
            continuations=np.array([self.text(ids) for ids in written], np.str_),
            temperature=TEMPERATURE,
            step=int(state.step),
        )
        prediction_files.save(self.keep, {"": found})
        self.tensorboard.write("eval", found.step, *summaries(found, ()))


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
        self._trained: list[str] = []

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        trained = [variable.path for variable in state.model.trainable_variables]
        if self._gradients is None or trained != self._trained:  # a layer may be unfrozen on the way
            self._gradients = tf.function(self._of_batch(state), input_signature=[self.feed.element_spec])
            self._trained = trained
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
