"""The loop and `model.fit` reach the same bits, and a certificate finds the first wrong step of a broken loop."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from loopwright import models, trainer
from loopwright.data.feed import array_feed
from loopwright.trainer.compare.parity import FIT_OPTIONS, Difference

STEPS = 12
SHAPE = (20, 20, 1)
CLASSES = 3


def regularised() -> keras.Model:
    """Batch norm, dropout and two kinds of regularizers."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", activity_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(0.01), dtype="float32"),
        ]
    )


def dense() -> keras.Model:
    """Dropout and batch norm without a convolution: quick to trace."""
    inputs = [keras.Input(SHAPE), layers.Flatten(), layers.Dropout(0.3), layers.Dense(8, "relu")]
    return keras.Sequential([*inputs, layers.BatchNormalization(), layers.Dense(CLASSES, dtype="float32")])


def two_by_two() -> keras.Model:
    """Two inputs, two outputs, and dropout on both paths."""
    image, size = keras.Input(SHAPE, name="image"), keras.Input((1,), name="size")
    x = layers.Dropout(0.2)(layers.Flatten()(image))
    x = layers.Concatenate()([x, layers.Dense(4)(size)])
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(x))
    kind, weight = layers.Dense(CLASSES, name="kind")(x), layers.Dense(1, name="weight")(x)
    return keras.Model({"image": image, "size": size}, {"kind": kind, "weight": weight})


def fresh(build: Callable[[], keras.Model], precision: str = "float32") -> keras.Model:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy(before)


def entry(name: str) -> Callable[[], keras.Model]:
    return lambda: models.create(name, SHAPE, CLASSES)


def one_hot(batch: dict[str, Any]) -> tuple[Any, ...]:
    return batch["x"], tf.one_hot(batch["y"], CLASSES)


def certify(
    feed: Any,
    build: Callable[[], keras.Model] = dense,
    optimizer: Callable[..., Any] = lambda model: keras.optimizers.Adam(1e-3),
    *,
    execution: str = "graph",
    precision: str = "float32",
    from_logits: bool = True,
    loss: Any = None,
    steps: int = STEPS,
    broken: Callable[[Any], Any] = lambda execution: execution,
    class_weight: dict[int, float] | None = None,
    label_smoothing: float = 0.0,
    **options: Any,
) -> trainer.Certificate:
    """`trainer.certify` of a classification. `broken` makes a faulty execution from the right one."""
    fitted = fresh(build, precision)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    fitted.compile(optimizer(fitted), loss, metrics=["accuracy"], **FIT_OPTIONS[execution])
    model = fresh(build, precision)
    ours = optimizer(model)
    objective = trainer.classification(
        from_logits=from_logits, class_weight=class_weight, label_smoothing=label_smoothing
    )
    step = trainer.gradient_step(objective)
    state = trainer.TrainState.create(model, ours, extras=step.extras(model, ours))
    runs = {"graph": trainer.graph(5), "xla": trainer.xla(5), "eager": trainer.eager()}
    return trainer.certify(
        fitted,
        state,
        step,
        feed,
        num_steps=steps,
        execution=broken(runs[execution]),
        class_weight=class_weight,
        **options,
    )


def made(name: str, schedule: str = "constant", precision: str = "float32", **options: Any) -> Callable[..., Any]:
    """An optimizer as the flags build it."""
    rate = trainer.make_schedule(schedule, 1e-2, warmup_steps=2 * (schedule == "cosine"), total_steps=STEPS)
    return lambda model: trainer.make_optimizer(name, rate, precision=precision, model=model, **options)


def assert_identical(certificate: trainer.Certificate) -> None:
    assert certificate.first_difference is None
    assert certificate.identical
    assert certificate.max_abs_difference == 0
    assert all(part.values for part in certificate.parts.values())
    assert certificate.loss_difference is not None
    assert certificate.loss_difference < 1e-6


@pytest.mark.parametrize(
    ("build", "optimizer", "options"),
    [
        pytest.param(entry("cnn"), made("adam"), {}, id="cnn-adam"),
        pytest.param(entry("cnn_subclass"), made("sgd"), {"from_logits": False}, id="cnn_subclass-sgd"),
        pytest.param(
            regularised, made("adamw", "cosine", weight_decay=0.01, clip_norm=0.5), {}, id="decay-clipping-schedule"
        ),
        pytest.param(
            dense, made("sgd", ema_decay=0.9, clip_value=0.01), {}, id="average-clip_value", marks=pytest.mark.slow
        ),
        pytest.param(dense, made("adam"), {"class_weight": {0: 0.5, 2: 3.0}}, id="class_weight"),
        pytest.param(
            dense,
            made("adam"),
            {
                "label_smoothing": 0.1,
                "loss": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
                "to_fit": one_hot,
            },
            id="label_smoothing",
        ),
    ],
)
def test_graph_is_fit_to_the_bit_over_ragged_batches(
    make_feed: Any, build: Any, optimizer: Any, options: dict[str, Any]
) -> None:
    feed = make_feed(side=SHAPE[0], batch_size=16)
    assert feed.has_ragged_batch
    assert_identical(certify(feed, build, optimizer, **options))


@pytest.mark.slow
def test_sample_weights_are_those_of_fit(make_feed: Any) -> None:
    weights = np.random.default_rng(1).uniform(0, 2, 70).astype(np.float32)
    assert_identical(certify(make_feed(side=SHAPE[0], sample_weight=weights)))


@pytest.mark.parametrize("precision", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"])
def test_mixed_precision_is_that_of_fit(make_feed: Any, precision: str) -> None:
    assert_identical(
        certify(make_feed(side=SHAPE[0]), optimizer=made("adam", precision=precision), precision=precision)
    )


def test_eager_is_eager_fit_to_the_bit(make_feed: Any) -> None:
    assert_identical(certify(make_feed(side=SHAPE[0]), execution="eager", steps=6))


def test_several_inputs_and_outputs_with_loss_weights_are_those_of_fit() -> None:
    rng = np.random.default_rng(0)
    x = {"image": rng.uniform(size=(50, *SHAPE)).astype("float32"), "size": rng.uniform(size=(50, 1)).astype("float32")}
    y = {"kind": rng.integers(0, CLASSES, 50), "weight": rng.uniform(size=(50, 1)).astype("float32")}
    feed = array_feed(x, y, batch_size=12)
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "weight": "mse"}
    loss_weights = {"kind": 0.7, "weight": 2.0}
    fitted = fresh(two_by_two)
    fitted.compile("adam", losses, loss_weights=loss_weights, **FIT_OPTIONS["graph"])
    model = fresh(two_by_two)
    objective = trainer.objective_from_keras(losses, loss_weights=loss_weights).build(model, feed.element_spec)
    state = trainer.TrainState.create(model, keras.optimizers.Adam(), metrics=objective.metrics)
    step = trainer.gradient_step(objective)
    assert_identical(trainer.certify(fitted, state, step, feed, num_steps=STEPS, execution=trainer.graph(5)))


def with_step(change: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """An execution that binds a different step, made by `change(state, step)`."""
    return lambda execution: lambda state, step, feed: execution(state, change(state, step), feed)


def doubled_loss(state: Any, step: Any) -> Any:
    def doubled(model: Any, batch: Any, *, training: bool) -> Any:
        outputs = step.objective(model, batch, training=training)
        return outputs._replace(loss=outputs.loss * 2)

    return trainer.gradient_step(doubled)


def swapped_seed(state: Any, step: Any) -> Any:
    seed = state.seeds[0]
    seed.assign(tf.reverse(seed + 1, [0]))
    return step


def swapped_seed_at_4(state: Any, step: Any) -> Any:
    def swapping(state: Any, batch: Any) -> Any:
        seed = state.seeds[0]
        seed.assign(tf.where(tf.equal(state.step, 3), tf.reverse(seed + 1, [0]), seed))
        return step(state, batch)

    return swapping


def reset_scale_at_3(state: Any, step: Any) -> Any:
    def resetting(state: Any, batch: Any) -> Any:
        scale = state.optimizer.dynamic_scale
        scale.assign(tf.where(tf.equal(state.step, 2), 2.0**7, scale.value))
        return step(state, batch)

    return resetting


class SkippingFeed:
    """A feed that leaves out its third batch."""

    def __init__(self, feed: Any) -> None:
        self.feed = feed

    def __call__(self, start_step: int = 0) -> Any:
        return self.feed(start_step).take(2).concatenate(self.feed(start_step).skip(3))


@pytest.mark.parametrize(
    ("broken", "step"),
    [
        pytest.param(with_step(doubled_loss), 1, id="loss-scaled-twice", marks=pytest.mark.slow),
        pytest.param(with_step(swapped_seed), 1, id="seed-swapped"),
        pytest.param(with_step(swapped_seed_at_4), 4, id="seed-swapped-later", marks=pytest.mark.slow),
        pytest.param(
            lambda execution: lambda state, step, feed: execution(state, step, SkippingFeed(feed)),
            3,
            id="batch-skipped",
        ),
    ],
)
def test_broken_loop_is_caught_at_its_first_wrong_step(make_feed: Any, broken: Any, step: int) -> None:
    certificate = certify(make_feed(side=SHAPE[0]), broken=broken)
    assert not certificate.identical
    assert certificate.first_difference is not None
    assert certificate.first_difference.step == step
    assert certificate.max_abs_difference > 0


def test_loss_scale_that_is_reset_is_named(make_feed: Any) -> None:
    precision = "mixed_float16"
    certificate = certify(
        make_feed(side=SHAPE[0]),
        optimizer=made("adam", precision=precision),
        precision=precision,
        broken=with_step(reset_scale_at_3),
    )
    slots = certificate.parts["slots"].first_difference
    assert slots is not None
    assert slots.step == 3
    assert slots.what.startswith("slots/") and slots.what.endswith("dynamic_scale")


@pytest.mark.slow
def test_loop_that_is_wrong_in_long_calls_only_is_caught(make_feed: Any) -> None:
    """The second binding is the one that runs in long calls."""
    bindings = 0

    def broken(execution: Any) -> Any:
        def bind(state: Any, step: Any, feed: Any) -> Any:
            nonlocal bindings
            bindings += 1
            return execution(state, step if bindings == 1 else doubled_loss(state, step), feed)

        return bind

    certificate = certify(make_feed(side=SHAPE[0]), broken=broken)
    assert certificate.first_difference is not None
    assert certificate.first_difference.step == STEPS
    assert "(in long calls)" in certificate.first_difference.what


@pytest.mark.slow
def test_other_weights_differ_before_the_first_step(make_feed: Any) -> None:
    def twice() -> keras.Model:
        model = dense()
        counter.append(1)
        model.layers[-1].bias.assign(tf.fill([CLASSES], float(len(counter))))
        return model

    counter: list[int] = []
    certificate = certify(make_feed(side=SHAPE[0]), twice)
    assert certificate.first_difference == Difference(0, certificate.first_difference.what)  # type: ignore[union-attr]
    assert certificate.max_abs_difference >= 1


@pytest.mark.slow
def test_not_a_number_differs_infinitely(make_feed: Any) -> None:
    def poisoned(state: Any, step: Any) -> Any:
        state.model.layers[-1].kernel.assign(tf.fill(state.model.layers[-1].kernel.shape, float("nan")))
        return step

    assert certify(make_feed(side=SHAPE[0]), dense, broken=with_step(poisoned)).max_abs_difference == float("inf")


def test_models_of_other_shapes_and_short_feeds_are_refused(make_feed: Any) -> None:
    sizes = iter((8, 9))

    def other() -> keras.Model:
        width = next(sizes)
        return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(width), layers.Dense(CLASSES)])

    with pytest.raises(trainer.TrainingError, match="different weights"):
        certify(make_feed(side=SHAPE[0]), other)
    with pytest.raises(trainer.TrainingError, match="ends at step 5"):
        certify(make_feed(side=SHAPE[0], shuffle=False), dense)
