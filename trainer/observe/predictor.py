"""Predicting every sample of a feed of labelled samples, in one compiled pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.graph_writes import written_variables
from loopwright.trainer.base.retrace import watched
from loopwright.trainer.base.shapes import without_padding
from loopwright.trainer.core.evaluation import put_back
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.observe.predictions import Predictions
from loopwright.trainer.observe.views import ClassView, View


def predictor(state: TrainState, feed: Feed, *, from_logits: bool) -> Callable[[], Predictions]:
    """A function that predicts all samples of a finite feed of labeled samples. Its first call compiles it.

    If the optimizer averages weights, the averages make the predictions.
    """
    run = gatherer(state, feed, {"": ClassView(activated=not from_logits)})
    return lambda: run()[""]


def gatherer(state: TrainState, feed: Feed, views: Mapping[str, View]) -> Callable[[], dict[str, Any]]:
    """A function that passes once over a finite feed of labeled samples, and returns what each view has gathered.

    If the optimizer averages weights, the averages make the predictions. What the pass changes is put back, so it changes
    no bit of a run.

    Args:
      views: by the name of the head. The name is empty where the model has a single output.
    """

    def of_batch(batch: dict[str, Any]) -> tuple[Any, ...]:
        outputs = state.model(batch["x"], training=False)
        found = {name: view.of_batch(*_without_padding(name, outputs, batch)) for name, view in views.items()}
        shown = _shown_input(batch["x"])
        rows = tf.zeros(_first(shown if shown is not None else outputs), tf.int64)
        parts = (batch.get("index", rows), rows if shown is None else shown)
        if "mask" in batch:
            parts = tuple(tf.boolean_mask(part, batch["mask"]) for part in parts)
        return *parts, found

    traced = tf.function(of_batch, input_signature=[feed.element_spec])
    call = watched(traced, "prediction")

    @functools.cache
    def changed() -> list[tf.Variable]:
        return written_variables(traced.get_concrete_function())

    def run() -> dict[str, Any]:
        gathered = {name: view.begin() for name, view in views.items()}
        rows = 0
        with averaged_weights(state.model, state.optimizer), put_back(changed()):
            for batch in feed():
                index, inputs, found = tf.nest.map_structure(lambda part: part.numpy(), call(batch))
                if "index" not in feed.element_spec:
                    index = np.arange(rows, rows + len(index))
                for name, one in gathered.items():
                    one.add(index, inputs, found[name])
                rows += len(index)
        return {name: one.done(int(state.step)) for name, one in gathered.items()}

    return run


def _without_padding(name: str, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """The outputs float32, the targets and the weights of a head, or None for weights, without rows of padding."""
    given = outputs[name] if name else outputs
    cast = tf.cast(given, tf.float32)
    if getattr(given, "_keras_mask", None) is not None:
        cast._keras_mask = given._keras_mask
    y, weight = (part[name] if isinstance(part, Mapping) else part for part in (batch["y"], batch.get("sample_weight")))
    parts = (cast, tf.convert_to_tensor(y), weight)
    return tuple(without_padding(part, batch["mask"]) for part in parts) if "mask" in batch else parts


def _shown_input(x: Any) -> tf.Tensor | None:
    """The input that is shown: the only one, or the first image of several."""
    if not isinstance(x, Mapping):
        return x if tf.is_tensor(x) else None
    return next((part for part in x.values() if part.shape.rank == 4 and part.shape[-1] in (1, 3)), None)


def _first(parts: Any) -> tf.Tensor:
    """The number of rows, as a shape."""
    return tf.shape(tf.nest.flatten(parts)[0])[:1]
