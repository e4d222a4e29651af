"""Learning rates and updates, compared with numbers worked out by hand."""

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer


def rates(schedule: Any, steps: list[int]) -> list[float]:
    return [float(schedule(tf.constant(step, tf.int64))) for step in steps]


def test_constant_schedule_without_warmup_is_a_number() -> None:
    assert trainer.make_schedule("constant", 0.1, warmup_steps=0, total_steps=10) == 0.1


def test_constant_schedule_warms_up_linearly() -> None:
    schedule = trainer.make_schedule("constant", 0.4, warmup_steps=4, total_steps=10)
    assert rates(schedule, [0, 1, 2, 3, 4, 5, 99]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_cosine_schedule_falls_from_the_peak_to_zero() -> None:
    schedule = trainer.make_schedule("cosine", 2.0, warmup_steps=0, total_steps=8)
    expected = [2.0, 1 + math.cos(math.pi / 4), 1.0, 1 + math.cos(math.pi * 3 / 4), 0.0, 0.0]
    assert rates(schedule, [0, 2, 4, 6, 8, 20]) == pytest.approx(expected, abs=1e-6)


def test_cosine_schedule_falls_over_the_steps_after_the_warmup() -> None:
    schedule = trainer.make_schedule("cosine", 1.0, warmup_steps=2, total_steps=10)
    assert rates(schedule, [0, 1, 2, 4, 6, 10]) == pytest.approx(
        [0, 0.5, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.0], abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "warmup_steps", "part"),
    [
        ("cosin", 0, "choose constant, cosine or piecewise"),
        ("cosine", 10, "warmup_steps=10"),
        ("cosine", 11, "warmup_steps=11"),
    ],
)
def test_make_schedule_refuses_bad_input(name: str, warmup_steps: int, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        trainer.make_schedule(name, 0.1, warmup_steps=warmup_steps, total_steps=10)


def test_schedule_survives_keras_serialisation() -> None:
    schedule = trainer.make_schedule("cosine", 1.0, warmup_steps=2, total_steps=10)
    again = type(schedule).from_config(schedule.get_config())
    assert rates(again, list(range(11))) == rates(schedule, list(range(11)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [1 - 0.1 * 0.5, 1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 + 0.5)]),
        ("adam", [1 - 0.1, 1 - 0.2]),  # a gradient that doesn't change moves Adam by the learning rate
        ("adamw", [0.9 - 0.1 * 0.01 * 1, (0.899) * (1 - 0.1 * 0.01) - 0.1]),
    ],
)
def test_optimizer_takes_the_steps_worked_out_by_hand(name: str, expected: list[float]) -> None:
    variable = keras.Variable(1.0)
    optimizer = trainer.make_optimizer(name, 0.1, momentum=0.9, weight_decay=0.01 if name == "adamw" else None)
    values = []
    for _ in expected:
        optimizer.apply([tf.constant(0.5)], [variable])
        values.append(float(variable))
    assert values == pytest.approx(expected, abs=1e-5)


def test_optimizer_follows_its_schedule() -> None:
    variable = keras.Variable(1.0)
    schedule = trainer.make_schedule("constant", 0.2, warmup_steps=2, total_steps=9)
    optimizer = trainer.make_optimizer("sgd", schedule, momentum=0.0, weight_decay=0.0, precision="float32")
    values = []
    for _ in range(3):
        optimizer.apply([tf.constant(1.0)], [variable])
        values.append(float(variable))
    assert values == pytest.approx([1.0, 0.9, 0.7])


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizer_scales_the_loss_under_mixed_float16_only(name: str, precision: str) -> None:
    optimizer = trainer.make_optimizer(name, 0.1, momentum=0.9, weight_decay=0.01, precision=precision)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")
    optimizer.build([keras.Variable(1.0)])
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    assert (float(optimizer.scale_loss(tf.constant(1.0))) == 1.0) == (precision != "mixed_float16")


def test_make_optimizer_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="choose adam, adamw or sgd"):
        trainer.make_optimizer("adm", 0.1, momentum=0.9, weight_decay=0.01)


def test_numbers_of_the_update_are_float32() -> None:
    schedule = trainer.make_schedule("cosine", 1.0, warmup_steps=2, total_steps=10)
    assert schedule(tf.constant(3, tf.int64)).dtype == np.float32


def test_piecewise_schedule_falls_at_each_boundary() -> None:
    schedule = trainer.make_schedule("piecewise", 0.8, boundaries=[3, 5], factor=0.5, warmup_steps=2)
    assert rates(schedule, [0, 1, 2, 3, 4, 5, 99]) == pytest.approx([0, 0.4, 0.8, 0.4, 0.4, 0.2, 0.2])
    again = type(schedule).from_config(schedule.get_config())
    assert rates(again, list(range(7))) == rates(schedule, list(range(7)))


@pytest.mark.parametrize("boundaries", [[], [5, 3], [3, 3]])
def test_piecewise_schedule_wants_ascending_boundaries(boundaries: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        trainer.make_schedule("piecewise", 0.8, boundaries=boundaries)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_weight_decay_spares_biases_and_norms(precision: str) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable))
    optimizer = trainer.make_optimizer("adamw", 0.1, weight_decay=0.5, precision=precision, model=model)
    optimizer.build(model.trainable_variables)
    optimizer.apply([tf.zeros_like(variable) for variable in model.trainable_variables], model.trainable_variables)
    decayed = {variable.path.split("/")[-1]: float(tf.reduce_max(variable)) for variable in model.trainable_variables}
    assert decayed == pytest.approx({"kernel": 0.95, "bias": 1, "gamma": 1, "beta": 1})


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_averaged_weights_are_inside_the_block_only(precision: str) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    optimizer = trainer.make_optimizer("sgd", 1.0, momentum=0.0, ema_decay=0.75, precision=precision, model=model)
    optimizer.build(model.trainable_variables)
    scale = float(optimizer.scale_loss(tf.constant(1.0)))
    kernel = model.trainable_variables[0]
    with trainer.averaged_weights(model, optimizer):
        assert float(kernel[0, 0]) == 1  # no update yet, no average
    for _ in range(2):
        optimizer.apply([tf.constant([[-scale]])], [kernel])
    with trainer.averaged_weights(model, optimizer):
        assert float(kernel[0, 0]) == pytest.approx(0.75 * 2 + 0.25 * 3)  # the average begins at the first update
    assert float(kernel[0, 0]) == 3
    with pytest.raises(RuntimeError), trainer.averaged_weights(model, optimizer):
        raise RuntimeError
    assert float(kernel[0, 0]) == 3


def test_clipping_by_norm_and_by_value() -> None:
    def moved(**options: float) -> list[float]:
        variables = [keras.Variable([0.0]), keras.Variable([0.0])]
        trainer.make_optimizer("sgd", 1.0, momentum=0.0, **options).apply(
            [tf.constant([3.0]), tf.constant([-4.0])], variables
        )
        return [float(variable[0]) for variable in variables]

    assert moved(clip_norm=1.0) == pytest.approx([-0.6, 0.8])
    assert moved(clip_value=2.0) == [-2, 2]
    with pytest.raises(ValueError, match=r"clip_norm=1.0 and clip_value=2.0"):
        moved(clip_norm=1.0, clip_value=2.0)
