"""The guards of a run: a loss that isn't finite ends it, and nothing is saved afterwards."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.hooks.guards import AbortOnNonfinite


def steps_of(folder: pathlib.Path, split: str) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["step"] for record in map(json.loads, lines) if record["split"] == split]


def checkpoints(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


class Spoilt:
    """An objective whose loss is NaN at the steps whose batch holds a sample. It counts nothing else."""

    def __init__(self, objective: Any, sample: int) -> None:
        self.objective, self.sample = objective, sample

    def __call__(self, model: Any, batch: Any, *, training: bool) -> Any:
        loss, metrics = self.objective(model, batch, training=training)
        bad = tf.reduce_any(batch["index"] == self.sample) if training else tf.constant(False)
        factor = tf.where(bad, np.float32("nan"), np.float32(1))
        total, count = metrics["loss"]
        return trainer.Outputs(loss * factor, metrics | {"loss": (total * factor, count)})


def test_nan_loss_ends_a_run_and_nothing_is_saved_after_it(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path
) -> None:
    feed = make_feed()
    bad = next(step for step, batch in enumerate(feed(), 1) if step > 5 and 7 in batch["index"])
    spoilt = Spoilt(objective, 7)
    first = next(step for step, batch in enumerate(feed(), 1) if 7 in batch["index"])
    assert first <= 5 < bad  # one batch of each epoch
    evaluate = trainer.Evaluate(make_feed(shuffle=False), objective)
    called: list[int] = []

    def extra(state: trainer.TrainState, metrics: Any) -> None:
        called.append(int(state.step))

    with (
        pytest.raises(trainer.TrainingError, match=rf"the loss is nan up to step {first}, which is not saved") as error,
        trainer.Run(tmp_path, make_state(), progress="none") as run,
    ):
        hooks = run.hooks(evaluate, feed=feed, log_every=1, eval_every=1, checkpoint_every=1, extra=[extra])
        step = trainer.gradient_step(spoilt)
        trainer.train(run.state, feed, step, num_steps=20, execution=trainer.graph(), hooks=hooks)
    assert error.value.exit_code == 1
    assert called == list(range(1, first))
    assert checkpoints(tmp_path) == list(range(1, first))[-3:]
    assert steps_of(tmp_path, "eval") == list(range(1, first))
    assert not run.files.summary.exists()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["", "asynchronous"])
def test_nan_between_two_logged_steps_is_never_saved(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path, asynchronous: bool
) -> None:
    feed = make_feed()
    with (
        pytest.raises(trainer.TrainingError, match="the loss is nan up to step 10, which is not saved"),
        trainer.Run(tmp_path, make_state(), progress="none", asynchronous=asynchronous) as run,
    ):
        hooks = run.hooks(None, feed=feed, log_every=1000, checkpoint_every=10)
        step = trainer.gradient_step(Spoilt(objective, 7))
        trainer.train(run.state, feed, step, num_steps=20, execution=trainer.graph(50), hooks=hooks)
    assert checkpoints(tmp_path) == []


def test_guards_can_be_replaced(make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path) -> None:
    called: list[int] = []

    def guard(state: trainer.TrainState, metrics: Any) -> None:
        called.append(int(state.step))

    with trainer.Run(tmp_path, make_state(), progress="none") as run:
        hooks = run.hooks(None, feed=make_feed(), checkpoint_every=5, guards=[guard])
        step = trainer.gradient_step(Spoilt(objective, 7))
        trainer.train(run.state, make_feed(), step, num_steps=10, execution=trainer.graph(), hooks=hooks)
    assert called == [5, 10]
    assert checkpoints(tmp_path) == []  # a state that isn't finite is still not saved


def test_default_guards_leave_a_loss_alone_that_may_be_infinite(make_state: Any, objective: Any, tmp_path: Any) -> None:
    def guarded(state: trainer.TrainState) -> set[str]:
        hooks = trainer.Run(tmp_path, state, progress="none").hooks(None)
        guards = (AbortOnNonfinite, trainer.AbortOnSkips)
        return {type(hook).__name__ for hook in hooks if isinstance(hook, guards)}

    assert guarded(make_state()) == {"AbortOnSkips", "AbortOnNonfinite"}
    assert guarded(make_state(precision="mixed_float16")) == {"AbortOnSkips"}
    skipping, state = trainer.gradient_step(objective, skip_nonfinite=True), make_state()
    state.extras |= skipping.extras(state.model, state.optimizer)
    assert guarded(state) == {"AbortOnSkips"}
