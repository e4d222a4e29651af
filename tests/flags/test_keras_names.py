"""Losses, metrics, optimizers and schedules by name, checked before TensorFlow is imported."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from loopwright import flags
from loopwright.flags import keras_names


@pytest.mark.parametrize(
    ("parameter", "names"),
    [
        ("loss", keras_names.LOSSES),
        ("metrics", keras_names.METRICS),
        ("optimizer", keras_names.OPTIMIZERS),
        ("learning_rate", keras_names.SCHEDULES),
    ],
)
def test_names_are_those_of_keras(parameter: str, names: tuple[str, ...]) -> None:
    from loopwright.trainer.core import keras_names as of_keras

    assert list(names) == sorted(of_keras.spelled(parameter, name) for name in of_keras.keras_classes(parameter))
    assert set(keras_names.SHORT) == set(of_keras.SHORT)
    assert set(keras_names.OWN_METRICS) == {*of_keras.OWN_METRICS, "acc"}


def test_checks_import_no_tensorflow() -> None:
    code = "import sys; from loopwright.flags import keras_names; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("check", "text"),
    [
        *(
            (keras_names.check_loss, text)
            for text in (None, "huber", "Huber", "MSE", "huber:delta=2", "my.mod:f", "m:f:a=1")
        ),
        (keras_names.check_loss, "CategoricalFocalCrossentropy:alpha=0.25,0.5:gamma=2"),
        *(
            (keras_names.check_optimizer, text)
            for text in ("adam", "AdamW", "ScheduleFreeAdamW", "lion:beta_1=0.95", "m:f")
        ),
        (keras_names.check_optimizer, "muon:exclude_layers=head,embedding"),
        *((keras_names.check_learning_rate, text) for text in ("0.1", "1e-3", "CosineDecay:decay_steps=9", "m:rate")),
        (keras_names.check_learning_rate, "piecewise_constant_decay:boundaries=100,200:values=0.1,0.01,0.001"),
    ],
)
def test_right_texts_pass(check: Callable[[Any], None], text: Any) -> None:
    check(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("accuracy", ("accuracy",)),
        ("mae, r2_score,auc:num_thresholds=50,mae", ("mae", "r2_score", "auc:num_thresholds=50")),
        (",mae,,auc,", ("mae", "auc")),
        ("auc:thresholds=0.2,.5,f1", ("auc:thresholds=0.2,.5", "f1")),
        (
            "one_hot_iou:target_class_ids=1,,IoU:target_class_ids=0",
            ("one_hot_iou:target_class_ids=1,", "IoU:target_class_ids=0"),
        ),
        ("my.metrics:f,top_5,acc", ("my.metrics:f", "top_5", "acc")),
    ],
)
def test_metrics_are_split(text: str, names: tuple[str, ...]) -> None:
    assert keras_names.check_metrics(text) == names


@pytest.mark.parametrize(
    ("check", "text", "message"),
    [
        (keras_names.check_loss, "hubr", "^--loss=hubr: 'hubr' is unknown; did you mean 'huber'[?]$"),
        (keras_names.check_loss, "MeanSquardError", "did you mean 'mean_squared_error'[?]$"),
        (keras_names.check_loss, "xyzzy", "'xyzzy' is unknown; choose binary_crossentropy, .* or module:function$"),
        (keras_names.check_loss, "huber:2", "^--loss=huber:2: write NAME, NAME:key=value or module:function, such as "),
        (keras_names.check_loss, "huber:", "^--loss=huber:: write NAME, "),
        (keras_names.check_loss, "", "^--loss=: write NAME, "),
        (
            keras_names.check_loss,
            "huber:delta",
            "^--loss=huber:delta: 'delta' is no argument; write huber:delta=VALUE$",
        ),
        (
            keras_names.check_metrics,
            "mae,acuracy",
            "^--metrics=mae,acuracy: 'acuracy' is unknown; did you mean 'accuracy'[?]$",
        ),
        (keras_names.check_metrics, ",", "^--metrics=,: name at least one metric, such as "),
        (keras_names.check_metrics, "auc:200", "^--metrics=auc:200: write NAME, NAME:key=value"),
        (keras_names.check_optimizer, "adm", "^--optimizer=adm: 'adm' is unknown; did you mean 'adam'[?]$"),
        (
            keras_names.check_learning_rate,
            "cosin",
            "^--learning_rate=cosin: 'cosin' is unknown; did you mean 'cosine_decay'[?]$",
        ),
        *(
            (
                keras_names.check_learning_rate,
                text,
                f"^--learning_rate={text}: give a number greater than 0, or a schedule",
            )
            for text in ("0", "-1", "nan", "inf")
        ),
    ],
)
def test_mistakes_are_one_line(check: Callable[[Any], Any], text: str, message: str) -> None:
    with pytest.raises(flags.UsageError, match=message):
        check(text)


def test_schedules_are_told_from_numbers() -> None:
    assert keras_names.is_schedule("CosineDecay:decay_steps=9")
    assert keras_names.is_schedule("my:rate")
    assert not keras_names.is_schedule("1e-3")
