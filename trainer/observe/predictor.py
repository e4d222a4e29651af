"""Predicting every sample of a feed of labelled samples, in one compiled pass."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import in_trace
from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.base.retrace import watched
from loopwright.trainer.base.shapes import class_labels
from loopwright.trainer.core.evaluation import put_back
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.predictions import FIRST, MISTAKES, Predictions


def predictor(state: TrainState, feed: Feed, *, from_logits: bool) -> Callable[[], Predictions]:
    """A function that predicts all samples of a finite feed of labeled samples. Its first call compiles it.

    If the optimizer averages weights, the averages make the predictions.
    """

    def of_batch(batch: dict[str, Any]) -> tuple[Any, ...]:
        outputs = tf.cast(state.model(batch["x"], training=False), tf.float32)
        probabilities = tf.nn.softmax(outputs) if from_logits else outputs
        if outputs.shape.rank != 2:
            raise in_trace(
                ValueError(
                    f"the model gives {tuple(outputs.shape[1:])} for a sample; predictor() shows models that give a number "
                    "for each class of a sample"
                )
            )
        labels, _ = class_labels(tf.convert_to_tensor(batch["y"]), outputs.shape)
        keep = batch["mask"] if "mask" in batch else tf.ones_like(labels, tf.bool)
        inputs = tf.zeros_like(labels) if isinstance(batch["x"], dict) else batch["x"]
        index = batch["index"] if "index" in batch else tf.zeros_like(labels)
        parts = (index, labels, tf.argmax(probabilities, axis=-1), tf.reduce_max(probabilities, axis=-1), inputs)
        return tf.shape(outputs)[-1], *(tf.boolean_mask(part, keep) for part in parts)

    traced = tf.function(of_batch, input_signature=[feed.element_spec])
    call = watched(traced, "prediction")

    @functools.cache
    def changed() -> list[tf.Variable]:
        return written_variables(traced.get_concrete_function())

    def run() -> Predictions:
        found: list[list[np.ndarray]] = []
        first: dict[int, np.ndarray] = {}
        surest: list[tuple[float, int, np.ndarray]] = []
        rows = 0
        with averaged_weights(state.model, state.optimizer), put_back(changed()):
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
