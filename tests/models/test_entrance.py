"""Which models scale their inputs themselves."""

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

from loopwright import models


def chain(*first: Any, dtype: str = "float32") -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 1), dtype=dtype), *first, layers.Flatten(), layers.Dense(3)])


def by_operation(function: Callable[[Any], Any]) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(function(inputs))))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.flatten, self.rescale = layers.Dense(3), layers.Flatten(), layers.Rescaling(1 / 255)

    def call(self, x: Any) -> Any:
        return self.dense(self.flatten(self.rescale(x)))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(keras.ops.zeros((1, 8, 8, 1)))
    return model


PIXELS: dict[str, tuple[Callable[[], keras.Model], str]] = {
    "rescaling": (lambda: chain(layers.Rescaling(1 / 255)), "Rescaling"),
    "rescaling to [-1, 1]": (lambda: chain(layers.Rescaling(1 / 127.5, offset=-1)), "Rescaling"),
    "normalization": (lambda: chain(layers.Normalization(mean=127.0, variance=4000.0)), "Normalization"),
    "after resizing and a flip": (
        lambda: chain(layers.Resizing(6, 6), layers.RandomFlip(), layers.Rescaling(1 / 255)),
        "Rescaling",
    ),
    "centring": (lambda: chain(layers.Rescaling(1.0, offset=-120.0)), "Rescaling"),
    "nested": (lambda: chain(keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255)])), "Rescaling"),
    "subclassed": (subclassed, "Rescaling"),
    "x / 255": (lambda: by_operation(lambda x: x / 255), "the operation"),
    "x * (1 / 255)": (lambda: by_operation(lambda x: x * (1 / 255)), "the operation"),
    "x / 255 in a nested model": (
        lambda: keras.Sequential([keras.Input((8, 8, 1)), by_operation(lambda x: x / 255)]),
        "the operation",
    ),
    "uint8 input": (lambda: chain(layers.Rescaling(1 / 255), dtype="uint8"), "dtype uint8"),
}
UNIT: dict[str, Callable[[], keras.Model]] = {
    "plain": lambda: chain(layers.Conv2D(2, 3)),
    "rescaling from [0, 1]": lambda: chain(layers.Rescaling(2.0, offset=-1)),
    "normalization of [0, 1]": lambda: chain(layers.Normalization(mean=0.5, variance=0.05)),
    "rescaling inside": lambda: chain(layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Rescaling(1 / 255)),
    "x - 0.5": lambda: by_operation(lambda x: x - 0.5),
    "x * 2": lambda: by_operation(lambda x: x * 2),
}


@pytest.mark.parametrize("name", PIXELS)
def test_models_that_take_pixels_are_seen(name: str) -> None:
    build, part = PIXELS[name]
    assert part in (models.scales_itself(build()) or "")


@pytest.mark.parametrize("name", UNIT)
def test_models_that_take_the_unit_range_are_seen(name: str) -> None:
    assert models.scales_itself(UNIT[name]()) is None


@pytest.mark.parametrize("name", models.MODELS)
def test_models_of_the_table_take_the_unit_range(name: str) -> None:
    assert models.scales_itself(models.create(name, **models.example(name))) is None


def test_sixteen_bits_have_another_range() -> None:
    assert models.scales_itself(chain(layers.Rescaling(1 / 65535)), 65535.0)
    assert models.scales_itself(chain(layers.Rescaling(1 / 255)), 65535.0) is None
