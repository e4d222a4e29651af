"""Early stopping and a lower learning rate on a plateau, in resumed runs, too."""

from typing import Any

import pytest

from loopwright import trainer


class Scripted:
    """An evaluation whose results are given beforehand."""

    reads_metrics = False
    objective = None

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, list(values)
        self.last: dict[str, float] = {}

    def __call__(self, state: Any, metrics: Any) -> None:
        self.last = {self.name: self.values.pop(0)}


def run(state: Any, feed: Any, objective: Any, *hooks: Any, num_steps: int = 20) -> int:
    step = trainer.gradient_step(objective)
    hooks = tuple(trainer.every(2, hook, at_last=False) for hook in hooks)
    trainer.train(state, feed, step, num_steps=num_steps, execution=trainer.graph(), hooks=hooks)
    return int(state.step)


@pytest.mark.parametrize(
    ("monitor", "values", "stopped_at"),
    [
        ("accuracy", [0.1, 0.3, 0.2, 0.3, 0.9], 8),  # equal is no improvement
        ("loss", [0.9, 0.5, 0.6, 0.4, 0.5, 0.4], 12),
        ("loss", [0.5, float("nan"), float("nan")], 6),
        ("accuracy", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 20),
    ],
)
def test_early_stop_waits_for_an_improvement(
    make_state: Any, make_feed: Any, objective: Any, monitor: str, values: list[float], stopped_at: int
) -> None:
    evaluate: Any = Scripted(monitor, values)
    assert run(make_state(), make_feed(), objective, evaluate, trainer.early_stop(evaluate, monitor, 2)) == stopped_at


@pytest.mark.parametrize(
    ("before", "after", "patience", "stopped_at"),
    [
        (("loss", [0.5, 0.6]), ("loss", [0.7, 0.8, 0.9]), 3, 8),
        (("accuracy", [0.9, 0.8]), ("loss", [5.0, 6.0, 7.0]), 2, 10),
    ],
    ids=["goes on waiting", "begins again with another metric"],
)
def test_early_stop_of_a_resumed_run(
    make_state: Any,
    make_feed: Any,
    objective: Any,
    tmp_path: Any,
    before: Any,
    after: Any,
    patience: int,
    stopped_at: int,
) -> None:
    checkpoint = trainer.Checkpoint(tmp_path)
    evaluate: Any = Scripted(*before)
    stop = trainer.early_stop(evaluate, before[0], 3)
    run(make_state(extras={"stop": stop}), make_feed(), objective, evaluate, stop, checkpoint, num_steps=4)
    evaluate = Scripted(*after)
    again = trainer.early_stop(evaluate, after[0], patience)
    state = make_state(extras={"stop": again})
    assert checkpoint.restore(state) == 4
    assert not again.exhausted()
    assert run(state, make_feed(), objective, evaluate, again) == stopped_at
    assert again.exhausted()
    assert again.reason() == f"loss has not improved for {patience} evaluations"


def test_early_stop_without_patience_only_counts(make_state: Any, make_feed: Any, objective: Any) -> None:
    evaluate: Any = Scripted("loss", [1.0] * 10)
    stop = trainer.early_stop(evaluate, "loss", None)
    assert run(make_state(), make_feed(), objective, evaluate, stop) == 20
    assert (int(stop.wait), stop.exhausted()) == (9, False)


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_reduce_on_plateau_lowers_the_rate_and_a_resumed_run_keeps_it(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: Any, precision: str
) -> None:
    checkpoint = trainer.Checkpoint(tmp_path)
    evaluate: Any = Scripted("loss", [0.5, 0.6, 0.6, 0.4, 0.5])
    reduce = trainer.reduce_on_plateau(evaluate, "loss", 2, 0.5)
    state = make_state(learning_rate=0.1, precision=precision, extras={"reduce": reduce})
    rates: list[float] = []

    def note(state: Any, metrics: Any) -> None:
        rates.append(float(state.optimizer.learning_rate))

    run(state, make_feed(), objective, evaluate, reduce, note, checkpoint, num_steps=10)
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05])
    evaluate = Scripted("loss", [0.5])
    reduce = trainer.reduce_on_plateau(evaluate, "loss", 2, 0.5)
    again = make_state(learning_rate=0.1, precision=precision, extras={"reduce": reduce})
    checkpoint.restore(again)
    run(again, make_feed(), objective, evaluate, reduce, note, num_steps=12)
    assert rates[-1] == pytest.approx(0.025)


def test_bad_numbers_are_refused(make_state: Any, make_feed: Any, objective: Any) -> None:
    evaluate: Any = Scripted("loss", [1.0])
    with pytest.raises(ValueError, match="patience=0"):
        trainer.early_stop(evaluate, "loss", 0)
    with pytest.raises(ValueError, match=r"factor=1.5"):
        trainer.reduce_on_plateau(evaluate, "loss", 2, 1.5)
    with pytest.raises(ValueError, match=r"monitor=acuracy: .*write acuracy:min or acuracy:max"):
        trainer.early_stop(evaluate, "acuracy", 2)
    with pytest.raises(KeyError, match=r"monitor=acuracy: evaluation gives loss"):
        run(make_state(), make_feed(), objective, evaluate, trainer.early_stop(evaluate, "acuracy:max", 2))
