"""`trainer.fit`: the whole composition in one function, for those who come from Keras."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import keras

from loopwright.trainer.compare.from_keras import objective_from_keras
from loopwright.trainer.core import border
from loopwright.trainer.core.execution import graph
from loopwright.trainer.core.feed import Feed
from loopwright.trainer.core.hook import Hook
from loopwright.trainer.core.loop import train
from loopwright.trainer.core.objective import Objective
from loopwright.trainer.core.optimizers import as_optimizer, scaling
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.core.step import gradient_step
from loopwright.trainer.hooks.evaluate import Evaluate
from loopwright.trainer.run import Run


def fit(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | str,
    loss: Any,
    train_feed: border.AnyFeed,
    eval_feed: border.AnyFeed | None = None,
    *,
    epochs: int,
    workdir: str | os.PathLike[str],
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Trains a built model for `epochs` in all, evaluates and saves after each epoch, and returns the state.

    Called again with the same `workdir`, it goes on where the run stopped. Have you outgrown it? Copy the body: it has no
    option that the parts of it lack.

    Args:
      loss: an objective, such as `classification(from_logits=True)`, or a loss as `compile` takes it. For metrics, give
        `objective_from_keras(loss, metrics)`.
      hooks: called after evaluation and before a checkpoint is saved.
    """
    epochs = border.as_count("epochs", epochs)
    train_feed = border.as_feed(train_feed, start_step=0, repeat=True)
    objective = as_objective(loss, model, train_feed)
    step = gradient_step(objective)
    optimizer = scaling(as_optimizer(optimizer, model), model)
    extras = step.extras(model, optimizer)
    state = TrainState.create(model, optimizer, metrics=getattr(objective, "metrics", ()), extras=extras)
    evaluate = None if eval_feed is None else Evaluate(eval_feed, objective)
    epoch = train_feed.steps_per_epoch
    with Run(workdir, state) as run:
        return train(
            state,
            train_feed,
            step,
            num_steps=epochs * epoch,
            execution=graph(clock=run.clock),
            hooks=run.hooks(
                evaluate,
                feed=train_feed,
                num_steps=epochs * epoch,
                log_every=max(1, min(100, epoch // 5)),
                eval_every=epoch,
                checkpoint_every=epoch,
                extra=hooks,
            ),
        )


def as_objective(loss: Any, model: keras.Model, feed: Feed) -> Objective:
    """An objective as it is, or one made of a loss as `compile` takes it, with its metrics built."""
    made = loss if _takes_training(loss) else objective_from_keras(loss)
    return made.build(model, feed.element_spec) if hasattr(made, "build") else made


def _takes_training(loss: Any) -> bool:
    """Whether something has the signature of an objective. A Keras loss takes no `training`."""
    if not callable(loss) or isinstance(loss, (type, keras.losses.Loss)):
        return False
    return "training" in inspect.signature(loss).parameters
