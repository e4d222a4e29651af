"""Trains a model in one process and goes on in another: `python going_on.py FOLDER CASE…` is the second.

A case is `model,optimizer,precision,by`, where `by` is `loop` or `fit`. Both halves see the same batches.
"""

import pathlib
import sys
from typing import Any

import keras
import numpy as np

from loopwright import models, trainer
from loopwright.data.feed import array_feed

RNG = np.random.default_rng(0)
SHAPE = (20, 20, 1)
FEED = array_feed(RNG.integers(0, 256, (36, *SHAPE), np.uint8), RNG.integers(0, 10, 36), batch_size=16, seed=5)
EPOCH = FEED.steps_per_epoch


def train(state: trainer.TrainState, case: str, epochs: int) -> None:
    """Trains epochs from the state's step on, by the loop or by `fit`."""
    name, _, _, by = case.split(",")
    step = int(state.step)
    if by == "loop":
        objective = trainer.classification(from_logits=models.MODELS[name].outputs == "logits")
        stop = step + epochs * EPOCH
        trainer.train(state, FEED, trainer.gradient_step(objective), num_steps=stop, execution=trainer.graph())
        return
    batches = FEED(step).map(lambda batch: (batch["x"], batch["y"]))
    state.model.fit(batches, epochs=epochs, steps_per_epoch=EPOCH, shuffle=False, verbose=0)


def begin(folder: pathlib.Path, case: str) -> Any:
    """Trains two epochs, exports, and trains a third epoch. The resumed training must reach the same variables."""
    name, optimizer, precision, _ = case.split(",")
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    network = models.create(name, SHAPE, 10, precision=precision)
    made = trainer.make_optimizer(optimizer, 1e-3, weight_decay=0.01, precision=precision, model=network)
    state = trainer.TrainState.create(network, made)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=models.MODELS[name].outputs == "logits")
    network.compile(optimizer=made, loss=loss, metrics=["accuracy"])
    train(state, case, 2)
    state.step.assign(2 * EPOCH)  # which `fit` doesn't count
    trainer.export_h5(state, folder / f"{case}.h5")
    train(state, case, 1)
    return trainer.functional_twin(network), made


def values(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """The weights, the seeds, and the optimizer's variables by their names in the file."""
    from loopwright.trainer.export.h5_reader import optimizer_slots

    place = {id(variable): number for number, variable in enumerate(model.weights)}
    named = {f"model/{number}": variable for number, variable in enumerate(model.variables)}
    named |= {f"optimizer/{name}": variable for name, variable in optimizer_slots(optimizer, place).items()}
    return {name: variable.numpy() for name, variable in named.items()}


if __name__ == "__main__":
    where = pathlib.Path(sys.argv[1])
    for case in sys.argv[2:]:
        state = trainer.load_h5(where / f"{case}.h5")
        train(state, case, 1)
        np.savez(where / f"{case}.npz", **values(state.model, state.optimizer))
