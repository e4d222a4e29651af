"""Keras metrics of classification by name."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

#: Metrics of one-hot labels and probabilities, by name: from the number of classes to a Keras metric.
METRICS = {
    "top_5": lambda classes: keras.metrics.TopKCategoricalAccuracy(k=5, name="top_5"),
    "auc": lambda classes: keras.metrics.AUC(multi_label=True, num_labels=classes, name="auc"),
    "f1": lambda classes: keras.metrics.F1Score(average="macro", name="f1"),
}


def make_metrics(names: Sequence[str], num_classes: int) -> list[keras.metrics.Metric]:
    """Built metrics by the names of `METRICS`. The name `accuracy` is allowed and gives none: every classification has it.

    Raises ValueError for an unknown name, and for `top_5` of fewer than six classes.
    """
    unknown = set(names) - {*METRICS, "accuracy"}
    if unknown:
        raise ValueError(f"metrics={','.join(names)}: choose from accuracy, {', '.join(METRICS)}")
    if "top_5" in names and num_classes < 6:
        raise ValueError(f"metrics={','.join(names)}: top_5 of {num_classes} classes says nothing")
    made = [METRICS[name](num_classes) for name in names if name != "accuracy"]
    for metric in made:  # Some make their variables at the first update.
        metric.update_state(tf.zeros([1, num_classes]), tf.zeros([1, num_classes]))
        metric.reset_state()
    return made
