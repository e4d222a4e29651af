"""A command never trains something else than a model says: own train steps, losses and `compile` are refused."""

from typing import Any

import keras
import pytest

from loopwright import flags
from loopwright.trainer.commands.train import own_methods


class Plain(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class OwnStep(Plain):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class OwnLoss(Plain):
    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        return super().compute_loss(*arguments, **options)


class Inherited(OwnStep):
    """The step is of a class above."""


class OwnSequential(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def functional() -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(3)(x))


def compiled() -> keras.Model:
    model = functional()
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("make", [Plain, functional, lambda: keras.Sequential([keras.layers.Dense(3)])])
def test_plain_model_is_trained_by_the_flags(make: Any) -> None:
    own_methods.check("mine:model", make())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (OwnStep, "its own train_step"),
        (Inherited, "its own train_step"),
        (OwnSequential, "its own train_step"),
        (OwnLoss, "its own compute_loss"),
        (compiled, "is compiled with an optimizer and a loss"),
    ],
)
def test_model_with_its_own_training_is_refused(make: Any, said: str) -> None:
    with pytest.raises(flags.UsageError, match=f"^--model=mine:model: .*{said}.*step_from_keras$"):
        own_methods.check("mine:model", make())
