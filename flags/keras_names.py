"""Losses, metrics, optimizers and schedules by their names in Keras, checked before TensorFlow is imported.

A value is `NAME`, `NAME:key=value:key=value` or `module:function`, which arguments may follow, too. What arguments a name
takes is known to Keras alone, which is asked as soon as it is imported.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

from loopwright.flags.errors import UsageError

#: The names of Keras 3.15, without the short ones. This package doesn't import Keras, so a test compares them.
LOSSES = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "circle",
    "cosine_similarity",
    "ctc",
    "dice",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
)
METRICS = (
    "accuracy",
    "auc",
    "binary_accuracy",
    "binary_crossentropy",
    "binary_iou",
    "categorical_accuracy",
    "categorical_crossentropy",
    "categorical_hinge",
    "concordance_correlation",
    "cosine_similarity",
    "f1_score",
    "f_beta_score",
    "false_negatives",
    "false_positives",
    "hinge",
    "iou",
    "kl_divergence",
    "log_cosh_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_iou",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "one_hot_iou",
    "one_hot_mean_iou",
    "pearson_correlation",
    "poisson",
    "precision",
    "precision_at_recall",
    "r2_score",
    "recall",
    "recall_at_precision",
    "root_mean_squared_error",
    "sensitivity_at_specificity",
    "sparse_categorical_accuracy",
    "sparse_categorical_crossentropy",
    "sparse_top_k_categorical_accuracy",
    "specificity_at_sensitivity",
    "squared_hinge",
    "top_k_categorical_accuracy",
    "true_negatives",
    "true_positives",
)
#: Metrics that this package names beside those of Keras, and Keras's other word for accuracy.
OWN_METRICS = ("acc", "f1", "top_5")
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lamb",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
    "schedulefreeadamw",
    "sgd",
)
SCHEDULES = (
    "cosine_decay",
    "cosine_decay_restarts",
    "exponential_decay",
    "inverse_time_decay",
    "piecewise_constant_decay",
    "polynomial_decay",
)
#: Keras's short names of losses and metrics.
SHORT = ("bce", "kld", "mae", "mape", "mse", "msle")

_WORD = r"(?!\d)\w+"
_NAME = re.compile(rf"{_WORD}(?:\.{_WORD})*(?::{_WORD}(?:\.{_WORD})*(?![\w.=]))?")
_ARGUMENTS = re.compile(rf"(?::{_WORD}=[^:]*)*")


def check_loss(text: str | None) -> None:
    """Checks `--loss`. None is the loss of the task."""
    if text is not None:
        _check("loss", text, text, (*LOSSES, *SHORT), "huber:delta=2")


def check_metrics(text: str) -> tuple[str, ...]:
    """`--metrics` as names with their arguments, each once. A comma before anything but a letter is part of a list."""
    words = (word.strip() for word in re.split(r",(?=\s*[A-Za-z_])", text))
    names = tuple(dict.fromkeys(word if "=" in word else word.strip(" ,") for word in words if word.strip(" ,")))
    if not names:
        raise UsageError(f"--metrics={text}: name at least one metric, such as accuracy, mae or auc")
    for name in names:
        _check("metrics", text, name, (*METRICS, *SHORT, *OWN_METRICS), "auc:num_thresholds=50")
    return names


def check_optimizer(text: str) -> None:
    """Checks `--optimizer`."""
    _check("optimizer", text, text, OPTIMIZERS, "rmsprop:rho=0.95")


def check_learning_rate(text: str) -> None:
    """Checks `--learning_rate`: a number greater than 0, a schedule of Keras, or `module:function`."""
    if not is_schedule(text):
        if not 0 < float(text) < math.inf:
            raise UsageError(f"--learning_rate={text}: give a number greater than 0, or a schedule of Keras")
        return
    _check("learning_rate", text, text, SCHEDULES, "exponential_decay:decay_steps=1000:decay_rate=0.9")


def is_schedule(text: str) -> bool:
    """Whether `--learning_rate` is anything but a number, so that --schedule and --warmup_steps must be left out."""
    try:
        float(text)
    except ValueError:
        return True
    return False


def _check(flag: str, text: str, word: str, known: Sequence[str], example: str) -> None:
    """Raises UsageError for an unknown name, and for what follows a name without being `:key=value`."""
    name = _NAME.match(word)
    if name is None or not _ARGUMENTS.fullmatch(word.rstrip(","), name.end()):
        raise UsageError(f"--{flag}={text}: write NAME, NAME:key=value or module:function, such as --{flag}={example}")
    names = {_simple(one): one for one in known}
    first, colon, function = name[0].partition(":")
    if colon and _simple(first) in names:
        raise UsageError(f"--{flag}={text}: {function!r} is no argument; write {first}:{function}=VALUE")
    if colon or _simple(first) in names:
        return
    close = difflib.get_close_matches(_simple(name[0]), names, n=1, cutoff=0.5)
    hint = f"did you mean {names[close[0]]!r}?" if close else f"choose {', '.join(known)} or module:function"
    raise UsageError(f"--{flag}={text}: {name[0]!r} is unknown; {hint}")


def _simple(name: str) -> str:
    """A name without what distinguishes its spellings: `MeanSquaredError` and `mean_squared_error` are one."""
    return name.replace("_", "").lower()
