"""Evaluation: exact means over a finite feed, in one compiled call."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.execution import accumulator
from loopwright.trainer.objective import Objective
from loopwright.trainer.optimizers import averaged_weights
from loopwright.trainer.predictions import FIRST, MISTAKES, Predictions
from loopwright.trainer.records import Record, Writer
from loopwright.trainer.retrace import watched
from loopwright.trainer.state import TrainState


def evaluate(state: TrainState, feed: Any, objective: Objective) -> dict[str, float]:
    """The mean of each of the objective's metrics over every sample of the feed, ragged last batch included."""
    return evaluator(state, feed, objective)()


def evaluator(state: TrainState, feed: Any, objective: Objective) -> Callable[[], dict[str, float]]:
    """`evaluate` to be called again and again: compiled once.

    Where the optimizer keeps an average of the weights, that is what's evaluated. The state of Keras metrics is put back
    after it: they belong to the training window.
    """
    names, accumulate = accumulator(
        lambda batch: objective(state.model, batch, training=False).metrics, feed.element_spec
    )

    @tf.function
    def call(iterator: Any, n: tf.Tensor) -> tf.Tensor:
        return accumulate(iterator, tf.zeros([len(names), 2], tf.float64), n)[0]

    watched_call = watched(call, "evaluation")

    def run() -> dict[str, float]:
        window = [(variable, tf.identity(variable)) for metric in state.metrics for variable in metric.variables]
        for metric in state.metrics:
            metric.reset_state()
        with averaged_weights(state.model, state.optimizer):
            sums = watched_call(iter(feed()), tf.constant(feed.steps_per_epoch, tf.int64)).numpy()
        means = {name: float(total / weight) for name, (total, weight) in zip(names, sums, strict=True)}
        means |= {name: float(value) for name, value in state.metric_results().items()}
        for variable, value in window:
            variable.assign(value)
        return means

    return run


def predictor(state: TrainState, feed: Any, *, from_logits: bool) -> Callable[[], Predictions]:
    """A function that predicts every sample of a finite feed of labelled samples, compiled once.

    Where the optimizer keeps an average of the weights, that is what predicts.
    """

    def of_batch(batch: dict[str, Any]) -> tuple[Any, ...]:
        outputs = tf.cast(state.model(batch["x"], training=False), tf.float32)
        probabilities = tf.nn.softmax(outputs) if from_logits else outputs
        keep = batch["mask"] if "mask" in batch else tf.ones_like(batch["y"], tf.bool)
        inputs = tf.zeros_like(batch["y"]) if isinstance(batch["x"], dict) else batch["x"]
        index = batch["index"] if "index" in batch else tf.zeros_like(batch["y"])
        parts = (index, batch["y"], tf.argmax(probabilities, axis=-1), tf.reduce_max(probabilities, axis=-1), inputs)
        return tf.shape(outputs)[-1], *(tf.boolean_mask(part, keep) for part in parts)

    call = watched(tf.function(of_batch, input_signature=[feed.element_spec]), "prediction")

    def run() -> Predictions:
        found: list[list[np.ndarray]] = []
        first: dict[int, np.ndarray] = {}
        surest: list[tuple[float, int, np.ndarray]] = []
        rows = 0
        with averaged_weights(state.model, state.optimizer):
            for batch in feed():
                classes, *columns, inputs = (part.numpy() for part in call(batch))
                _, labels, predicted, confidence = columns
                first |= {rows + place: inputs[place] for place in range(min(len(labels), FIRST - rows))}
                wrong = np.flatnonzero(labels != predicted)
                surest += [(float(confidence[place]), rows + place, inputs[place]) for place in wrong.tolist()]
                surest = heapq.nlargest(MISTAKES, surest, key=lambda mistake: (mistake[0], -mistake[1]))
                found.append(columns)
                rows += len(labels)
        kept = dict(sorted((first | {row: pixels for _, row, pixels in surest}).items()))
        index, labels, predicted, confidence = (np.concatenate(column) for column in zip(*found, strict=True))
        return Predictions(
            index if "index" in feed.element_spec else np.arange(rows),
            labels,
            predicted,
            confidence,
            shown=np.array(list(kept), np.int64),
            inputs=np.stack(list(kept.values())),
            num_classes=int(classes),
            step=int(state.step),
        )

    return run


class Evaluate:
    """A hook that evaluates, and gives the record to writers.

    `last` holds the metrics of the newest evaluation, for whoever monitors them.
    """

    reads_metrics = False

    def __init__(
        self, feed: Any, objective: Objective, writers: Sequence[Writer] = (), *, steps_per_epoch: int | None = None
    ) -> None:
        self.feed, self.objective, self.writers = feed, objective, tuple(writers)
        self.steps_per_epoch = steps_per_epoch
        self.last: dict[str, float] = {}
        self._run: Callable[[], dict[str, float]] | None = None

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = evaluator(state, self.feed, self.objective)
        self.last = self._run()
        record = Record(int(state.step), "eval", self.last, steps_per_epoch=self.steps_per_epoch)
        for write in self.writers:
            write(record)
