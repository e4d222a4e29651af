"""Mistakes that `verify_resume` must see. MUTANT names one; it is made when the run imports its model from here."""

import json
import os
import pathlib
from typing import Any

import keras

from loopwright import models, trainer
from loopwright.data.feed import RandomAccessFeed
from loopwright.trainer.base import atomic
from loopwright.trainer.checkpoint import checkpoint


def seed_not_saved() -> None:
    trackables = trainer.TrainState.trackables
    trainer.TrainState.trackables = lambda self: {**trackables(self), "seeds": []}  # type: ignore[method-assign]


def feed_shifted_by_a_batch() -> None:
    call = RandomAccessFeed.__call__
    RandomAccessFeed.__call__ = lambda self, step=0: call(self, step + 1 if step else 0)  # type: ignore[method-assign]


def loss_scale_reset() -> None:
    restore = checkpoint.Checkpoint.restore

    def reset(self: Any, state: Any, **options: Any) -> Any:
        step = restore(self, state, **options)
        if step is not None:
            state.optimizer.dynamic_scale.assign(2.0**10)
        return step

    checkpoint.Checkpoint.restore = reset  # type: ignore[method-assign]


def hash_not_checked() -> None:
    atomic.verify_folder = lambda folder: json.loads((pathlib.Path(folder) / atomic.MANIFEST).read_text())


def ends_before_its_kill() -> None:
    """The second process, which is to be killed, is through before that, and says that all is well."""
    with pathlib.Path("starts").open("a+") as starts:
        starts.write(".")
        if starts.tell() == 2:
            os._exit(0)


def net(input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A subclassed model with dropout: TensorFlow doesn't see its seed generator."""
    return models.create("cnn_subclass", input_shape, num_classes, precision=keras.config.dtype_policy().name)


if os.environ.get("MUTANT"):
    globals()[os.environ["MUTANT"]]()
