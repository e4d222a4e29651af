"""Variables that are frozen up to a step and trained from there on."""

from typing import Any

import keras
import numpy as np
import pytest

from loopwright import trainer
from loopwright.trainer.core.thawing import thawing

AT = 7


def small() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(8, name="backbone"), keras.layers.Dense(3)]
    )


def begun(make_state: Any) -> tuple[trainer.TrainState, Any]:
    """A state whose first layer is frozen after its optimizer was built, and what thaws it."""
    state = make_state(small)
    frozen = list(state.model.get_layer("backbone").trainable_variables)
    for variable in frozen:
        variable.trainable = False

    def thaw() -> None:
        for variable in frozen:
            variable.trainable = True

    return state, thaw


def test_frozen_variables_stay_until_the_step_and_train_from_there(
    make_state: Any, make_feed: Any, objective: Any
) -> None:
    state, thaw = begun(make_state)
    kernel = state.model.get_layer("backbone").kernel
    first, seen = np.array(kernel), {}
    watch = trainer.every(1, lambda state, metrics: seen.update({int(state.step): np.array(kernel)}))
    execution = thawing(trainer.graph(5), AT, thaw)
    trainer.train(
        state, make_feed(), trainer.gradient_step(objective), num_steps=12, execution=execution, hooks=[watch]
    )
    assert all((seen[step] == first).all() for step in range(1, AT + 1))
    assert not (seen[AT + 1] == first).all()


@pytest.mark.parametrize("stop", [AT - 2, AT, AT + 2])
def test_run_that_stops_around_the_step_ends_in_the_same_bits(
    make_state: Any, make_feed: Any, objective: Any, stop: int
) -> None:
    def go(stops: list[int]) -> dict[str, str]:
        tensors = None
        for stop in stops:
            state, thaw = begun(make_state)
            if tensors is not None:
                state.assign(tensors)
            step, execution = trainer.gradient_step(objective), thawing(trainer.graph(5), AT, thaw)
            trainer.train(state, make_feed(), step, num_steps=stop, execution=execution)
            tensors = state.tensors()
        return {name: value for name, value in state.hashes().items() if name != "window"}

    assert go([stop, 12]) == go([12])
