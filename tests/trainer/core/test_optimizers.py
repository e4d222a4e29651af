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
    with pytest.raises(ValueError, match=r"^optimizer=adm: 'adm' is unknown; did you mean 'adam'[?]$"):
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


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("adam", {}, {"weight_decay": None, "global_clipnorm": None, "use_ema": False}),
        ("adam", {"weight_decay": 0.0}, {"weight_decay": None}),
        ("adamw", {}, {"weight_decay": 0.004}),
        ("adamw", {"weight_decay": 0.0}, {"weight_decay": 0.0}),
        ("sgd", {}, {"momentum": 0.9}),
        ("sgd", {"momentum": 0.5}, {"momentum": 0.5}),
        ("sgd:momentum=0.25:nesterov=true", {"momentum": 0.5}, {"momentum": 0.25, "nesterov": True}),
        ("rmsprop:rho=0.95:centered=true", {"momentum": 0.5}, {"rho": 0.95, "centered": True, "momentum": 0.0}),
        ("RMSprop:momentum=0.5", {}, {"momentum": 0.5}),
        ("lion", {"weight_decay": 0.1, "ema_decay": 0.5}, {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.5}),
        ("lion", {"clip_value": 2.0}, {"clipvalue": 2.0, "weight_decay": None}),
        ("muon", {}, {"weight_decay": 0.004, "adam_weight_decay": 0.004}),
        ("muon", {"weight_decay": 0.1}, {"weight_decay": 0.1, "adam_weight_decay": 0.1}),
        ("muon:adam_weight_decay=0.2", {"weight_decay": 0.0}, {"weight_decay": 0.0, "adam_weight_decay": 0.2}),
        ("muon:exclude_layers=head", {}, {"exclude_layers": ["head"]}),
        ("schedule_free_adamw:warmup_steps=10", {}, {"warmup_steps": 10}),
    ],
)
def test_optimizer_gets_its_arguments(name: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    config = trainer.make_optimizer(name, 0.5, **given).get_config()
    assert {key: config[key] for key in expected} == expected
    assert config["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("rmsprop:ro=0.9", {}, "^optimizer=rmsprop:ro=0.9: takes no argument 'ro'; did you mean 'rho'[?]$"),
        ("adam:learning_rate=1", {}, "'learning_rate' isn't an argument here; give learning_rate=VALUE$"),
        ("adam:gradient_accumulation_steps=2", {}, "give gradient_accumulation=VALUE$"),
        ("adamw:weight_decay=0.1", {"weight_decay": 0.2}, "and weight_decay=0.2 say the same thing twice; give one"),
        ("adam:clipvalue=0.1", {"clip_value": 0.2}, "and clip_value=0.2 say the same thing twice; give one of them$"),
        ("LossScaleOptimizer", {}, "'LossScaleOptimizer' is unknown"),
        ("adam:amsgrad=1", {}, "amsgrad is true or false, not 1$"),
    ],
)
def test_bad_arguments_of_an_optimizer_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer.make_optimizer(name, 0.5, **given)


def test_learning_rate_is_a_number_or_a_schedule_of_keras() -> None:
    assert trainer.make_schedule("constant", "0.25") == 0.25
    schedule = trainer.make_schedule("constant", "exponential_decay:decay_steps=1000:decay_rate=0.9")
    assert rates(schedule, [0, 1000]) == pytest.approx([0.001, 0.0009])
    schedule = trainer.make_schedule(
        "constant", "ExponentialDecay:decay_steps=10:decay_rate=0.5:initial_learning_rate=2"
    )
    assert rates(schedule, [0, 10, 20]) == pytest.approx([2, 1, 0.5])
    schedule = trainer.make_schedule("constant", "piecewise_constant_decay:boundaries=5:values=1,2")
    assert rates(schedule, [0, 6]) == [1.0, 2.0]
    schedule = trainer.make_schedule("constant", "cosine_decay:decay_steps=10:warmup_target=2:warmup_steps=4:alpha=0")
    assert rates(schedule, [2, 4, 9, 14]) == pytest.approx([1.0005, 2.0, 1.0, 0.0])
    schedule = trainer.make_schedule("constant", "piecewise_constant_decay:boundaries=2:values=0.5,0.25")
    assert rates(schedule, [0, 2, 3]) == pytest.approx([0.5, 0.5, 0.25])
    assert rates(trainer.make_schedule("cosine", "2.0", total_steps=8), [0, 8]) == pytest.approx([2.0, 0.0])
    optimizer = trainer.make_optimizer("sgd", "inverse_time_decay:decay_steps=1:decay_rate=1:initial_learning_rate=0.5")
    assert float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize(
    ("name", "text", "given", "message"),
    [
        ("constant", "0", {}, "^learning_rate=0: gives 0.0, which is neither a schedule nor a number greater than 0$"),
        ("constant", "nan", {}, "gives nan, which is neither"),
        ("constant", "cosin_decay:decay_steps=3", {}, "'cosin_decay' is unknown; did you mean 'cosine_decay'[?]$"),
        (
            "constant",
            "exponential_decay:decay_steps=3",
            {},
            "needs decay_rate; write exponential_decay:decay_steps=3:decay_ra",
        ),
        (
            "cosine",
            "cosine_decay:decay_steps=3",
            {"total_steps": 9},
            "is a schedule already; leave out schedule=cosine, or",
        ),
        ("constant", "cosine_decay:decay_steps=3", {"warmup_steps": 2}, "leave out warmup_steps=2, or give a number$"),
    ],
)
def test_bad_learning_rates_are_refused(name: str, text: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer.make_schedule(name, text, **given)


def test_every_variable_of_nadam_is_in_a_state_that_scales_the_loss() -> None:
    with_policy = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="mixed_float16")])
    optimizer = trainer.make_optimizer("nadam", 0.1, precision="mixed_float16", model=with_policy)
    state = trainer.TrainState.create(with_policy, optimizer)
    held = {id(variable.handle) for variable in state.variables().values()}
    assert id(optimizer.inner_optimizer._u_product.value.handle) in held
