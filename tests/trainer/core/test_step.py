"""The gradient step: accumulation compared with a large batch, norms worked out by hand, skipped updates."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.data.feed import array_feed

#: Executions by name. The stacks of `xla` end in the middle of an update.
EXECUTIONS = {"graph": trainer.graph(3), "xla": trainer.xla(3)}
BATCHES = 4


def dense_model() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, dtype="float32")])


def embedding_model() -> keras.Model:
    """A model whose first gradient is sparse, with repeated rows."""
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(20, 8),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, 64)


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"dense": rng.normal(size=(64, 5)).astype(np.float32), "ids": rng.integers(0, 20, (64, 5))}


def start(
    build: Callable[[], keras.Model],
    optimizer: Any,
    *,
    precision: str = "float32",
    objective: Any = None,
    **options: Any,
) -> tuple[trainer.TrainState, Any]:
    """A fresh state and its step. `optimizer` is a name, or a function that makes an optimizer."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    made = optimizer() if callable(optimizer) else trainer.make_optimizer(optimizer, 1e-2, precision=precision)
    step = trainer.gradient_step(objective or trainer.classification(from_logits=True), **options)
    return trainer.TrainState.create(model, made, extras=step.extras(model, made)), step


def distance(one: trainer.TrainState, other: trainer.TrainState) -> float:
    """The largest difference of two states in a weight or a slot of the optimizer."""
    pairs = zip(
        [*one.model.weights, *one.optimizer.variables], [*other.model.weights, *other.optimizer.variables], strict=True
    )
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    ("build", "kind", "optimizer"),
    [(dense_model, "dense", "adam"), (embedding_model, "ids", "sgd")],
    ids=["dense", "embedding"],
)
def test_accumulated_update_is_that_of_the_large_batch(
    inputs: Any, labels: Any, execution: str, build: Any, kind: str, optimizer: str
) -> None:
    rate = trainer.make_schedule("constant", 1e-2, warmup_steps=1)

    def make() -> Any:
        clip = 0.1 if kind == "dense" else None  # the norm of a sparse gradient counts repeated rows one by one
        return trainer.make_optimizer(optimizer, rate, ema_decay=0.9, clip_norm=clip)

    small, step = start(build, make, accumulation=BATCHES)
    feed = array_feed(inputs[kind], labels, batch_size=8, shuffle=False)
    trainer.train(small, feed, step, num_steps=2 * BATCHES, execution=EXECUTIONS[execution])
    large, step = start(build, make)
    feed = array_feed(inputs[kind], labels, batch_size=8 * BATCHES, shuffle=False)
    trainer.train(large, feed, step, num_steps=2, execution=trainer.graph())
    assert (int(small.step), int(small.optimizer.iterations)) == (2 * BATCHES, 2)
    assert float(small.optimizer.learning_rate) == pytest.approx(1e-2)  # the warm-up counts updates
    assert distance(small, large) < 1e-6  # slots of the moving average included
    assert all(not total.numpy().any() for total in small.extras["accumulated"].sums)


def test_accumulated_sparse_gradient_is_the_dense_one(inputs: Any, labels: Any) -> None:
    """Adam squares repeated rows of a sparse gradient one by one. Accumulation sums them first, as in a dense gradient."""
    small, step = start(embedding_model, "adam", accumulation=BATCHES)
    feed = array_feed(inputs["ids"], labels, batch_size=8, shuffle=False)
    trainer.train(small, feed, step, num_steps=BATCHES, execution=trainer.graph())
    large, step = start(embedding_model, "adam")
    apply = large.optimizer.apply
    large.optimizer.apply = lambda gradients, variables: apply([tf.convert_to_tensor(g) for g in gradients], variables)
    feed = array_feed(inputs["ids"], labels, batch_size=8 * BATCHES, shuffle=False)
    trainer.train(large, feed, step, num_steps=1, execution=trainer.graph())
    assert distance(small, large) < 1e-6


def test_variable_without_gradient_stays_as_it_is_under_accumulation(inputs: Any, labels: Any) -> None:
    def build() -> keras.Model:
        model = dense_model()
        model.unused = model.add_weight(shape=(3,), initializer="ones", name="unused")
        return model

    state, step = start(build, lambda: trainer.make_optimizer("adamw", 0.1, weight_decay=0.5), accumulation=2)
    feed = array_feed(inputs["dense"], labels, batch_size=8)
    with pytest.warns(UserWarning, match="unused"):
        trainer.train(state, feed, step, num_steps=4, execution=trainer.graph())
    assert state.model.unused.numpy().tolist() == [1, 1, 1]


def test_training_goes_on_in_the_middle_of_an_update(inputs: Any, labels: Any, tmp_path: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8)
    straight, step = start(dense_model, "adam", accumulation=BATCHES)
    trainer.train(straight, feed, step, num_steps=10, execution=trainer.graph())
    state, step = start(dense_model, "adam", accumulation=BATCHES)
    checkpoint = trainer.Checkpoint(tmp_path)
    trainer.train(state, feed, step, num_steps=6, execution=trainer.graph(), hooks=[trainer.at_end(checkpoint)])
    fresh, step = start(dense_model, "adam", accumulation=BATCHES)
    assert checkpoint.restore(fresh) == 6
    trainer.train(fresh, feed, step, num_steps=10, execution=trainer.graph())
    assert list(fresh.hashes().values()) == list(straight.hashes().values())


def test_accumulation_needs_its_sums_in_the_state(make_state: Any, make_feed: Any, objective: Any) -> None:
    step = trainer.gradient_step(objective, accumulation=2)
    with pytest.raises(ValueError, match="extras"):
        trainer.train(make_state(), make_feed(), step, num_steps=1, execution=trainer.eager())
    with pytest.raises(ValueError, match="accumulation=0"):
        trainer.gradient_step(objective, accumulation=0)


def logged_norms(state: trainer.TrainState, feed: Any, step: Any, num_steps: int, execution: Any) -> dict[str, float]:
    seen: dict[str, float] = {}

    def log(state: trainer.TrainState, metrics: Any) -> None:
        seen.update({name: float(value) for name, value in metrics.items() if name.endswith("norm")})

    trainer.train(state, feed, step, num_steps=num_steps, execution=execution, hooks=[trainer.every(num_steps, log)])
    return seen


@pytest.mark.parametrize(
    ("execution", "accumulation", "precision"),
    [
        ("graph", 1, "float32"),
        pytest.param("xla", 2, "float32", marks=pytest.mark.slow),
        pytest.param("graph", 2, "mixed_float16", marks=pytest.mark.slow),
    ],
)
def test_norms_are_those_of_the_update(
    inputs: Any, labels: Any, execution: str, accumulation: int, precision: str
) -> None:
    state, step = start(
        dense_model,
        lambda: trainer.make_optimizer("sgd", 0.5, momentum=0.0, precision=precision),
        precision=precision,
        accumulation=accumulation,
        norms=True,
    )
    before = np.concatenate([v.numpy().ravel() for v in state.model.trainable_variables])
    feed = array_feed(inputs["dense"], labels, batch_size=8)
    seen = logged_norms(state, feed, step, accumulation, EXECUTIONS[execution])
    moved = np.concatenate([v.numpy().ravel() for v in state.model.trainable_variables]) - before
    assert seen["parameter_norm"] == pytest.approx(np.linalg.norm(before), rel=1e-5)
    assert seen["update_norm"] == pytest.approx(np.linalg.norm(moved), rel=1e-3)
    assert seen["gradient_norm"] == pytest.approx(np.linalg.norm(moved) / 0.5, rel=1e-3)


def test_gradient_norm_is_unscaled_at_an_update_that_changes_the_scale(inputs: Any, labels: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8)
    seen = []
    for growth_steps in (1, 2000):

        def make(steps: int = growth_steps) -> Any:
            return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), 1024.0, dynamic_growth_steps=steps)

        state, step = start(dense_model, make, norms=True)
        seen.append(logged_norms(state, feed, step, 1, trainer.graph()))
        assert float(state.optimizer.dynamic_scale) == (2048 if growth_steps == 1 else 1024)
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


def spoilt_from(first: int, stop: int) -> Any:
    """Cross-entropy whose gradient of the second layer's kernel is infinite for the samples from `first` up to `stop`."""
    objective = trainer.classification(from_logits=True)

    def spoilt(model: keras.Model, batch: Any, *, training: bool) -> trainer.Outputs:
        outputs = objective(model, batch, training=training)
        bad = tf.reduce_any((batch["index"] >= first) & (batch["index"] < stop))
        kernel = tf.convert_to_tensor(model.layers[1].kernel)
        return outputs._replace(loss=outputs.loss + tf.reduce_sum(kernel) * tf.where(bad, np.inf, 0.0))

    return spoilt


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_spoilt_batch_skips_the_accumulated_update_and_no_other(inputs: Any, labels: Any, execution: str) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8, shuffle=False)
    options = {"precision": "mixed_float16", "accumulation": 2}
    state, step = start(dense_model, "adam", objective=spoilt_from(16, 24), **options)  # the third batch
    skips, scale = state.extras["skips"], float(state.optimizer.dynamic_scale)
    seen: dict[int, Any] = {}

    def look(state: trainer.TrainState, metrics: Any) -> None:
        numbers = int(state.optimizer.iterations), float(state.optimizer.dynamic_scale), int(skips.in_row)
        seen[int(state.step)] = numbers, [variable.numpy() for variable in state.model.weights]

    hooks = [trainer.every(2, look)]
    trainer.train(state, feed, step, num_steps=8, execution=EXECUTIONS[execution], hooks=hooks)
    assert {step: numbers for step, (numbers, _) in seen.items()} == {
        2: (1, scale, 0),
        4: (1, scale / 2, 1),
        6: (2, scale / 2, 0),
        8: (3, scale / 2, 0),
    }
    assert int(skips.total) == 1
    assert all(np.array_equal(old, new) for old, new in zip(seen[2][1], seen[4][1], strict=True))
    assert all(np.isfinite(weight).all() for weight in seen[8][1])
    assert not np.array_equal(seen[4][1][0], seen[6][1][0])


def test_first_variable_without_a_finite_gradient_is_named(inputs: Any, labels: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8, shuffle=False)
    state, step = start(dense_model, "adam", objective=spoilt_from(16, 32), precision="mixed_float16")
    said: list[str] = []
    hooks = [trainer.AbortOnSkips(5, said.append), trainer.every(2, lambda state, metrics: None)]
    trainer.train(state, feed, step, num_steps=8, execution=trainer.graph(), hooks=hooks)
    where = f"the gradient of {state.model.layers[1].kernel.path} is not finite, loss scale 8192"
    assert said == [f"step 4: 2 updates skipped so far; {where}"]


def test_abort_comes_after_more_skips_in_a_row_than_allowed(inputs: Any, labels: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8, shuffle=False)
    state, step = start(dense_model, "adam", objective=spoilt_from(16, 40), precision="mixed_float16")
    hooks = [trainer.AbortOnSkips(2)]
    with pytest.raises(trainer.TrainingError, match=r"3 updates in a row.*kernel.*mixed_bfloat16.*AbortOnSkips"):
        trainer.train(state, feed, step, num_steps=8, execution=trainer.graph(), hooks=hooks)
    state, step = start(dense_model, "adam", objective=spoilt_from(16, 40), precision="mixed_float16")
    trainer.train(state, feed, step, num_steps=8, execution=trainer.graph(), hooks=[trainer.AbortOnSkips(3)])
    assert (int(state.step), int(state.extras["skips"].total)) == (8, 3)


def test_loss_scale_has_a_floor(inputs: Any, labels: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8, shuffle=False)
    objective = spoilt_from(0, 64)
    state, step = start(dense_model, "adam", objective=objective, precision="mixed_float16", scale_floor=8192.0)
    scale = float(state.optimizer.dynamic_scale)
    assert scale / 2**8 < 8192
    trainer.train(state, feed, step, num_steps=8, execution=trainer.graph())
    assert float(state.optimizer.dynamic_scale) == 8192


def test_float16_goes_on_with_its_scale_and_its_skips(inputs: Any, labels: Any, tmp_path: Any) -> None:
    feed = array_feed(inputs["dense"], labels, batch_size=8, shuffle=False)

    def fresh() -> Any:
        return start(dense_model, "adam", objective=spoilt_from(16, 32), precision="mixed_float16")

    straight, step = fresh()
    trainer.train(straight, feed, step, num_steps=8, execution=trainer.graph())
    state, step = fresh()
    checkpoint = trainer.Checkpoint(tmp_path)
    trainer.train(state, feed, step, num_steps=3, execution=trainer.graph(), hooks=[trainer.at_end(checkpoint)])
    again, step = fresh()
    checkpoint.restore(again)
    assert float(again.optimizer.dynamic_scale) == float(state.optimizer.dynamic_scale) == 2**14
    assert int(again.extras["skips"].total) == 1
    trainer.train(again, feed, step, num_steps=8, execution=trainer.graph())
    assert list(again.hashes().values()) == list(straight.hashes().values())
