"""Which metric decides what is best, and which way is better."""

import inspect
import math
import subprocess
import sys
from typing import Any

import keras
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base.monitor import STANDARD, Monitor, direction_of, directions_of
from loopwright.trainer.checkpoint.retention import Retention
from loopwright.trainer.observe.progress import Progress
from loopwright.trainer.observe.summary import summarize

#: The classes of `keras.metrics` for which neither end is the better one.
WITHOUT_DIRECTION = {"Metric", "Mean", "Sum", "MeanMetricWrapper"}
#: Arguments for the classes that can't be constructed without any.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "IoU": {"num_classes": 3, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 3},
    "MeanMetricWrapper": {"fn": lambda y_true, y_pred: y_pred},
    "OneHotIoU": {"num_classes": 3, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 3},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
CLASSES = {
    name: kind
    for name, kind in vars(keras.metrics).items()
    if inspect.isclass(kind) and issubclass(kind, keras.metrics.Metric)
}


class Scripted:
    """An evaluation whose results are given beforehand."""

    reads_metrics = False

    def __init__(self, objective: Any, name: str, values: list[float]) -> None:
        self.objective, self.name, self.values = objective, name, list(values)
        self.last: dict[str, float] = {}

    def __call__(self, state: Any, metrics: Any) -> None:
        self.last = {self.name: self.values.pop(0)}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_keras_metric_has_a_direction_or_is_known_to_have_none(name: str) -> None:
    metric = CLASSES[name](**ARGUMENTS.get(name, {}))
    assert (direction_of(metric) in ("min", "max")) == (name not in WITHOUT_DIRECTION)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("MeanSquaredError", "min"),
        ("KLDivergence", "min"),
        ("FalseNegatives", "min"),
        ("FalsePositives", "min"),
        ("TrueNegatives", "max"),
        ("TruePositives", "max"),
        ("AUC", "max"),
        ("R2Score", "max"),
        ("MeanIoU", "max"),
    ],
)
def test_direction_of_a_keras_metric_is_its_better_end(name: str, direction: str) -> None:
    assert direction_of(CLASSES[name](**ARGUMENTS.get(name, {}))) == direction


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("loss", Monitor("loss", "min")),
        ("accuracy", Monitor("accuracy", "max")),
        ("mae", Monitor("mae", "min")),
        ("edits:min", Monitor("edits", "min")),
        ("accuracy:min", Monitor("accuracy", "min")),
        ("head:edits:max", Monitor("head:edits", "max")),
        (Monitor("edits", "max"), Monitor("edits", "max")),
    ],
)
def test_monitor_is_made_of_a_name_and_a_direction(given: Any, expected: Monitor) -> None:
    assert Monitor.of(given) == expected
    assert Monitor.of(str(expected)) == expected


def test_known_directions_decide_for_a_bare_name() -> None:
    assert Monitor.of("edits", {"edits": "min"}) == Monitor("edits", "min")
    with pytest.raises(ValueError, match="monitor=loss: "):
        Monitor.of("loss", {"edits": "min"})


REFUSED: dict[str, Any] = {
    "Monitor": lambda monitor, folder: Monitor.of(monitor),
    "Retention": lambda monitor, folder: Retention(folder, monitor=monitor),
    "Checkpoint": lambda monitor, folder: trainer.Checkpoint(folder, monitor=monitor),
    "Progress": lambda monitor, folder: Progress(monitor=monitor),
    "early_stop": lambda monitor, folder: trainer.early_stop(Scripted(None, "x", []), monitor, 2),  # type: ignore[arg-type]
    "reduce_on_plateau": lambda monitor, folder: trainer.reduce_on_plateau(Scripted(None, "x", []), monitor, 2),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_unknown_direction_is_refused_with_the_remedy(make: Any, tmp_path: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^monitor=edits: which way is better isn't known; write edits:min or edits:max$"
    ):
        make("edits", tmp_path)
    with pytest.raises(ValueError, match=r"^monitor=edits:down: the direction is .*write edits:min or edits:max$"):
        make("edits:down", tmp_path)
    assert make("edits:min", tmp_path) is not None


def test_run_refuses_an_unknown_direction_before_it_makes_a_folder(make_state: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"monitor=edits: .*write edits:min or edits:max"):
        trainer.Run(tmp_path / "run", make_state(), monitor="edits")
    assert not (tmp_path / "run").exists()
    state = make_state(metrics=[keras.metrics.FalsePositives(name="false_alarms")])
    assert trainer.Run(tmp_path / "run", state, monitor="false_alarms").monitor == Monitor("false_alarms", "min")


@pytest.mark.parametrize("mode", ["down", "", "MIN", None])
def test_monitor_refuses_another_word_than_min_or_max(mode: Any) -> None:
    with pytest.raises(ValueError, match=r"monitor=mae.*write mae:min or mae:max"):
        Monitor("mae", mode)


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [0.9, 0.1, 0.5, 0.4], 1),
        ("max", [0.4, 0.9, 0.5], 1),
        ("min", [0.5, 0.1, 0.1], 1),  # the first of equals
        ("max", [0.5, 0.5], 0),
        ("min", [math.nan, 0.5, math.nan], 1),
        ("max", [math.nan, 0.5, math.nan], 1),
        ("min", [None, math.inf, 2.0], 2),
        ("max", [None, -math.inf, -2.0], 2),
        ("max", [math.nan, -math.inf], 1),
        ("min", [math.nan, None], None),
        ("min", [], None),
    ],
)
def test_best_record_is_the_first_with_the_best_number(mode: str, values: list[Any], best: int | None) -> None:
    records = [{"split": "eval", "step": step, "mae": value} for step, value in enumerate(values)]
    records.append({"split": "eval", "step": 99})  # a record without the metric
    monitor = Monitor("mae", mode)
    assert monitor.best(records) == (None if best is None else records[best])
    assert summarize(records, {}, monitor)["best"] == (None if best is None else records[best])


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_and_none_beat_nothing(mode: str) -> None:
    monitor = Monitor("mae", mode)
    for nothing in (math.nan, None):
        assert not monitor.is_better(nothing, 0.5)
        assert not monitor.is_better(nothing, None)
    assert monitor.is_better(0.5, None)
    assert not monitor.is_better(0.5, 0.5)


@pytest.mark.parametrize("monitor", ["mae", "mae:min", Monitor("mae", "min")])
def test_early_stop_on_mae_waits_for_a_smaller_one(
    make_state: Any, make_feed: Any, objective: Any, capsys: pytest.CaptureFixture[str], monitor: Any
) -> None:
    evaluate: Any = Scripted(trainer.regression(), "mae", [0.9, 0.5, 0.6, 0.4, 0.7, 0.4, 0.1])
    hooks = [trainer.every(2, hook) for hook in (evaluate, trainer.early_stop(evaluate, monitor, 2))]
    step = trainer.gradient_step(objective)
    state = trainer.train(make_state(), make_feed(), step, num_steps=14, execution=trainer.graph(), hooks=hooks)
    assert int(state.step) == 12  # 0.7 and a second 0.4 are no improvement over 0.4
    said = "loopwright: training stopped at step 12: mae has not improved for 2 evaluations\n"
    assert capsys.readouterr().err == said


def test_objectives_say_the_directions_of_what_they_record() -> None:
    metrics = [keras.metrics.AUC(name="area"), keras.metrics.FalsePositives(name="false_alarms"), keras.metrics.Mean()]
    assert trainer.regression().directions == {"loss": "min", "mae": "min"}
    assert trainer.classification(from_logits=True).directions == {"loss": "min", "accuracy": "max"}
    assert trainer.classification(from_logits=True, metrics=metrics).directions == {
        "loss": "min",
        "accuracy": "max",
        "area": "max",
        "false_alarms": "min",
    }


def test_directions_of_a_function_know_its_loss_alone() -> None:
    def objective(model: Any, batch: Any, *, training: bool) -> Any:
        raise NotImplementedError

    assert directions_of(objective) == {"loss": "min"}
    objective.directions = {"edits": "min"}  # type: ignore[attr-defined]
    assert directions_of(objective, [keras.metrics.AUC(name="area")]) == {"loss": "min", "edits": "min", "area": "max"}


@pytest.fixture
def two_outputs() -> tuple[keras.Model, dict[str, Any]]:
    """A model with the outputs `size` and `kind`, and the spec of its batches."""
    inputs = keras.Input((4,))
    size = keras.layers.Dense(1, name="size")(inputs)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(inputs)
    targets = {"size": tf.TensorSpec([None, 1]), "kind": tf.TensorSpec([None], tf.int64)}
    return keras.Model(inputs, {"size": size, "kind": kind}), {"x": tf.TensorSpec([None, 4]), "y": targets}


def test_objective_from_keras_says_directions_by_the_names_that_it_records(two_outputs: Any) -> None:
    model, spec = two_outputs
    objective = trainer.objective_from_keras(
        {"size": "mse", "kind": "sparse_categorical_crossentropy"},
        {"size": ["mae"], "kind": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")]},
    )
    assert objective.directions == {"loss": "min"}
    objective.build(model, spec)
    assert objective.directions == {
        "loss": "min",
        "size_loss": "min",
        "kind_loss": "min",
        "size_mae": "min",
        "kind_accuracy": "max",
        "kind_top_2": "max",
    }
    state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=objective.metrics)
    rows = {"x": tf.zeros([2, 4]), "y": {"size": tf.zeros([2, 1]), "kind": tf.zeros([2], tf.int64)}}
    recorded = {*objective(model, rows, training=False).metrics, *state.window_means()}
    assert recorded == set(objective.directions)


@pytest.mark.parametrize(("monitor", "mode"), [("size_mae", "min"), ("kind_top_2", "max")])
def test_run_and_early_stop_know_the_metrics_of_each_output(
    two_outputs: Any, tmp_path: Any, monitor: str, mode: str
) -> None:
    model, spec = two_outputs
    objective = trainer.objective_from_keras(
        {"size": "mse", "kind": "sparse_categorical_crossentropy"},
        {"size": ["mae"], "kind": [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")]},
    ).build(model, spec)
    state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=objective.metrics)
    evaluate: Any = Scripted(objective, monitor, [])
    assert trainer.early_stop(evaluate, monitor, 2).monitor == Monitor(monitor, mode)
    assert trainer.Run(tmp_path, state, monitor=monitor).monitor == Monitor(monitor, mode)


def test_standard_directions_are_those_of_the_metrics_by_name() -> None:
    from loopwright.trainer.core.named_metrics import METRICS

    assert {name: STANDARD[name] for name in METRICS} == {name: direction_of(make(6)) for name, make in METRICS.items()}
    assert set(STANDARD) >= {"loss", "accuracy", "mae", *METRICS}


def test_monitor_imports_no_tensorflow() -> None:
    script = "import sys; import loopwright.trainer.base.monitor; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
