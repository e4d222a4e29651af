"""Labels, weights and masks of every shape and dtype: weights, losses and metrics are those of `fit`."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.core.named_metrics import make_metrics

SAMPLES, TIMES, CLASSES = 21, 5, 4  # batches of 8: the last one is ragged
RNG = np.random.default_rng(0)


class Given:
    """A feed of any `y` and `sample_weight` for arrays, in the order of `array_feed`."""

    def __init__(self, x: Any, y: Any, sample_weight: Any = None, **options: Any) -> None:
        self.feed = array_feed(x, np.zeros(len(x), np.int64), 8, **options)
        self.parts = {"y": y} if sample_weight is None else {"y": y, "sample_weight": sample_weight}
        self.steps_per_epoch, self.end = self.feed.steps_per_epoch, self.feed.end
        self.examples_per_epoch = self.feed.examples_per_epoch
        self.element_spec = self().element_spec

    def __call__(self, start_step: int = 0) -> tf.data.Dataset:
        def fetch(batch: Any) -> Any:
            return batch | tf.nest.map_structure(lambda part: tf.gather(part, batch["index"]), self.parts)

        return self.feed(start_step).map(fetch)

    def stacked(self, k: int) -> Any:
        from loopwright.data.stacked_feed import StackedFeed, stack_batches

        return StackedFeed(self, k, stack_batches)  # type: ignore[arg-type]


def of_samples(outputs: int, activation: str | None = None) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, "tanh", kernel_regularizer="l2"),
            keras.layers.Dense(outputs, activation),
        ]
    )


def of_times(outputs: int, mask: str | None = None) -> keras.Model:
    entry = {
        None: lambda: [keras.Input((TIMES, 3))],
        "masking": lambda: [keras.Input((TIMES, 3)), keras.layers.Masking()],
        "embedding": lambda: [keras.Input((TIMES,)), keras.layers.Embedding(7, 3, mask_zero=True)],
    }[mask]()
    return keras.Sequential([*entry, keras.layers.SimpleRNN(6, return_sequences=True), keras.layers.Dense(outputs)])


def of_pixels() -> keras.Model:
    return keras.Sequential([keras.Input((4, 3, 2)), keras.layers.Conv2D(CLASSES, 3, padding="same")])


def flat() -> np.ndarray:
    return RNG.normal(size=(SAMPLES, 6)).astype(np.float32)


def times(empty: bool = False) -> np.ndarray:
    x = RNG.normal(size=(SAMPLES, TIMES, 3)).astype(np.float32)
    if empty:
        x[np.arange(TIMES) >= RNG.integers(1, TIMES + 1, SAMPLES)[:, None]] = 0
    return x


def words() -> np.ndarray:
    ids = RNG.integers(1, 7, (SAMPLES, TIMES))
    ids[np.arange(TIMES) >= RNG.integers(1, TIMES + 1, SAMPLES)[:, None]] = 0
    return ids


def pixels() -> np.ndarray:
    return RNG.normal(size=(SAMPLES, 4, 3, 2)).astype(np.float32)


def labels(*shape: int) -> np.ndarray:
    return RNG.integers(0, CLASSES, (SAMPLES, *shape))


def one_hot(*shape: int) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[labels(*shape)]


def weights(*shape: int) -> np.ndarray:
    return RNG.uniform(0.2, 2, (SAMPLES, *shape)).astype(np.float32)


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (3 * RNG.normal(size=(SAMPLES, *shape))).astype(dtype)


SPARSE, SOFT = "SparseCategoricalCrossentropy", "CategoricalCrossentropy"
#: The model, x, y, the sample weights, and the name of the loss, `mse` for a regression.
CASES: dict[str, Callable[[], tuple[Any, Any, Any, Any, str]]] = {
    "labels": lambda: (lambda: of_samples(CLASSES), flat(), labels(), None, SPARSE),
    "uint8 labels": lambda: (lambda: of_samples(CLASSES), flat(), labels().astype(np.uint8), None, SPARSE),
    "float labels": lambda: (lambda: of_samples(CLASSES), flat(), labels().astype(np.float64), None, SPARSE),
    "column of labels": lambda: (lambda: of_samples(CLASSES), flat(), labels(1), None, SPARSE),
    "column of labels and weights": lambda: (lambda: of_samples(CLASSES), flat(), labels(1), weights(1), SPARSE),
    "one-hot": lambda: (lambda: of_samples(CLASSES), flat(), one_hot(), weights(), SOFT),
    "integer one-hot": lambda: (lambda: of_samples(CLASSES), flat(), one_hot().astype(np.int64), None, SOFT),
    "times": lambda: (lambda: of_times(CLASSES), times(), labels(TIMES), None, SPARSE),
    "times in a column": lambda: (lambda: of_times(CLASSES), times(), labels(TIMES, 1), None, SPARSE),
    "weighted times": lambda: (lambda: of_times(CLASSES), times(), labels(TIMES), weights(TIMES), SPARSE),
    "times of weighted samples": lambda: (lambda: of_times(CLASSES), times(), labels(TIMES), weights(), SPARSE),
    "one-hot times": lambda: (lambda: of_times(CLASSES), times(), one_hot(TIMES), weights(TIMES), SOFT),
    "masked times": lambda: (lambda: of_times(CLASSES, "masking"), times(empty=True), labels(TIMES), None, SPARSE),
    "masked words": lambda: (lambda: of_times(CLASSES, "embedding"), words(), labels(TIMES), weights(TIMES), SPARSE),
    "pixels": lambda: (of_pixels, pixels(), labels(4, 3), None, SPARSE),
    "weighted pixels": lambda: (of_pixels, pixels(), labels(4, 3), weights(4, 3), SPARSE),
    "pixels in a column": lambda: (of_pixels, pixels(), labels(4, 3, 1), weights(), SPARSE),
    "integers": lambda: (lambda: of_samples(1), flat(), numbers(dtype=np.int64), None, "mse"),
    "float64": lambda: (lambda: of_samples(1), flat(), numbers(1, dtype=np.float64), weights(), "mse"),
    "bool": lambda: (lambda: of_samples(1), flat(), numbers() > 0, None, "mse"),
    "vectors": lambda: (lambda: of_samples(3), flat(), numbers(3), weights(), "mse"),
    "numbers of times": lambda: (lambda: of_times(1), times(), numbers(TIMES, 1), weights(TIMES), "mse"),
    "vectors of times": lambda: (lambda: of_times(2), times(), numbers(TIMES, 2), weights(), "mse"),
    "masked numbers": lambda: (lambda: of_times(1, "masking"), times(empty=True), numbers(TIMES, 1), None, "mse"),
}


def case(name: str) -> tuple[Any, Any, Any, Any, str]:
    global RNG
    RNG = np.random.default_rng(0)
    return CASES[name]()


def loss_of(name: str) -> Any:
    return name if name == "mse" else getattr(keras.losses, name)(from_logits=True)


def ours(loss: str) -> Any:
    return trainer.regression() if loss == "mse" else trainer.classification(from_logits=True)


def of_keras(loss: str) -> Any:
    return trainer.objective_from_keras(loss_of(loss), ["mae" if loss == "mse" else "accuracy"])


def by_fit(build: Any, feed: Any, loss: str, **options: Any) -> tuple[keras.Model, dict[str, float], dict[str, float]]:
    """The model that `fit` trains, the means of its last epoch, and its evaluation of all samples."""
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(
        keras.optimizers.Adam(0.01), loss_of(loss), metrics=["mae" if loss == "mse" else "accuracy"], jit_compile=False
    )

    def element(batch: Any) -> Any:
        if "sample_weight" not in batch:
            return batch["x"], batch["y"]
        weight, y = batch["sample_weight"], batch["y"]
        positions = y.shape.rank - (loss != SPARSE or y.shape[-1] == 1)  # what `fit` takes instead of a weight [B]
        while positions > 1 and weight.shape.rank < positions:
            weight = tf.ones_like(tf.cast(y[..., 0] if y.shape.rank > positions else y, tf.float32)) * tf.reshape(
                weight, [-1] + [1] * (positions - 1)
            )
        return batch["x"], y, weight

    history = model.fit(
        feed().map(element), steps_per_epoch=feed.steps_per_epoch, epochs=2, verbose=0, **options
    ).history
    evaluated = model.evaluate(feed().map(element).take(feed.steps_per_epoch), return_dict=True, verbose=0)
    return model, {name: values[-1] for name, values in history.items()}, evaluated


def by_loop(build: Any, feed: Any, objective: Any) -> tuple[keras.Model, dict[str, float], dict[str, float]]:
    keras.utils.set_random_seed(0)
    model = build()
    if hasattr(objective, "build"):
        objective.build(model, feed.element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01), metrics=getattr(objective, "metrics", ()))
    logs: dict[str, float] = {}
    hooks = [trainer.every(feed.steps_per_epoch, lambda state, metrics: logs.update(metrics))]
    step = trainer.gradient_step(objective)
    trainer.train(state, feed, step, num_steps=2 * feed.steps_per_epoch, execution=trainer.graph(), hooks=hooks)
    return model, logs, trainer.evaluate(state, feed, objective)


def assert_equal(loop: Any, fit: Any) -> None:
    for one, other in zip(loop[0].get_weights(), fit[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loop[1] == pytest.approx(fit[1], rel=1e-6)
    assert loop[2] == pytest.approx(fit[2], rel=1e-6)


QUICK = ("column of labels", "times of weighted samples", "one-hot times", "masked words", "bool", "masked numbers")


@pytest.mark.parametrize("objective", [ours, pytest.param(of_keras, marks=pytest.mark.slow)], ids=["ours", "of_keras"])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_labels_weights_and_masks_train_as_in_fit(name: str, objective: Any) -> None:
    build, x, y, weight, loss = case(name)
    feed = Given(x, y, weight)
    assert_equal(by_loop(build, feed, objective(loss)), by_fit(build, feed, loss))


@pytest.mark.parametrize("objective", [ours, of_keras], ids=["ours", "of_keras"])
@pytest.mark.parametrize("name", ["masked words", "times of weighted samples", "masked numbers", "column of labels"])
def test_padding_changes_no_evaluation(name: str, objective: Any) -> None:
    build, x, y, weight, loss = case(name)
    model, made = build(), objective(loss)
    feeds = [Given(x, y, weight, shuffle=False, pad=pad) for pad in (False, True)]
    if hasattr(made, "build"):
        made.build(model, feeds[0].element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=getattr(made, "metrics", ()))
    ragged, padded = (trainer.evaluate(state, feed, made) for feed in feeds)
    assert padded == pytest.approx(ragged, rel=1e-6)


def test_padding_counts_no_loss_of_the_model_itself() -> None:
    """A regulariser's loss belongs to a batch. It was counted for rows of padding, too."""
    build, x, y, _, loss = case("labels")
    state = trainer.TrainState.create(build(), keras.optimizers.SGD())
    ragged, padded = (
        trainer.evaluate(state, Given(x, y, shuffle=False, pad=pad), ours(loss))["loss"] for pad in (False, True)
    )
    assert padded == pytest.approx(ragged, rel=1e-6)


@pytest.mark.slow
def test_padding_with_masks_of_keras_trains_as_fit_does_without_padding() -> None:
    build, x, y, weight, loss = case("masked words")
    padded, ragged = (Given(x, y, weight, shuffle=False, pad=pad) for pad in (True, False))
    expected = build_and_fit(build, ragged, loss)
    for objective in (ours, of_keras):
        keras.utils.set_random_seed(0)
        model, made = build(), objective(loss)
        if hasattr(made, "build"):
            made.build(model, padded.element_spec)
        state = trainer.TrainState.create(model, keras.optimizers.Adam(0.01), metrics=getattr(made, "metrics", ()))
        step = trainer.gradient_step(made)
        trainer.train(state, padded, step, num_steps=padded.steps_per_epoch, execution=trainer.graph())
        for one, other in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def build_and_fit(build: Any, feed: Any, loss: str) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(keras.optimizers.Adam(0.01), loss_of(loss), jit_compile=False)
    model.fit(feed().map(lambda batch: (batch["x"], batch["y"], batch["sample_weight"])), verbose=0)
    return model.get_weights()


CLASS_WEIGHT = {0: 0.5, 2: 3.0}


@pytest.mark.parametrize("objective", ["ours", "of_keras"])
@pytest.mark.parametrize(
    "name", ["labels", "column of labels", "one-hot", "float labels", "times", "one-hot times", "pixels"]
)
def test_class_weights_are_those_of_each_position(name: str, objective: str) -> None:
    build, x, y, _, loss = case(name)
    model = build()
    classes = (y.argmax(-1) if loss == SOFT else y).reshape(SAMPLES, *model.output_shape[1:-1])
    table = np.array([0.5, 1, 3, 1], np.float32)
    expected = loss_of(loss)(y, model(x), sample_weight=table[classes.astype(int)]) + sum(model.losses)
    if objective == "ours":
        made: Any = trainer.classification(from_logits=True, class_weight=CLASS_WEIGHT)
    else:
        made = trainer.objective_from_keras(loss_of(loss), class_weight=CLASS_WEIGHT)
    outputs = made(model, {"x": tf.constant(x), "y": tf.constant(y)}, training=False)
    assert float(outputs.loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
def test_class_weights_of_columns_train_as_in_fit() -> None:
    build, x, y, _, loss = case("column of labels")
    feed = Given(x, y)
    weight = {label: 0.5 + label for label in range(CLASSES)}
    objective = trainer.objective_from_keras(loss_of(loss), ["accuracy"], class_weight=weight)
    loop, fit = by_loop(build, feed, objective), by_fit(build, feed, loss, class_weight=weight)
    assert_equal((*loop[:2], {}), (*fit[:2], {}))


def test_metrics_see_each_position_that_counts() -> None:
    build, x, y, _, _ = case("masked words")
    model, made = build(), make_metrics(["auc", "f1"], CLASSES)
    state = trainer.TrainState.create(model, keras.optimizers.SGD(), metrics=made)
    objective = trainer.classification(from_logits=True, metrics=made)
    got = trainer.evaluate(state, Given(x, y, shuffle=False, pad=True), objective)
    real = x != 0
    for metric in make_metrics(["auc", "f1"], CLASSES):
        metric.update_state(np.eye(CLASSES)[y][real], tf.nn.softmax(model(x))[real])
        assert got[metric.name] == pytest.approx(float(metric.result()), rel=1e-5)


def test_times_of_unknown_number_train() -> None:
    build = lambda: keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(CLASSES)])  # noqa: E731
    _, x, y, _, loss = case("times")
    model = build()
    spec = {"x": tf.TensorSpec([None, None, 3]), "y": tf.TensorSpec([None, None], tf.int64)}
    batch = {"x": tf.constant(x), "y": tf.constant(y)}
    expected = float(loss_of(loss)(y, model(x)))
    for objective in (ours(loss), of_keras(loss).build(model, spec)):
        loss_of_batch = tf.function(functools.partial(objective, model, training=False), input_signature=[spec])
        assert float(loss_of_batch(batch).loss) == pytest.approx(expected, rel=1e-6)


#: What is given, and what the one sentence says.
REFUSED: dict[str, tuple[Callable[[], tuple[Any, Any, Any, Any]], str]] = {
    "one output": (lambda: (of_samples(1), flat(), labels(), None), r"gives \(1,\) for a sample.*binary_crossentropy"),
    "too many labels": (lambda: (of_samples(CLASSES), flat(), labels(3), None), r"y is \(3,\).*one-hot labels \(4,\)"),
    "too few labels": (lambda: (of_times(CLASSES), times(), labels(), None), r"y is \(\).*takes classes \(5,\)"),
    "strings": (lambda: (of_samples(CLASSES), flat(), labels().astype(str), None), "y is of dtype string"),
    "weights": (lambda: (of_samples(CLASSES), flat(), labels(), weights(3)), r"sample_weight is \(3,\) for a sample"),
    "no labels": (lambda: (of_samples(CLASSES), flat(), None, None), "has no y, only x"),
    "several labels": (
        lambda: (of_samples(CLASSES), flat(), {"a": labels()}, None),
        "y is a dict of 1; use objective_from_keras",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_do_not_go_together_are_refused_in_a_sentence(name: str) -> None:
    build, words = REFUSED[name]
    model, x, y, weight = build()
    given = {"x": x, "y": y, "sample_weight": weight}
    batch = {key: tf.nest.map_structure(tf.constant, part) for key, part in given.items() if part is not None}
    objective = trainer.classification(from_logits=True)
    with pytest.raises(ValueError, match=words) as refused:
        tf.function(lambda: objective(model, batch, training=True).loss)()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_out_of_range_never_trains_in_silence(label: int, smoothing: float) -> None:
    """TensorFlow's loss of classes refuses it on a CPU, and gives NaN elsewhere. A label of zeros would go unseen."""
    build, x, y, _, _ = case("labels")
    y[3] = label
    model = build()
    objective = trainer.classification(from_logits=True, label_smoothing=smoothing)
    batch = {"x": tf.constant(x), "y": tf.constant(y)}
    try:
        assert np.isnan(float(objective(model, batch, training=True).loss))
    except tf.errors.InvalidArgumentError as error:
        assert "outside the valid range" in str(error)  # `train` makes a sentence of it
