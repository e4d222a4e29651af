"""Losses, metrics, weights, train steps and callbacks of `compile` and `fit`, compared with `fit` itself."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.checkpoint.checkpoint import restore_folder

STEPS = 10  # two epochs, whose last batch is ragged
SAMPLES = 38


def data(*, weights: bool = False, two: bool = False, one_hot: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 6)).astype(np.float32)
    label = rng.integers(0, 3, SAMPLES)
    y: Any = np.eye(3, dtype=np.float32)[label] if one_hot else label
    if two:
        y = {"kind": label, "size": rng.normal(size=(SAMPLES, 1)).astype(np.float32)}
    given = {"x": x, "y": y}
    return given | {"sample_weight": rng.random(SAMPLES).astype(np.float32)} if weights else given


def one_output() -> keras.Model:
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.Dropout(0.2)(x)))


def two_outputs(*, as_dict: bool = False) -> keras.Model:
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    kind, size = keras.layers.Dense(3, "softmax", name="kind")(x), keras.layers.Dense(1, name="size")(x)
    return keras.Model(inputs, {"kind": kind, "size": size} if as_dict else [kind, size])


def auc() -> keras.metrics.Metric:
    return keras.metrics.AUC(multi_label=True, num_labels=3, name="auc")


#: Functions that build a case: the model, the data, the arguments of `compile`, the class weights.
CASES: dict[str, Callable[[], tuple[Any, Any, dict[str, Any], Any]]] = {
    "names": lambda: (
        one_output,
        data(),
        {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        None,
    ),
    "weighted": lambda: (
        one_output,
        data(weights=True, one_hot=True),
        {"loss": keras.losses.CategoricalCrossentropy(), "metrics": [auc()], "weighted_metrics": ["accuracy", auc()]},
        None,
    ),
    "classes": lambda: (
        one_output,
        data(),
        {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "weighted_metrics": ["accuracy"]},
        {0: 0.5, 2: 3.0, 1: 1.0},
    ),
    "two_outputs": lambda: (
        two_outputs,
        data(two=True),
        {
            "loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"},
            "metrics": {"kind": ["accuracy"], "size": ["mae"]},
            "loss_weights": {"kind": 0.5, "size": 2.0},
        },
        None,
    ),
    "dict_outputs": lambda: (
        lambda: two_outputs(as_dict=True),
        data(two=True, weights=True),
        {"loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"}, "weighted_metrics": {"size": ["mae"]}},
        None,
    ),
}


def feed_of(given: dict[str, Any], *, shuffle: bool = True) -> Any:
    return array_feed(given["x"], given["y"], batch_size=8, sample_weight=given.get("sample_weight"), shuffle=shuffle)


def feed_with_targets(given: dict[str, Any], **options: Any) -> Any:
    """A feed whose `y` may be a dict. It is fetched by the sample's index."""
    feed = array_feed(given["x"], np.zeros(SAMPLES, np.int64), batch_size=8, **options)
    return Fetched(feed, given)


class Fetched:
    """A feed with different targets, and with weights, for the same samples."""

    def __init__(self, feed: Any, given: dict[str, Any]) -> None:
        self.feed, self.given = feed, given
        self.steps_per_epoch, self.end = feed.steps_per_epoch, feed.end
        self.has_ragged_batch = feed.has_ragged_batch
        self.element_spec = self().element_spec

    def _fetch(self, batch: Any) -> Any:
        y = tf.nest.map_structure(lambda part: tf.gather(part, batch["index"]), self.given["y"])
        weights = {}
        if "sample_weight" in self.given:
            weights = {"sample_weight": tf.gather(self.given["sample_weight"], batch["index"])}
        return batch | {"y": y} | weights

    def __call__(self, start_step: int = 0) -> Any:
        return self.feed(start_step).map(self._fetch)

    def stacked(self, k: int) -> Any:
        from loopwright.data.stacked_feed import StackedFeed, stack_batches

        return StackedFeed(self, k, stack_batches)  # type: ignore[arg-type]


def triples(feed: Any) -> Any:
    def triple(batch: Any) -> Any:
        return (batch["x"], batch["y"], *((batch["sample_weight"],) if "sample_weight" in batch else ()))

    return feed().map(triple)


def by_fit(case: str, **options: Any) -> tuple[keras.Model, dict[str, float]]:
    build, given, compiled, class_weight = CASES[case]()
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(keras.optimizers.Adam(1e-2), **compiled, **options)
    feed = feed_with_targets(given)
    history = model.fit(
        triples(feed), steps_per_epoch=feed.steps_per_epoch, epochs=2, class_weight=class_weight, verbose=0
    )
    return model, {name: values[-1] for name, values in history.history.items()}


@functools.cache
def by_graph(case: str) -> tuple[keras.Model, dict[str, float], dict[str, float]]:
    return by_loop(case, trainer.graph(3))


def by_loop(case: str, execution: Any) -> tuple[keras.Model, dict[str, float], dict[str, float]]:
    """The trained model, the last epoch's means, and an evaluation."""
    build, given, compiled, class_weight = CASES[case]()
    keras.utils.set_random_seed(0)
    model = build()
    feed, eval_feed = feed_with_targets(given), feed_with_targets(given, shuffle=False)
    objective = trainer.objective_from_keras(**compiled, class_weight=class_weight).build(model, feed.element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.Adam(1e-2), metrics=objective.metrics)
    logs: dict[str, float] = {}

    def log(state: Any, metrics: Any) -> None:
        logs.update({name: float(value) for name, value in metrics.items()})

    hooks = [trainer.every(feed.steps_per_epoch, log)]
    step = trainer.gradient_step(objective)
    trainer.train(state, feed, step, num_steps=STEPS, execution=execution, hooks=hooks)
    return model, logs, trainer.evaluate(state, eval_feed, objective)


def distance(one: keras.Model, other: keras.Model) -> float:
    pairs = zip(one.weights, other.weights, strict=True)
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)


@pytest.mark.parametrize(
    "case",
    [name if name in ("weighted", "two_outputs") else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_objective_gives_the_weights_and_the_numbers_of_fit(case: str) -> None:
    fitted, history = by_fit(case, jit_compile=False)
    model, logs, evaluated = by_graph(case)
    assert distance(fitted, model) == 0
    assert set(history) == set(logs) == set(evaluated)
    # `fit` gives the partial losses of a ragged batch the weight of a whole batch. Here every row has the same weight.
    exact = {name for name in history if not name.endswith("_loss")}
    assert {name: logs[name] for name in exact} == pytest.approx({name: history[name] for name in exact}, rel=1e-6)
    assert {name: logs[name] for name in logs} == pytest.approx(history, rel=0.2)


@pytest.mark.parametrize("case", ["weighted", "two_outputs"])
def test_evaluation_of_a_keras_objective_is_exact(case: str) -> None:
    model, _, evaluated = by_graph(case)
    _, given, compiled, _ = CASES[case]()
    model.compile(**compiled)
    whole = model.evaluate(
        given["x"],
        given["y"],
        sample_weight=None,
        batch_size=SAMPLES,
        verbose=0,
        return_dict=True,
    )
    unweighted = {name for name in whole if not name.startswith(("loss", "weighted")) and name != "accuracy"}
    assert unweighted
    assert {n: evaluated[n] for n in unweighted} == pytest.approx({n: whole[n] for n in unweighted}, rel=1e-5)


@pytest.mark.slow
def test_eager_gives_the_weights_of_eager_fit() -> None:
    fitted, history = by_fit("weighted", run_eagerly=True)
    model, logs, _ = by_loop("weighted", trainer.eager())
    assert distance(fitted, model) == 0
    assert logs == pytest.approx(history, rel=1e-6)


@pytest.mark.slow
def test_xla_gives_the_weights_of_fit_by_xla() -> None:
    fitted, history = by_fit("weighted", jit_compile=True)
    model, logs, _ = by_loop("weighted", trainer.xla(3))
    assert distance(fitted, model) < 1e-6
    assert logs == pytest.approx(history, rel=1e-5)


@pytest.mark.slow
def test_padding_counts_for_nothing() -> None:
    given = data(weights=True, one_hot=True)
    model = one_output()
    options = CASES["weighted"]()[2]
    results = []
    for pad in (False, True):
        feed = array_feed(
            given["x"], given["y"], batch_size=8, sample_weight=given["sample_weight"], shuffle=False, pad=pad
        )
        objective = trainer.objective_from_keras(**options).build(model, feed.element_spec)
        state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=objective.metrics)
        results.append(trainer.evaluate(state, feed, objective))
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_model_that_adds_its_losses_itself_needs_no_other() -> None:
    class Encoder(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(6)

        def call(self, x: Any) -> Any:
            y = self.dense(x)
            self.add_loss(keras.ops.mean(keras.ops.square(y - x)))
            return y

    given = data()
    model = Encoder()
    model(given["x"][:1])
    objective = trainer.objective_from_keras(None)
    state = trainer.TrainState.create(model, keras.optimizers.Adam(1e-2))
    before = trainer.evaluate(state, feed_of(given, shuffle=False), objective)["loss"]
    trainer.train(state, feed_of(given), trainer.gradient_step(objective), num_steps=30, execution=trainer.graph())
    assert trainer.evaluate(state, feed_of(given, shuffle=False), objective)["loss"] < 0.8 * before


@pytest.mark.slow
def test_metrics_are_restored_in_the_middle_of_a_window(tmp_path: Any) -> None:
    def fresh() -> tuple[Any, Any, Any]:
        keras.utils.set_random_seed(0)
        keras.utils.clear_session()
        build, given, compiled, _ = CASES["weighted"]()
        model, feed = build(), feed_of(given)
        objective = trainer.objective_from_keras(**compiled).build(model, feed.element_spec)
        state = trainer.TrainState.create(model, keras.optimizers.Adam(), metrics=objective.metrics)
        return state, feed, trainer.gradient_step(objective)

    logs: list[dict[str, float]] = []

    def log(state: Any, metrics: Any) -> None:
        logs.append({name: float(value) for name, value in metrics.items()})

    checkpoint = trainer.Checkpoint(tmp_path)
    state, feed, step = fresh()
    hooks = [trainer.every(7, log), trainer.every(4, checkpoint)]
    trainer.train(state, feed, step, num_steps=7, execution=trainer.graph(), hooks=hooks)
    again, feed, step = fresh()
    restore_folder(tmp_path / "00000004", again)
    trainer.train(again, feed, step, num_steps=7, execution=trainer.graph(), hooks=[trainer.every(7, log)])
    assert logs[0] == logs[1]
    assert "auc" in logs[0]
    assert again.hashes() == state.hashes()


def test_metrics_before_build_are_refused() -> None:
    with pytest.raises(ValueError, match=r"build\(model"):
        _ = trainer.objective_from_keras("mse", ["mae"]).metrics


def test_class_weights_multiply_sample_weights() -> None:
    given, model = data(weights=True), one_output()
    objective = trainer.objective_from_keras("sparse_categorical_crossentropy", class_weight={1: 4.0})
    plain = trainer.objective_from_keras("sparse_categorical_crossentropy")
    both = {**given, "sample_weight": given["sample_weight"] * np.where(given["y"] == 1, 4, 1)}
    ours, expected = (
        float(f({key: tf.constant(part) for key, part in batch.items()}).loss)
        for f, batch in (
            (lambda batch: objective(model, batch, training=False), given),
            (lambda batch: plain(model, batch, training=False), both),
        )
    )
    assert ours == pytest.approx(expected, rel=1e-6)


def test_class_weights_of_two_outputs_are_refused() -> None:
    given = data(two=True)
    objective = trainer.objective_from_keras("mse", class_weight={0: 1.0})
    with pytest.raises(ValueError, match="single output"):
        objective(two_outputs(), {"x": given["x"], "y": given["y"]}, training=False)


@pytest.mark.parametrize("labels", [[0, 2, 5], [[0], [2], [5]], np.eye(6)[[0, 2, 5]]], ids=["1d", "column", "one-hot"])
def test_class_weights_are_one_where_none_is_given(labels: Any) -> None:
    from loopwright.trainer.base import shapes
    from loopwright.trainer.base.shapes import class_weights

    classes, _ = shapes.class_labels(tf.constant(labels), tf.TensorShape([3, 6]))
    assert class_weights(classes, {0: 0.5, 3: 9.0}).numpy().tolist() == [0.5, 1.0, 1.0]


class OwnStep(keras.Model):
    """A model that overrides the train step and the loss, and keeps its own metric."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.drop = keras.layers.Dropout(0.3)
        self.largest = keras.metrics.Mean(name="largest")

    def call(self, x: Any, training: Any = None) -> Any:
        return self.drop(self.dense(x), training=training)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        self.largest.update_state(keras.ops.max(keras.ops.abs(data[0])))
        return {**logs, "largest": self.largest.result(), "twice": 2.0 * tf.reduce_sum(self.dense.bias)}


def own_step(given: dict[str, Any]) -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = OwnStep()
    model(given["x"][:1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], jit_compile=False)
    return model


def test_step_from_keras_runs_the_models_own_train_step(tmp_path: Any) -> None:
    given = data(weights=True)
    feed = feed_of(given)
    fitted = own_step(given)
    history = fitted.fit(triples(feed), steps_per_epoch=feed.steps_per_epoch, epochs=2, verbose=0).history

    model = own_step(given)
    step = trainer.step_from_keras(model, feed.element_spec)
    state = trainer.TrainState.create(model, model.optimizer, metrics=step.metrics)
    logs: dict[str, float] = {}

    def log(state: Any, metrics: Any) -> None:
        logs.update({name: float(value) for name, value in metrics.items()})

    checkpoint = trainer.Checkpoint(tmp_path)
    hooks = [trainer.every(feed.steps_per_epoch, log), trainer.every(4, checkpoint)]
    trainer.train(state, feed, step, num_steps=STEPS, execution=trainer.graph(3), hooks=hooks)
    assert distance(fitted, model) == 0
    assert {"loss", "accuracy", "largest", "twice"} <= set(logs)
    for name in ("loss", "accuracy", "largest"):
        assert logs[name] == pytest.approx(history[name][-1], rel=1e-6)

    model = own_step(given)
    step = trainer.step_from_keras(model, feed.element_spec)
    again = trainer.TrainState.create(model, model.optimizer, metrics=step.metrics)
    restore_folder(tmp_path / "00000004", again)
    trainer.train(
        again, feed, step, num_steps=STEPS, execution=trainer.graph(), hooks=[trainer.every(feed.steps_per_epoch, log)]
    )
    assert again.hashes() == state.hashes()


def test_step_from_keras_wants_a_compiled_and_built_model() -> None:
    spec = feed_of(data()).element_spec
    with pytest.raises(ValueError, match="not compiled"):
        trainer.step_from_keras(one_output(), spec)
    model = OwnStep()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="not built"):
        trainer.step_from_keras(model, spec)


def train_with(callback: Any, *, num_steps: int = 20, losses: list[float] | None = None, state: Any = None) -> Any:
    given = data()
    feed = feed_of(given)
    keras.utils.set_random_seed(0)
    state = state or trainer.TrainState.create(one_output(), keras.optimizers.Adam(1e-2))
    objective = trainer.classification(from_logits=False)
    epoch = feed.steps_per_epoch
    evaluate = trainer.Evaluate(feed_of(given, shuffle=False), objective)

    def scripted(state: Any, metrics: Any) -> None:
        evaluate.last = {"loss": losses.pop(0)} if losses else {"loss": 1.0}

    hooks = [
        trainer.every(epoch, scripted if losses else evaluate),
        *trainer.keras_callback(callback, state, steps_per_epoch=epoch, num_steps=num_steps, evaluate=evaluate),
    ]
    trainer.train(
        state, feed, trainer.gradient_step(objective), num_steps=num_steps, execution=trainer.graph(), hooks=hooks
    )
    return state


def test_keras_callback_is_called_as_fit_calls_it() -> None:
    seen: list[Any] = []
    callback = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"),
        on_epoch_begin=lambda epoch, logs: seen.append(epoch),
        on_epoch_end=lambda epoch, logs: seen.append((epoch, set(logs))),
        on_train_end=lambda logs: seen.append("end"),
    )
    given = data()
    steps = feed_of(given).steps_per_epoch
    state = train_with(callback, num_steps=2 * steps)
    by_loop, callback_params = seen.copy(), callback.params
    seen.clear()
    state.model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    sizes = {"epochs": 2, "batch_size": 8, "verbose": 0}
    pair = (given["x"], given["y"])
    state.model.fit(*pair, validation_data=pair, steps_per_epoch=steps, callbacks=[callback], **sizes)
    assert by_loop == seen
    assert callback_params == callback.params
    seen.clear()
    train_with(callback, num_steps=2 * steps + 2)
    assert seen[-2:] == [2, "end"]  # an epoch that begins and doesn't end


def test_keras_early_stopping_stops_and_restores_the_best_weights() -> None:
    kept: list[np.ndarray] = []

    class Stopping(keras.callbacks.EarlyStopping):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            kept.append(self.model.weights[0].numpy())
            super().on_epoch_end(epoch, logs)

    callback = Stopping("val_loss", patience=2, restore_best_weights=True)
    state = train_with(callback, num_steps=100, losses=[0.5, 0.3, 0.4, 0.6, 0.2])
    assert int(state.step) == 20
    assert np.array_equal(state.model.weights[0].numpy(), kept[1])


@pytest.mark.slow
def test_keras_rate_callbacks_change_the_rate_and_know_the_epoch_of_a_resumed_run() -> None:
    state = train_with(keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / 2**epoch), num_steps=10)
    assert float(state.optimizer.learning_rate) == pytest.approx(0.1 / 2)
    state = train_with(keras.callbacks.LearningRateScheduler(lambda epoch: 1.0 + epoch), num_steps=15, state=state)
    assert float(state.optimizer.learning_rate) == pytest.approx(3.0)
    callback = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    state = train_with(callback, num_steps=15, losses=[0.1, 0.2, 0.05])
    assert float(state.optimizer.learning_rate) == pytest.approx(0.005)


class AfterTests(keras.callbacks.Callback):
    def on_test_end(self, logs: Any = None) -> None: ...


class Batchwise(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: keras.callbacks.ModelCheckpoint("m.keras"), "ModelCheckpoint.*trainer.Checkpoint"),
        (lambda: keras.callbacks.BackupAndRestore("b"), "BackupAndRestore.*trainer.Checkpoint"),
        (lambda: keras.callbacks.TensorBoard("t"), "TensorBoard.*trainer.TensorBoard"),
        (lambda: keras.callbacks.CSVLogger("c.csv"), "CSVLogger.*JsonLines"),
        (lambda: keras.callbacks.TerminateOnNaN(), "TerminateOnNaN.*on_batch_end"),
        (AfterTests, "AfterTests.*on_test_end.*never calls"),
        (Batchwise, "Batchwise.*on_train_batch_end.*every"),
        (lambda: keras.callbacks.LambdaCallback(on_train_batch_end=print), "LambdaCallback.*on_train_batch_end"),
    ],
)
def test_callback_that_needs_more_is_refused_by_name(make: Any, parts: str, make_state: Any) -> None:
    with pytest.raises(trainer.TrainingError, match=parts):
        trainer.keras_callback(make(), make_state(), steps_per_epoch=5, num_steps=10)
