"""Which metric decides what is best, and which way is better. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any

#: The metrics that this package records under names of its own, and Keras's metrics by name, of which less is better.
_LESS = (
    "loss bce binary_crossentropy categorical_crossentropy categorical_hinge false_negatives false_positives hinge kld "
    "kl_divergence log_cosh_error mae mape mean_absolute_error mean_absolute_percentage_error mean_squared_error "
    "mean_squared_logarithmic_error mse msle poisson root_mean_squared_error sparse_categorical_crossentropy squared_hinge"
)
#: Those of which more is better.
_MORE = (
    "acc accuracy auc binary_accuracy binary_iou categorical_accuracy concordance_correlation cosine_similarity f1 f1_score "
    "f_beta_score iou mean_iou one_hot_iou one_hot_mean_iou pearson_correlation precision precision_at_recall r2_score "
    "recall recall_at_precision sensitivity_at_specificity sparse_categorical_accuracy sparse_top_k_categorical_accuracy "
    "specificity_at_sensitivity top_5 top_k_categorical_accuracy true_negatives true_positives"
)
#: The directions of metrics by name.
STANDARD: Mapping[str, str] = types.MappingProxyType(
    dict.fromkeys(_LESS.split(), "min") | dict.fromkeys(_MORE.split(), "max")
)
#: What Keras calls the directions of its metrics, and those of its metrics that don't say theirs.
_KERAS_WORDS = {"down": "min", "up": "max"}
_KERAS_SILENT = {
    "FalseNegatives": "min",
    "FalsePositives": "min",
    "TrueNegatives": "max",
    "TruePositives": "max",
}


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric of evaluation and its better end: `Monitor("mae", "min")`.

    Raises ValueError for a mode that is neither `min` nor `max`.
    """

    name: str
    mode: str

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(
                f"monitor={self}: the direction is 'min' or 'max'; write {self.name}:min or {self.name}:max"
            )

    def __str__(self) -> str:
        return f"{self.name}:{self.mode}"

    @classmethod
    def of(cls, monitor: str | Monitor, directions: Mapping[str, str] = STANDARD) -> Monitor:
        """A monitor from `NAME:min`, `NAME:max`, or a bare name whose direction is known.

        Args:
          directions: `min` or `max` by the name of a metric, as `directions_of` gives them.

        Raises ValueError for a bare name whose direction isn't known.
        """
        if isinstance(monitor, Monitor):
            return monitor
        name, colon, mode = monitor.rpartition(":")
        if colon:
            return cls(name, mode)
        if monitor not in directions:
            raise ValueError(
                f"monitor={monitor}: which way is better isn't known; write {monitor}:min or {monitor}:max"
            )
        return cls(monitor, directions[monitor])

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a value beats another one. NaN and None beat nothing, and any number beats None."""
        if value is None or math.isnan(value):
            return False
        return than is None or (value < than if self.mode == "min" else value > than)

    def best(self, records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The first record with the best value of the metric; None where no record has a value."""
        found: Mapping[str, Any] | None = None
        for record in records:
            if self.is_better(record.get(self.name), None if found is None else found[self.name]):
                found = record
        return found


def directions_of(objective: Any, metrics: Iterable[Any] = ()) -> dict[str, str]:
    """`min` or `max` by name for what an evaluation records, as far as it is known.

    An objective may say it in an attribute `directions`. A Keras metric has a direction by its class. Every objective
    records a loss, of which less is better.
    """
    known = {"loss": "min", **getattr(objective, "directions", {})}
    for metric in metrics:
        for name, part in _named(metric):
            direction = direction_of(part)
            if direction is not None:
                known[name] = direction
    return known


def _named(metric: Any) -> Iterable[tuple[str, Any]]:
    """A Keras metric with the name under which it is recorded. The container that `compile` makes has several."""
    parts = getattr(metric, "metrics", None)
    return zip(metric.result(), parts, strict=True) if parts else [(metric.name, metric)]


def direction_of(metric: Any) -> str | None:
    """`min` or `max` for a Keras metric; None where neither Keras nor the table of this module knows it."""
    return _KERAS_WORDS.get(getattr(metric, "_direction", None) or "") or _KERAS_SILENT.get(type(metric).__name__)
