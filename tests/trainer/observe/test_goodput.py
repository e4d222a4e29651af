"""Where the seconds of a run go, over all its processes, and warnings about functions that are traced again."""

import json
import logging
import pathlib
from typing import Any

import pytest
import tensorflow as tf

from loopwright import trainer
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.observe.goodput import Goodput


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def process(path: pathlib.Path, last_record: float | None = None, **seconds: float) -> Goodput:
    """A process that spends these seconds in phases, and ten seconds outside them, of which it waits two for input."""
    now = Time()
    clock = Clock(now)
    goodput = Goodput(path, clock)
    goodput.read(last_record)
    for name, value in seconds.items():
        with clock.phase(name):
            now.seconds += value
    now.seconds += 10
    clock.count("input", lambda: 2.0)
    goodput.save()
    return goodput


def test_goodput_adds_up_processes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "goodput.json"
    process(path, compile=4, evaluation=1)
    summary = process(path, compile=5).summary()
    assert summary["seconds"] == {"compile": 9, "evaluation": 1, "input": 4, "step": 16}
    assert (summary["total_seconds"], summary["processes"]) == (30, 2)
    assert summary["share"]["step"] == pytest.approx(16 / 30, abs=1e-4)
    assert sum(summary["share"].values()) == pytest.approx(1, abs=1e-3)


def test_goodput_counts_what_a_killed_process_did_after_its_checkpoint_as_lost(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "goodput.json"
    process(path)
    saved = json.loads(path.read_text())["processes"][0]["saved"]
    for last_record in (saved + 7.5, saved - 3.0):  # the second process wrote no record before it died
        summary = process(path, last_record).summary()
        assert summary["seconds"]["lost"] == pytest.approx(7.5, abs=1e-3)


def test_damaged_goodput_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "goodput.json").write_text('{"processes": [3]}')
    with pytest.raises(TrainingError, match=r"goodput\.json is damaged"):
        process(tmp_path / "goodput.json", last_record=1.0)


@pytest.mark.parametrize("execution", [trainer.graph, pytest.param(trainer.xla, marks=pytest.mark.slow), trainer.eager])
def test_execution_counts_compilation_and_waits_for_input(
    make_state: Any, make_feed: Any, objective: Any, execution: Any
) -> None:
    clock, state = Clock(), make_state()
    run = execution(clock=clock)
    step = trainer.gradient_step(objective)
    trainer.train(state, make_feed(drop_remainder=True), step, num_steps=8, execution=run)
    seconds = clock.seconds()
    assert 0 < seconds["input"] < clock.training_seconds()
    assert sum(seconds.values()) == pytest.approx(clock.total_seconds(), abs=0.5)
    assert seconds.get("compile", 0) > 0 or execution is trainer.eager
    assert int(state.step) == 8


@pytest.mark.slow
def test_compilation_takes_no_step(make_state: Any, make_feed: Any, objective: Any) -> None:
    for execution in (trainer.graph(), trainer.xla()):
        state = make_state()
        before = {name: value for name, value in state.hashes().items() if name != "window"}
        run = execution(state, trainer.gradient_step(objective), make_feed(drop_remainder=True))
        assert {name: value for name, value in state.hashes().items() if name != "window"} == before
        run(1)
        assert int(state.step) == 1


def test_retrace_names_the_argument_that_changed(caplog: pytest.LogCaptureFixture) -> None:
    call = trainer.watched(tf.function(lambda batch, flag: batch["x"] if flag else 2 * batch["x"]), "evaluation")
    with caplog.at_level(logging.WARNING, "loopwright"):
        call({"x": tf.zeros([4, 2]), "y": tf.zeros([4])}, True)
        call({"x": tf.ones([4, 2]), "y": tf.ones([4])}, True)
        assert not caplog.messages
        call({"x": tf.zeros([3, 2]), "y": tf.zeros([4])}, True)
        call({"x": tf.zeros([3, 2]), "y": tf.zeros([4])}, False)
    assert caplog.messages == [
        "evaluation was compiled again, which takes time: batch['x'] was float32[4, 2] and is float32[3, 2]",
        "evaluation was compiled again, which takes time: flag was True and is False",
    ]


def test_evaluation_of_a_feed_that_changes_gives_a_warning(
    make_state: Any, make_feed: Any, objective: Any, caplog: pytest.LogCaptureFixture
) -> None:
    feed = make_feed(samples=64, shuffle=False)

    class Changing:
        element_spec, steps_per_epoch, batch = feed.element_spec, 2, 16

        def __call__(self) -> tf.data.Dataset:
            return feed().unbatch().batch(self.batch, drop_remainder=True)

    changing = Changing()
    evaluate = trainer.evaluator(make_state(), changing, objective)
    evaluate()
    evaluate()
    assert not caplog.messages
    changing.batch = 8
    evaluate()
    assert "evaluation was compiled again" in caplog.text
    assert "iterator['x'] was float32[16, 8, 8, 1] and is float32[8, 8, 8, 1]" in caplog.text


def test_process_that_dies_before_its_first_checkpoint_loses_no_idle_hours(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "goodput.json"
    process(path)
    monday = json.loads(path.read_text())
    monday["processes"][0]["saved"] -= 24 * 3600  # and nothing ran until now
    path.write_text(json.dumps(monday))
    clock = Clock(Time())
    goodput = Goodput(path, clock)
    goodput.read(None)
    goodput.save()  # as a run does when it starts
    began = json.loads(path.read_text())["processes"][-1]["saved"]
    summary = process(path, began + 9.0).summary()
    assert summary["seconds"]["lost"] == pytest.approx(9.0, abs=1e-3)
    assert summary["processes"] == 3
