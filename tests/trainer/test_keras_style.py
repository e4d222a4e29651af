"""`trainer.fit` does what its written-out body does, whatever loss it is given, and has no option beyond that."""

import inspect
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer import keras_style

#: Fields that differ between two equal runs.
VOLATILE = ("wall_time", "examples_per_second")


def softmax_model(precision: str = "float32") -> keras.Model:
    """Dense layers and dropout, which give probabilities of three classes. The names are those of a new process."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return keras.Sequential(
            [
                keras.Input((8, 8, 1), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(3, activation="softmax", dtype="float32"),
            ]
        )
    finally:
        keras.config.set_dtype_policy(before)


def one_hot_feed(**options: Any) -> Any:
    """Seventy images of three classes, with one-hot labels. The last of five batches is ragged."""
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 70)]
    return array_feed(rng.integers(0, 256, (70, 8, 8, 1), np.uint8), labels, batch_size=16, **options)


def index_feed(**options: Any) -> Any:
    """The same with the numbers of the classes as labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 70)
    return array_feed(rng.integers(0, 256, (70, 8, 8, 1), np.uint8), labels, batch_size=16, **options)


def written_out(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    objective: Any,
    train_feed: Any,
    eval_feed: Any = None,
    *,
    epochs: int,
    workdir: pathlib.Path,
    hooks: Sequence[Any] = (),
    log_every: int = 1,
) -> trainer.TrainState:
    """What a user writes who has outgrown `fit`."""
    step = trainer.gradient_step(objective)
    metrics, extras = getattr(objective, "metrics", ()), step.extras(model, optimizer)
    state = trainer.TrainState.create(model, optimizer, metrics=metrics, extras=extras)
    evaluate = trainer.Evaluate(eval_feed, objective) if eval_feed is not None else None
    epoch = train_feed.steps_per_epoch
    with trainer.Run(workdir, state) as run:
        return trainer.train(
            state,
            train_feed,
            step,
            num_steps=epochs * epoch,
            execution=trainer.graph(clock=run.clock),
            hooks=run.hooks(
                evaluate,
                feed=train_feed,
                num_steps=epochs * epoch,
                log_every=log_every,
                eval_every=epoch,
                checkpoint_every=epoch,
                extra=hooks,
            ),
        )


def records(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds, apart from what the clock says."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in VOLATILE} for line in lines]


def checkpoints(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def from_keras(loss: Any, metrics: Any = None) -> Callable[[keras.Model, Any], Any]:
    return lambda model, feed: trainer.objective_from_keras(loss, metrics).build(model, feed.element_spec)


def weighted(model: keras.Model, batch: Any, *, training: bool) -> trainer.Outputs:
    """An objective that is a plain function: twice the mean squared error of one-hot labels."""
    errors = tf.reduce_mean(tf.square(model(batch["x"], training=training) - batch["y"]), axis=-1)
    count = tf.cast(tf.size(errors), tf.float32)
    return trainer.Outputs(2 * tf.reduce_mean(errors), {"loss": (2 * tf.reduce_sum(errors), count)})


def accuracy_and_auc() -> list[Any]:
    return ["accuracy", keras.metrics.AUC(name="auc")]


#: The feed, the loss that `fit` is given, the objective that is written out, and the metrics that both record.
LOSSES: dict[str, tuple[Any, Callable[[], Any], Callable[[keras.Model, Any], Any], set[str]]] = {
    "name": (
        index_feed,
        lambda: "sparse_categorical_crossentropy",
        from_keras("sparse_categorical_crossentropy"),
        {"loss"},
    ),
    "loss object": (
        one_hot_feed,
        lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        from_keras(keras.losses.CategoricalCrossentropy(label_smoothing=0.1)),
        {"loss"},
    ),
    "loss class": (
        one_hot_feed,
        lambda: keras.losses.CategoricalFocalCrossentropy,
        from_keras(keras.losses.CategoricalFocalCrossentropy()),
        {"loss"},
    ),
    "loss function": (
        one_hot_feed,
        lambda: keras.losses.mean_squared_error,
        from_keras(keras.losses.mean_squared_error),
        {"loss"},
    ),
    "objective": (
        index_feed,
        lambda: trainer.classification(from_logits=False),
        lambda model, feed: trainer.classification(from_logits=False),
        {"loss", "accuracy"},
    ),
    "function": (one_hot_feed, lambda: weighted, lambda model, feed: weighted, {"loss"}),
    "objective_from_keras": (
        one_hot_feed,
        lambda: trainer.objective_from_keras("categorical_crossentropy", accuracy_and_auc()),
        lambda model, feed: from_keras("categorical_crossentropy", accuracy_and_auc())(model, feed),
        {"loss", "accuracy", "auc"},
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_fit_equals_its_body_to_the_bit(tmp_path: pathlib.Path, kind: str) -> None:
    make_feed, loss, objective, metrics = LOSSES[kind]
    feeds = make_feed(), make_feed(shuffle=False)
    fitted = trainer.fit(softmax_model(), "adam", loss(), *feeds, epochs=2, workdir=tmp_path / "fit")
    model = softmax_model()
    state = written_out(
        model, keras.optimizers.Adam(), objective(model, feeds[0]), *feeds, epochs=2, workdir=tmp_path / "body"
    )
    assert fitted.hashes() == state.hashes()
    assert int(fitted.step) == 10
    found = records(tmp_path / "fit")
    assert found == records(tmp_path / "body")
    assert [record["step"] for record in found if record["split"] == "train"] == list(range(1, 11))
    assert [record["step"] for record in found if record["split"] == "eval"] == [5, 10]
    for record in found:
        assert set(record) - {"step", "epoch", "split", "learning_rate"} == metrics
    assert checkpoints(tmp_path / "fit") == checkpoints(tmp_path / "body") == ["00000005", "00000010"]


def test_fit_without_an_evaluation_feed_trains_and_saves(tmp_path: pathlib.Path) -> None:
    loss, feed = "sparse_categorical_crossentropy", index_feed()
    fitted = trainer.fit(softmax_model(), "sgd", loss, feed, epochs=2, workdir=tmp_path / "fit")
    model = softmax_model()
    objective = from_keras(loss)(model, feed)
    state = written_out(model, keras.optimizers.SGD(), objective, feed, epochs=2, workdir=tmp_path / "body")
    assert fitted.hashes() == state.hashes()
    assert records(tmp_path / "fit") == records(tmp_path / "body")
    assert {record["split"] for record in records(tmp_path / "fit")} == {"train"}
    assert checkpoints(tmp_path / "fit") == ["00000005", "00000010"]
    summary = json.loads((tmp_path / "fit" / "summary.json").read_text())
    assert (summary["step"], summary["eval"], summary["best"]) == (10, None, None)


@pytest.mark.parametrize("kind", ["name", "objective_from_keras"])
def test_fit_that_goes_on_for_more_epochs_equals_a_longer_one(tmp_path: pathlib.Path, kind: str) -> None:
    make_feed, loss, _, _ = LOSSES[kind]
    feeds = make_feed(), make_feed(shuffle=False)
    straight = trainer.fit(softmax_model(), "adam", loss(), *feeds, epochs=4, workdir=tmp_path / "straight")
    for epochs in (1, 3, 3, 4):
        state = trainer.fit(softmax_model(), "adam", loss(), *feeds, epochs=epochs, workdir=tmp_path / "parts")
        assert int(state.step) == 5 * epochs
    assert state.hashes() == straight.hashes()
    assert records(tmp_path / "parts") == records(tmp_path / "straight")


def test_fit_logs_five_times_an_epoch_and_at_least_every_hundred_steps(tmp_path: pathlib.Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1010, 2)).astype(np.float32)
    for steps, expected in ((3, [1, 2, 3]), (22, [4, 8, 12, 16, 20, 22]), (505, [100, 200, 300, 400, 500, 505])):
        keras.utils.clear_session(free_memory=False)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        feed = array_feed(rows[: 2 * steps], rows[: 2 * steps, 0], batch_size=2)
        trainer.fit(model, "sgd", trainer.regression(), feed, epochs=1, workdir=tmp_path / str(steps))
        assert [record["step"] for record in records(tmp_path / str(steps))] == expected


def test_fit_calls_hooks_after_evaluation_and_before_a_checkpoint_is_saved(tmp_path: pathlib.Path) -> None:
    seen: list[tuple[int, list[int], int]] = []

    class Look:
        reads_metrics = False

        def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
            evaluated = [record["step"] for record in records(tmp_path) if record["split"] == "eval"]
            saved = checkpoints(tmp_path) if (tmp_path / "checkpoints").exists() else []
            seen.append((int(state.step), evaluated, len(saved)))

    feeds = index_feed(), index_feed(shuffle=False)
    hooks = [trainer.every(5, Look())]
    loss = trainer.classification(from_logits=False)
    trainer.fit(softmax_model(), "adam", loss, *feeds, epochs=2, workdir=tmp_path, hooks=hooks)
    assert seen == [(5, [5], 0), (10, [5, 10], 1)]


@pytest.mark.parametrize("optimizer", ["adam", "object"])
def test_model_in_mixed_float16_is_loss_scaled(tmp_path: pathlib.Path, optimizer: str) -> None:
    model = softmax_model("mixed_float16")
    assert model.dtype_policy.name == "mixed_float16"
    given = optimizer if optimizer == "adam" else keras.optimizers.Adam()
    loss = "sparse_categorical_crossentropy"
    state = trainer.fit(model, given, loss, index_feed(), epochs=1, workdir=tmp_path)
    assert isinstance(state.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(state.optimizer.inner_optimizer, keras.optimizers.Adam)
    assert float(state.optimizer.scale_loss(tf.constant(1.0))) > 1
    assert all(record["loss_scale"] > 1 for record in records(tmp_path))


def test_optimizer_that_scales_already_is_left_as_it_is() -> None:
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert keras_style.as_optimizer(scaling, model) is scaling
    plain = keras.optimizers.SGD()
    assert keras_style.as_optimizer(plain, model) is plain
    float16 = softmax_model("mixed_float16")
    assert keras_style.as_optimizer(scaling, float16) is scaling
    assert isinstance(keras_style.as_optimizer("sgd", model), keras.optimizers.SGD)


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_fit_and_train_grow_no_parameters() -> None:
    given = ["model", "optimizer", "loss", "train_feed", "eval_feed", "epochs", "workdir", "hooks"]
    assert parameters(trainer.fit) == given
    assert parameters(trainer.train) == ["state", "feed", "step", "num_steps", "execution", "hooks"]


def test_run_knows_no_model_loss_optimizer_or_execution() -> None:
    for method in (trainer.Run.__init__, trainer.Run.hooks):
        known = set(parameters(method))
        assert not known & {"model", "loss", "objective", "optimizer", "execution", "step"}
        assert not [name for name in known if "loss" in name or "optimizer" in name]
