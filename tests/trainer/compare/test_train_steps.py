"""Train steps as Keras's guides write them, metrics with vector results, and other ways of `fit`, against `fit` itself."""

import json
import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.observe.progress import Progress
from loopwright.trainer.observe.records import JsonLines, Record

SAMPLES, STEPS = 22, 6  # two epochs of three batches, the last of which is ragged


class Fetched:
    """A feed with the given keys beside `x`, in the order of `array_feed`."""

    def __init__(self, parts: dict[str, Any], **options: Any) -> None:
        self.feed = array_feed(parts["x"], np.zeros(SAMPLES, np.int64), 8, **options)
        self.parts = parts
        self.steps_per_epoch, self.end = self.feed.steps_per_epoch, self.feed.end
        self.element_spec = self().element_spec

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        def fetch(batch: Any) -> Any:
            kept = {key: batch[key] for key in ("index", "mask") if key in batch}
            return kept | tf.nest.map_structure(lambda part: tf.gather(part, batch["index"]), self.parts)

        return self.feed(start_step).map(fetch)


def data(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(SAMPLES, 4)).astype(np.float32), **more}


def labels(classes: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, SAMPLES)


class Net(keras.Model):
    """Two layers. `loss_of` is the scalar that its own train steps differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = keras.layers.Dense(5, "tanh"), keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.outer(self.inner(x))

    def descend(self, loss: Any, tape: Any) -> None:
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
        )


class Pair(Net):
    """The train step of Keras's guide: `x, y = data`."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            predictions = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=predictions)
        self.descend(loss, tape)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, predictions)
        return {metric.name: metric.result() for metric in self.metrics}


class Alone(Net):
    """The train step of a variational autoencoder: `data` is the batch of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = keras.metrics.Mean(name="total")

    @property
    def metrics(self) -> list[Any]:
        return [self.total]

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data) - data))
        self.descend(loss, tape)
        self.total.update_state(loss)
        return {"total": self.total.result()}


class Untracked(Net):
    """Returns a loss that it gives to none of Keras's metrics, and a vector."""

    def train_step(self, data: Any) -> Any:
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - x))
        self.descend(loss, tape)
        return {"loss": loss, "of_parts": tf.stack([loss, 2.0 * loss])}


def built(kind: type, **compiled: Any) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = kind()
    model(data()["x"][:1])
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False, **compiled)
    return model


def by_loop(model: Any, feed: Any) -> dict[str, float]:
    step = trainer.step_from_keras(model, feed.element_spec)
    state = trainer.TrainState.create(model, model.optimizer, metrics=step.metrics)
    logs: dict[str, float] = {}
    hooks = [trainer.every(feed.steps_per_epoch, lambda state, metrics: logs.update(metrics))]
    trainer.train(state, feed, step, num_steps=STEPS, execution=trainer.graph(), hooks=hooks)
    return logs


def by_fit(model: Any, feed: Any, *keys: str) -> dict[str, float]:
    dataset = feed().map(lambda batch: batch["x"] if keys == ("x",) else tuple(batch[key] for key in keys))
    history = model.fit(dataset, steps_per_epoch=feed.steps_per_epoch, epochs=2, verbose=0).history
    return {name: values[-1] for name, values in history.items()}


def assert_equal_weights(one: keras.Model, other: keras.Model) -> None:
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


PAIR = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}


@pytest.mark.parametrize(
    ("kind", "parts", "compiled"),
    [(Pair, data(y=labels()), PAIR), (Alone, data(), {})],
    ids=["x, y = data", "data alone"],
)
def test_train_step_gets_what_fit_gives_it(kind: type, parts: Any, compiled: Any) -> None:
    feed, fitted, model = Fetched(parts), built(kind, **compiled), built(kind, **compiled)
    history, logs = by_fit(fitted, feed, *parts), by_loop(model, feed)
    assert_equal_weights(fitted, model)
    assert logs == pytest.approx(history, rel=1e-6)


def test_train_step_gets_no_padding() -> None:
    ragged, padded = (Fetched(data(y=labels()), shuffle=False, pad=pad) for pad in (False, True))
    models = []
    for feed in (ragged, padded):
        model = built(Pair, **PAIR)
        step = trainer.step_from_keras(model, feed.element_spec)
        state = trainer.TrainState.create(model, model.optimizer, metrics=step.metrics)
        trainer.train(state, feed, step, num_steps=3, execution=trainer.graph())
        models.append(model)
    assert_equal_weights(*models)


def test_loss_that_train_step_only_returns_is_logged() -> None:
    """Keras's own mean of the loss stays 0, and `fit` says 0."""
    feed, model, second = Fetched(data(y=labels())), built(Untracked), built(Untracked)
    logs = by_loop(model, feed)
    losses = []
    for batch in feed().take(STEPS):
        losses.append(float(second.train_step((batch["x"], batch["y"]))["loss"]))
    mean = np.mean(losses[3:])
    assert logs == pytest.approx({"loss": mean, "of_parts/0": mean, "of_parts/1": 2 * mean}, rel=1e-5)


def test_train_step_that_returns_no_dict_is_refused() -> None:
    class Bare(Net):
        def train_step(self, data: Any) -> Any:
            return tf.constant(0.0)

    with pytest.raises(ValueError, match=r"returns a .*; let it return a dict"):
        trainer.step_from_keras(built(Bare), Fetched(data(y=labels())).element_spec)


def adding() -> keras.Model:
    """A model that adds its whole loss itself."""

    class Adding(Net):
        def call(self, x: Any) -> Any:
            y = super().call(x)
            self.add_loss(keras.ops.mean(keras.ops.square(y - x)))
            return y

    return Adding()


@pytest.mark.parametrize("way", ["objective_from_keras", "step_from_keras"])
def test_batches_without_labels_train_as_in_fit(way: str) -> None:
    feed = Fetched(data())
    fitted, model = built(adding), built(adding)  # type: ignore[arg-type]
    history = by_fit(fitted, feed, "x")
    if way == "step_from_keras":
        logs = by_loop(model, feed)
    else:
        logs = {}
        objective = trainer.objective_from_keras(None)
        state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01))
        hooks = [trainer.every(3, lambda state, metrics: logs.update(metrics))]
        step = trainer.gradient_step(objective)
        trainer.train(state, feed, step, num_steps=STEPS, execution=trainer.graph(), hooks=hooks)
        assert trainer.evaluate(state, Fetched(data(), shuffle=False), objective)["loss"] > 0
    assert_equal_weights(fitted, model)
    assert logs["loss"] == pytest.approx(history["loss"], rel=1e-6)


def test_loss_without_labels_and_no_loss_at_all_are_refused() -> None:
    batch = {"x": tf.constant(data()["x"])}
    for loss, words in (("mse", "loss='mse' compares.*no y"), (None, "adds none")):
        with pytest.raises(ValueError, match=words):
            trainer.objective_from_keras(loss)(built(Net), batch, training=True)


def two_outputs(kind: str) -> keras.Model:
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)]
    structures = {
        "dict": lambda: dict(zip("ab", outputs, strict=True)),
        "list": lambda: outputs,
        "nested": lambda: {"one": outputs[0], "more": {"two": outputs[1]}},
    }
    return keras.Model(inputs, structures[kind]())


@pytest.mark.parametrize("kind", ["dict", "list", "nested"])
@pytest.mark.parametrize("way", ["objective_from_keras", "step_from_keras"])
def test_targets_of_any_structure_train_as_in_fit(kind: str, way: str) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(SAMPLES, n)).astype(np.float32) for n in (2, 1))
    y = {"dict": {"a": a, "b": b}, "list": (a, b), "nested": {"one": a, "more": {"two": b}}}[kind]
    feed = Fetched(data(y=y))
    compiled: dict[str, Any] = {"loss": "mse"} if kind == "nested" else {"loss": ["mse", "mae"]}
    if kind == "dict":
        compiled = {"loss": {"a": "mse", "b": "mae"}}
    build: Any = lambda: two_outputs(kind)  # noqa: E731
    fitted, model = built(build, **compiled), built(build, **compiled)
    history = by_fit(fitted, feed, "x", "y")
    if way == "step_from_keras":
        assert by_loop(model, feed) == pytest.approx(history, rel=1e-6)
    else:
        objective = trainer.objective_from_keras(**compiled).build(model, feed.element_spec)
        state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01), metrics=objective.metrics)
        trainer.train(state, feed, trainer.gradient_step(objective), num_steps=STEPS, execution=trainer.graph())
    assert_equal_weights(fitted, model)


def vector_metrics() -> list[Any]:
    return [keras.metrics.F1Score(name="f1"), keras.metrics.Precision(thresholds=[0.3, 0.6], name="precision")]


def classifier() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])


NAMES = ["f1/0", "f1/1", "f1/2", "precision/0", "precision/1"]


@pytest.mark.parametrize("way", ["objective_from_keras", "step_from_keras", "classification"])
def test_vector_results_are_logged_as_numbers(way: str, tmp_path: pathlib.Path) -> None:
    y = labels() if way == "classification" else np.eye(3, dtype=np.float32)[labels()]
    feed, compiled = Fetched(data(y=y)), {"loss": "categorical_crossentropy", "metrics": vector_metrics()}
    model = built(classifier, **({} if way == "classification" else compiled))  # type: ignore[arg-type]
    objective: Any = None
    if way == "step_from_keras":
        step: Any = trainer.step_from_keras(model, feed.element_spec)
        state = trainer.TrainState.create(model, model.optimizer, metrics=step.metrics)
    else:
        metrics = vector_metrics()
        if way == "classification":
            for metric in metrics:
                metric.update_state(np.eye(3), np.eye(3))
                metric.reset_state()
            objective = trainer.classification(from_logits=False, metrics=metrics)
        else:
            objective = trainer.objective_from_keras("categorical_crossentropy", metrics).build(
                model, feed.element_spec
            )
            metrics = objective.metrics
        step = trainer.gradient_step(objective)
        state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01), metrics=metrics)
    lines, progress = JsonLines(tmp_path / "metrics.jsonl"), Progress(mode="plain")
    writers = [lines, trainer.TensorBoard(tmp_path), progress.write]
    hooks: list[Any] = [trainer.every(3, trainer.Log(writers))]
    if objective is not None:
        hooks.append(trainer.every(3, trainer.Evaluate(Fetched(data(y=y), shuffle=False), objective, writers)))
    trainer.train(state, feed, step, num_steps=STEPS, execution=trainer.graph(), hooks=hooks)
    records = lines.read()
    assert {record["split"] for record in records} == {"train"} | ({"eval"} if objective else set())
    probabilities = model(data()["x"]).numpy()
    for metric in vector_metrics():
        metric.update_state(np.eye(3)[labels()], probabilities)
        for place, value in enumerate(np.array(metric.result())):
            evaluated = [record[f"{metric.name}/{place}"] for record in records if record["split"] == "eval"]
            assert evaluated[1:] == pytest.approx([value] * len(evaluated[1:]), rel=1e-5)
    if way == "step_from_keras":
        compiled["metrics"] = vector_metrics()
        history = by_fit(built(classifier, **compiled), feed, "x", "y")  # type: ignore[arg-type]
        got = [records[-1][name] for name in NAMES]
        assert got == pytest.approx(np.concatenate([history["f1"], history["precision"]]), rel=1e-6)
    assert all(math.isfinite(record[name]) for record in records for name in NAMES)


def test_record_holds_vectors_and_numbers_of_numpy_as_numbers(tmp_path: pathlib.Path) -> None:
    values = {"a": np.float32(0.5), "b": np.array([1.0, np.inf]), "c": tf.constant(2.0), "d": 3, "e": [0.25]}
    writer = JsonLines(tmp_path / "metrics.jsonl")
    writer(Record(1, "train", values))  # type: ignore[arg-type]
    writer.close()
    found = json.loads(writer.path.read_text())
    wanted = {"a": 0.5, "b/0": 1.0, "b/1": None, "c": 2.0, "d": 3, "e/0": 0.25}
    assert {name: value for name, value in found.items() if name in wanted} == wanted


def stopped_at(monitor: str, **options: Any) -> int:
    """The step at which Keras's early stopping ends a run whose evaluations are scripted."""
    feed, objective = Fetched(data(y=labels())), trainer.classification(from_logits=True)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01))
    evaluate = trainer.Evaluate(Fetched(data(y=labels()), shuffle=False), objective)
    scripted = iter([0.5, 0.7, 0.6, 0.65, 0.9, 0.95])

    def script(state: Any, metrics: Any) -> None:
        evaluate.last = {"loss": 1.0, "accuracy": next(scripted)}

    callback = keras.callbacks.EarlyStopping(monitor, patience=2, **options)
    hooks = [
        trainer.every(3, script),
        *trainer.keras_callback(callback, state, steps_per_epoch=3, num_steps=18, evaluate=evaluate),
    ]
    trainer.train(state, feed, trainer.gradient_step(objective), num_steps=18, execution=trainer.graph(), hooks=hooks)
    return int(state.step)


def test_early_stopping_of_keras_knows_which_way_an_evaluated_metric_is_better() -> None:
    assert stopped_at("val_accuracy") == 12


def test_early_stopping_of_keras_that_watches_nothing_is_refused() -> None:
    with pytest.raises(
        trainer.TrainingError,
        match="monitor='val_top' is better; give the callback mode='min'",
    ):
        stopped_at("val_top")
    with pytest.raises(trainer.TrainingError, match="monitor='val_top' isn't among the logs"):
        stopped_at("val_top", mode="max")
    state = trainer.TrainState.create(classifier(), keras.optimizers.Adam())
    callback = keras.callbacks.EarlyStopping("val_loss")
    with pytest.raises(trainer.TrainingError, match="monitor='val_loss' needs an evaluation"):
        trainer.keras_callback(callback, state, steps_per_epoch=3, num_steps=6)
