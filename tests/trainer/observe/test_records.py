"""Records, the writer of metrics.jsonl, and the clock."""

import json
import pathlib
from typing import Any

import pytest

from loopwright import trainer
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.observe.records import Record


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_record_is_a_flat_object() -> None:
    record = Record(5, "train", {"loss": 0.5}, steps_per_epoch=4).as_dict()
    assert list(record) == ["step", "epoch", "split", "wall_time", "loss"]
    assert (record["step"], record["epoch"], record["split"], record["loss"]) == (5, 1.25, "train", 0.5)
    assert "epoch" not in Record(5, "train", {}).as_dict()


def test_json_lines_writes_each_record_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write = trainer.JsonLines(path)
    for step in (1, 2):
        write(Record(step, "train", {"loss": step / 2}))
        assert [(record["step"], record["loss"]) for record in lines_of(path)][-1] == (step, step / 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_lines_is_json_for_any_number(tmp_path: pathlib.Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    trainer.JsonLines(path)(Record(1, "train", {"loss": value, "accuracy": 1.0}))

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert (record["loss"], record["accuracy"]) == (None, 1.0)


@pytest.mark.parametrize(
    ("step", "torn", "kept"),
    [(0, "", []), (20, "", [10, 20, 20]), (25, "", [10, 20, 20]), (30, '{"step": 31, "spl', [10, 20, 20, 30])],
)
def test_json_lines_cuts_what_is_past_the_resumed_step(
    tmp_path: pathlib.Path, step: int, torn: str, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    write = trainer.JsonLines(path)
    for at, split in ((10, "train"), (20, "train"), (20, "eval"), (30, "train")):
        write(Record(at, split, {"loss": 1.0}))
    with path.open("a", encoding="utf-8") as file:
        file.write(torn)
    again = trainer.JsonLines(path)
    with again.open(step):
        assert [record["step"] for record in lines_of(path)] == kept
        again(Record(99, "train", {}))
        assert [record["step"] for record in lines_of(path)] == [*kept, 99]
    assert again.read() == lines_of(path)
    assert [other.name for other in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_log_gives_means_learning_rate_and_speed(make_state: Any) -> None:
    now, records = Time(), []
    log = trainer.Log([records.append], clock=Clock(now), steps_per_epoch=4, examples_per_step=8)
    state = make_state(learning_rate=0.5)
    now.seconds += 3
    with log.open(state):
        now.seconds += 2
        with log.clock.phase("evaluation"):
            now.seconds += 10
        state.step.assign(4)
        log(state, {"loss": 1.5})
        now.seconds += 4
        state.step.assign(12)
        log(state, {"loss": 0.5})
    assert log.clock.phases["start"] == 3
    assert [record.values for record in records] == [
        {"loss": 1.5, "learning_rate": 0.5, "examples_per_second": 16.0},
        {"loss": 0.5, "learning_rate": 0.5, "examples_per_second": 16.0},
    ]
    assert [(record.step, record.split, record.epoch) for record in records] == [(4, "train", 1), (12, "train", 3)]


def test_log_follows_the_schedule(make_state: Any) -> None:
    records: list[Any] = []
    state = make_state(learning_rate=trainer.make_schedule("constant", 1.0, warmup_steps=4, total_steps=9))
    state.optimizer.iterations.assign(2)
    trainer.Log([records.append])(state, {})
    assert records[0].values == {"learning_rate": 0.5}


def test_clock_adds_up_phases_and_calls_the_rest_training() -> None:
    now = Time()
    clock = Clock(now)
    for seconds in (1, 2):
        with clock.phase("data"):
            now.seconds += seconds
    now.seconds += 4
    with pytest.raises(KeyError), clock.phase("export"):
        now.seconds += 8
        raise KeyError
    assert clock.phases == {"data": 3, "export": 8}
    assert (clock.total_seconds(), clock.training_seconds()) == (15, 4)


def test_timed_hook_is_called_and_counted() -> None:
    now, seen = Time(), []
    clock = Clock(now)

    def hook(state: Any, metrics: Any) -> None:
        seen.append((state, metrics))
        now.seconds += 3

    hook.reads_metrics = False  # type: ignore[attr-defined]
    timed = clock.timed("checkpoint", hook)
    timed("state", "metrics")
    assert (seen, clock.phases) == ([("state", "metrics")], {"checkpoint": 3})
    assert not timed.reads_metrics
    assert trainer.every(1, clock.timed("log", lambda *arguments: None)).reads_metrics
