"""Tasks: which one a target gets, what it trains and compiles, and what its predictions say."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data import array_feed
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.tasks.assignment import AUTO, TASKS, Assignment, assign, find


@dataclasses.dataclass(frozen=True)
class Target:
    kind: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
PETS = ("cat", "dog", "owl")
#: A target of each kind, samples of it, and the outputs for a sample.
KINDS: dict[str, tuple[Target, Any, tuple[int, ...]]] = {
    "class": (Target("class", (), PETS), RNG.integers(0, 3, 40), (3,)),
    "classes": (Target("classes", (2,), PETS), RNG.integers(0, 3, (40, 2)), (2, 3)),
    "multi_hot": (Target("multi_hot", (3,), PETS), RNG.integers(0, 2, (40, 3)).astype(np.float32), (3,)),
    "number": (Target("number", (), ("price",)), RNG.normal(size=40).astype(np.float32), (1,)),
    "numbers": (Target("numbers", (2,), ("place",)), RNG.normal(size=(40, 2)).astype(np.float32), (2,)),
    "tokens": (Target("tokens", (2,), PETS), RNG.integers(0, 3, (40, 2)), (2, 3)),
}


def one(target: Target, task: str = "auto", **wishes: Any) -> Assignment:
    return assign(task, {"y": target}, weights={}, **wishes)


def model_for(shape: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(int(np.prod(shape))), keras.layers.Reshape(shape)])


def test_every_kind_of_target_has_a_task() -> None:
    assert set(AUTO) == set(KINDS)
    for name in TASKS:
        assert find(name).name == name


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_have_the_shape_of_the_task(kind: str) -> None:
    target, _, shape = KINDS[kind]
    assert one(target).output_shape == shape
    assert one(target).num_outputs == shape[-1]


@pytest.mark.parametrize(
    ("kind", "wishes"),
    [
        *[(kind, {}) for kind in KINDS],
        ("class", {"task": "binary"}),
        ("class", {"loss": "categorical_focal_crossentropy", "metrics": ("accuracy", "auc")}),
        ("number", {"loss": "huber:delta=2", "metrics": ("mae", "r2_score")}),
        ("multi_hot", {"metrics": ("auc", "f1_score:average=macro")}),
    ],
)
def test_loop_equals_fit_to_the_bit(kind: str, wishes: dict[str, Any]) -> None:
    target, y, _ = KINDS[kind]
    if wishes.get("task") == "binary":
        target, y = dataclasses.replace(target, names=PETS[:2]), y % 2
    job = one(target, **wishes)
    feed = array_feed(X, y, 8)
    ours, theirs = (model_for(job.output_shape) for _ in range(2))
    objective = job.objective()
    if hasattr(objective, "build"):
        objective.build(ours, feed.element_spec)
    state = trainer.TrainState.create(ours, keras.optimizers.Adam(), metrics=objective.metrics)
    theirs.compile(keras.optimizers.Adam(), **job.compiled()._asdict(), jit_compile=False)
    certificate = trainer.certify(
        theirs, state, trainer.gradient_step(objective), feed, num_steps=7, execution=trainer.graph()
    )
    assert certificate.identical
    assert certificate.loss_difference is not None and certificate.loss_difference < 1e-5


def test_metrics_are_those_of_an_independent_computation() -> None:
    target, y, shape = KINDS["number"]
    job, model, feed = one(target), model_for(shape), array_feed(X, y, 8, shuffle=False)
    objective = job.objective().build(model, feed.element_spec)
    state = trainer.TrainState.create(model, "sgd", metrics=objective.metrics)
    found = trainer.evaluate(state, feed, objective)
    errors = model.predict(X, verbose=0).reshape(-1) - y
    assert found["loss"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert found["root_mean_squared_error"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    assert found["mean_absolute_error"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)


def test_logits_are_measured_as_probabilities() -> None:
    target, y, shape = KINDS["multi_hot"]
    job, model, feed = one(target), model_for(shape), array_feed(X, y, 8, shuffle=False)
    objective = job.objective().build(model, feed.element_spec)
    state = trainer.TrainState.create(model, "sgd", metrics=objective.metrics)
    found = trainer.evaluate(state, feed, objective)
    says = model.predict(X, verbose=0) > 0
    assert found["binary_accuracy"] == pytest.approx((says == y).mean(), abs=1e-6)
    hits, said, true = (says * y).sum(0), says.sum(0), y.sum(0)
    assert found["f1_score"] == pytest.approx((2 * hits / (said + true)).mean(), abs=1e-5)


def test_several_targets_have_a_head_each() -> None:
    targets = {"kind": KINDS["class"][0], "price": KINDS["number"][0]}
    job = assign("auto", targets, weights={"price": 0.1}, loss=None)
    assert job.output_shape == {"kind": (3,), "price": (1,)}
    assert job.name == "kind=classification,price=regression"
    compiled = job.compiled()
    assert compiled.loss_weights == {"kind": 1.0, "price": 0.1}
    inputs = keras.Input((6,))
    heads = {"kind": keras.layers.Dense(3, name="kind")(inputs), "price": keras.layers.Dense(1, name="price")(inputs)}
    ours, theirs = (keras.models.clone_model(keras.Model(inputs, heads)) for _ in range(2))
    theirs.set_weights(ours.get_weights())
    feed = array_feed(X, {"kind": KINDS["class"][1], "price": KINDS["number"][1]}, 8)
    objective = job.objective().build(ours, feed.element_spec)
    state = trainer.TrainState.create(ours, keras.optimizers.Adam(), metrics=objective.metrics)
    theirs.compile(keras.optimizers.Adam(), **compiled._asdict(), jit_compile=False)
    step = trainer.gradient_step(objective)
    assert trainer.certify(theirs, state, step, feed, num_steps=6, execution=trainer.graph()).identical


def test_rows_say_what_is_predicted() -> None:
    of_class = one(KINDS["class"][0]).rows(np.array([[0.1, 0.7, 0.2]]), 2)
    assert [(entry["class"], entry["probability"]) for entry in of_class[0]["top"]] == [("dog", 0.7), ("owl", 0.2)]
    binary = one(Target("class", (), PETS[:2]), "binary").rows(np.array([[0.25]]), 1)
    assert binary == [{"top": [{"class": "cat", "probability": 0.75}]}]
    labels = one(KINDS["multi_hot"][0]).rows(np.array([[0.2, 0.6, 0.9]]), 3)
    assert labels[0]["labels"] == ["owl", "dog"] and labels[0]["probabilities"]["cat"] == pytest.approx(0.2)
    assert one(KINDS["number"][0]).rows(np.array([[2.5], [3.0]]), 1) == [{"prediction": 2.5}, {"prediction": 3.0}]
    assert one(KINDS["numbers"][0]).rows(np.array([[1.0, 2.0]]), 1) == [{"prediction": [1.0, 2.0]}]
    tags = one(KINDS["classes"][0]).rows(np.array([[[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]]]), 1)
    assert tags == [{"classes": ["cat", "owl"]}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("binary", {"y": KINDS["class"][0]}, {}), "task='binary': takes one of two classes, and 'y' has 3"),
        (("regression", {"y": KINDS["class"][0]}, {}), "task='regression': takes a number or numbers as the target"),
        (("auto", {"y": KINDS["class"][0]}, {"y": 1.0}), "there is no head 'y'"),
        (("auto", {"a": KINDS["class"][0], "b": KINDS["number"][0]}, {"c": 1.0}), "there is no head 'c' (of a, b)"),
        (("no_module_of_this:name", {"y": KINDS["class"][0]}, {}), "can't be made: No module named"),
        (("builtins:dict", {"y": KINDS["class"][0]}, {}), "returned a dict without name"),
    ],
)
def test_what_fits_no_target_is_refused(arguments: Any, message: str) -> None:
    task, targets, weights = arguments
    with pytest.raises(TrainingError) as caught:
        assign(task, targets, weights=weights)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_loss_of_several_targets_is_refused() -> None:
    targets = {"a": KINDS["class"][0], "b": KINDS["number"][0]}
    with pytest.raises(TrainingError, match="loss='mse' is for a single target, and label_key names 2"):
        assign("auto", targets, weights={}, loss="mse")


def test_positions_are_weighted_by_their_class() -> None:
    target, y, shape = KINDS["classes"]
    job = one(target, class_weight={0: 2.0, 2: 0.5})
    model, feed = model_for(shape), array_feed(X, y, 40, shuffle=False)
    state = trainer.TrainState.create(model, "sgd")
    found = trainer.evaluate(state, feed, job.objective())
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")(y, model(X))
    weights = tf.gather([2.0, 1.0, 0.5], y)
    assert found["loss"] == pytest.approx(float(tf.reduce_mean(losses * weights)), rel=1e-5)
