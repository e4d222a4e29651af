"""Guards: values that aren't finite never reach the weights or a checkpoint, and calls fit the time after SIGTERM."""

import faulthandler
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.checkpoint.saver import Saver
from loopwright.trainer.hooks.guards import AbortOnNonfinite, StallTimeout
from loopwright.trainer.hooks.signals import ShortCalls


@pytest.fixture
def poisoned(make_feed: Any) -> Callable[[int], Any]:
    """`poisoned(n)`: a feed of five batches an epoch. The inputs of sample n, in one batch of each epoch, are NaN."""

    def make(sample: int) -> Any:
        def poison(x: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
            bad = (index == sample)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return tf.where(bad, tf.constant(float("nan")), tf.cast(x, tf.float32) / 255)

        return make_feed(augment=poison)

    return make


@pytest.fixture
def objective() -> Any:
    """Cross-entropy that is NaN where an input is NaN. A relu alone can hide it: some CPUs' kernels turn NaN into 0."""
    plain = trainer.classification(from_logits=True)

    def one(model: Any, batch: Any, *, training: bool) -> Any:
        loss, metrics = plain(model, batch, training=training)
        factor = tf.where(tf.reduce_any(tf.math.is_nan(batch["x"])), np.float32("nan"), np.float32(1))
        total, count = metrics["loss"]
        return trainer.Outputs(loss * factor, metrics | {"loss": (total * factor, count)})

    return one


@pytest.mark.parametrize(
    "execution",
    [
        pytest.param(trainer.graph(3), id="graph"),
        pytest.param(trainer.eager(), id="eager"),
        pytest.param(trainer.xla(3), id="xla", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("norms", [False, True], ids=["", "norms"])
def test_skipped_update_leaves_weights_slots_and_moving_statistics(
    make_state: Any, objective: Any, poisoned: Any, execution: Any, norms: bool
) -> None:
    step = trainer.gradient_step(objective, skip_nonfinite=True, norms=norms)
    state = make_state()
    state.extras |= step.extras(state.model, state.optimizer)
    means: list[dict[str, float]] = []
    seen: list[tuple[int, dict[str, str]]] = []

    def watch(state: trainer.TrainState, metrics: Any) -> None:
        hashes = {name: value for name, value in state.hashes().items() if name.startswith(("model/", "optimizer/"))}
        seen.append((int(state.extras["skips"].total), hashes))
        means.append({name: float(mean) for name, mean in metrics.items()})

    trainer.train(state, poisoned(7), step, num_steps=10, execution=execution, hooks=[trainer.every(1, watch)])
    assert int(state.step) == 10
    assert seen[-1][0] == 2
    skipped = [i for i in range(1, 10) if seen[i][0] > seen[i - 1][0]]
    assert all(seen[i][1] == seen[i - 1][1] for i in skipped)
    assert all(seen[i][1] != seen[i - 1][1] for i in range(1, 10) if i not in skipped)
    saver = Saver(state)
    assert saver.first_nonfinite(saver.read()) is None
    assert int(state.optimizer.iterations) == 8
    assert (
        sum(np.isnan(values["loss"]) for values in means) == 2
    )  # a window in which every step was skipped has no mean


@pytest.mark.parametrize("sample", range(0, 70, 9))  # in each place that a batch of an update can have
def test_update_of_several_batches_is_left_out_as_a_whole(
    make_state: Any, objective: Any, poisoned: Any, sample: int
) -> None:
    step = trainer.gradient_step(objective, accumulation=2, skip_nonfinite=True)
    state = make_state()
    state.extras |= step.extras(state.model, state.optimizer)
    weights: list[np.ndarray] = []
    losses: list[float] = []

    def watch(state: trainer.TrainState, metrics: Any) -> None:
        weights.append(state.model.trainable_variables[0].numpy())
        losses.append(float(metrics["loss"]))

    trainer.train(
        state, poisoned(sample), step, num_steps=10, execution=trainer.graph(1), hooks=[trainer.every(1, watch)]
    )
    bad = [int(np.isnan(losses[i : i + 2]).any()) for i in range(0, 10, 2)]
    assert 1 <= sum(bad) <= 2
    assert int(state.extras["skips"].total) == sum(bad)
    assert int(state.optimizer.iterations) == 5 - sum(bad)
    for update in range(1, 5):
        assert np.array_equal(weights[2 * update + 1], weights[2 * update - 1]) == bool(bad[update])
    assert all(not np.any(total.numpy()) for total in state.extras["accumulated"].sums)
    saver = Saver(state)
    assert saver.first_nonfinite(saver.read()) is None


def test_skipping_changes_no_bit_where_all_is_finite(make_state: Any, objective: Any, make_feed: Any) -> None:
    hashes = []
    for skip in (False, True):
        state, step = make_state(), trainer.gradient_step(objective, skip_nonfinite=skip)
        extras = step.extras(state.model, state.optimizer)
        state.extras |= extras
        trainer.train(state, make_feed(), step, num_steps=7, execution=trainer.graph(3))
        hashes.append({name: value for name, value in state.hashes().items() if not name.startswith("extras")})
    assert hashes[0] == hashes[1]


def test_skip_limit_ends_a_run_without_a_loss_scale(make_state: Any, objective: Any, make_feed: Any) -> None:
    step = trainer.gradient_step(objective, skip_nonfinite=True)
    state = make_state()
    state.extras |= step.extras(state.model, state.optimizer)
    feed = make_feed(augment=lambda x, index, epoch: tf.cast(x, tf.float32) * float("nan"))
    with pytest.raises(
        trainer.TrainingError, match=r"9 updates in a row .*conv/kernel is not finite; lower learning_rate"
    ):
        trainer.train(state, feed, step, num_steps=20, execution=trainer.graph(9), hooks=[trainer.AbortOnSkips(8)])


def test_counts_of_skips_do_not_depend_on_the_length_of_calls(make_state: Any, objective: Any, poisoned: Any) -> None:
    hashes = []
    for length in (1, 2, 10):
        step = trainer.gradient_step(objective, skip_nonfinite=True)
        state = make_state()
        state.extras |= step.extras(state.model, state.optimizer)
        hooks = [trainer.AbortOnSkips(8)]
        trainer.train(state, poisoned(7), step, num_steps=10, execution=trainer.graph(length), hooks=hooks)
        hashes.append({name: value for name, value in state.hashes().items() if name.startswith("extras")})
    assert hashes[0] == hashes[1] == hashes[2]


def test_nan_loss_ends_the_run_before_later_hooks(make_state: Any, objective: Any, poisoned: Any) -> None:
    called: list[int] = []
    hooks = [AbortOnNonfinite(), lambda state, metrics: called.append(int(state.step))]
    with pytest.raises(trainer.TrainingError, match=r"the loss is nan up to step \d, which is not saved"):
        trainer.train(
            make_state(),
            poisoned(7),
            trainer.gradient_step(objective),
            num_steps=5,
            execution=trainer.graph(1),
            hooks=hooks,
        )
    assert called == list(range(1, len(called) + 1))
    assert len(called) < 5


def test_stall_timeout_watches_only_while_it_is_open(make_state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **options: log.append((seconds, options)))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: log.append("cancelled"))
    state, hook, watching = make_state(), StallTimeout(30), (30, {"exit": True, "file": 2})
    with pytest.raises(RuntimeError), hook.open(state):
        assert log == [watching]
        hook(state, {})
        assert log == [watching] * 2
        raise RuntimeError
    assert log == [*[watching] * 2, "cancelled"]


def test_calls_are_shortened_to_a_third_of_the_time_after_sigterm() -> None:
    now = itertools.count()  # a second a look
    short = ShortCalls(30, Clock(lambda: float(next(now))))
    state: Any = type("State", (), {"step": 0})()
    lengths = []
    for _ in range(8):
        lengths.append(short.next_due(state.step) - state.step)
        state.step += lengths[-1]
        short(state, {})
    assert lengths[0] == 1
    assert lengths == sorted(lengths)  # ever longer: here a call takes the same time whatever its length
    slow = ShortCalls(30, Clock(lambda: float(next(now))))
    for step in range(4):
        state.step = step
        slow(state, {})
    assert slow.next_due(0) == 8  # ten at most, and no more than double each time
