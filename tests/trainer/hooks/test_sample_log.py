"""The log of samples says what each step saw, and nothing about samples that were only read ahead."""

import json
import pathlib
from typing import Any

import pytest

from loopwright import trainer
from loopwright.trainer.hooks.sample_log import SampleLog


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("execution", [trainer.graph(3), trainer.eager()], ids=["graph", "eager"])
def test_log_holds_the_batches_in_the_order_of_the_steps(
    make_state: Any, objective: Any, make_feed: Any, tmp_path: pathlib.Path, execution: Any
) -> None:
    log, feed = SampleLog(tmp_path / "samples.jsonl"), make_feed(seed=3)
    step = log.logged(trainer.gradient_step(objective))
    trainer.train(make_state(), feed, step, num_steps=7, execution=execution)
    log.flush()
    found = lines(tmp_path / "samples.jsonl")
    assert [line["step"] for line in found] == list(range(1, 8))
    assert [line["index"] for line in found] == [batch["index"].numpy().tolist() for batch in feed().take(7)]
    assert len({line["crc32"] for line in found}) == 7
    state = make_state()
    state.step.assign(4)
    with log.open(state):
        assert [line["step"] for line in lines(tmp_path / "samples.jsonl")] == [1, 2, 3, 4]
        log.logged(lambda state, batch: {})(state, next(iter(feed(4))))
    assert [line["step"] for line in lines(tmp_path / "samples.jsonl")] == [1, 2, 3, 4, 5]
    assert lines(tmp_path / "samples.jsonl") == found[:5]


def test_opening_takes_half_a_line_away(tmp_path: pathlib.Path, make_state: Any) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    state = make_state()
    state.step.assign(2)
    with SampleLog(path).open(state):
        assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_first_failure_is_raised_where_the_log_is_flushed(make_state: Any, objective: Any, make_feed: Any) -> None:
    log = SampleLog("/dev/full")
    step = log.logged(trainer.gradient_step(objective))
    trainer.train(make_state(), make_feed(), step, num_steps=3, execution=trainer.graph(3))
    with pytest.raises(OSError, match="No space left on device"):
        log.flush()
    with pytest.raises(OSError, match="No space left on device"):
        log(make_state(), {})
