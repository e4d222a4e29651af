"""The folder of a killed run is read correctly, and every difference is found."""

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from loopwright.trainer.base import atomic
from loopwright.trainer.compare import kill_and_compare


def make_run(folder: pathlib.Path) -> pathlib.Path:
    """A folder as a run of three steps leaves it."""
    (folder / "checkpoints").mkdir(parents=True)
    facts = {"step": 3, "tensors": {"step": "aa", "seeds/0": "bb"}}
    atomic.commit_folder(folder / "checkpoints" / "00000003", lambda at: (at / "state").write_bytes(bytes(99)), facts)
    (folder / "checkpoints" / "best.json").write_text('{"step": 3, "value": 0.5}')
    lines = [{"step": step, "index": [step], "crc32": step} for step in (1, 2, 3)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "ind')
    record = {"step": 3, "split": "train", "loss": 0.25, "wall_time": random.random()}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def edit(name: str, old: str, new: str) -> Callable[[pathlib.Path], Any]:
    return lambda run: (run / name).write_text((run / name).read_text().replace(old, new))


def test_equal_runs_have_no_differences(tmp_path: pathlib.Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    assert kill_and_compare.differences(one, other) == []
    assert kill_and_compare.compared_counts(one) == {"tensors": 2, "steps": 3, "records": 1}
    assert kill_and_compare.last_logged_step(one) == 4  # the half-written line counts, because the step was taken


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edit("samples.jsonl", "[2]", "[7]"), "samples: step 2 differs in index"),
        (edit("samples.jsonl", '"crc32": 3', '"crc32": 4'), "samples: step 3 differs in crc32"),
        (edit("metrics.jsonl", "0.25", "0.26"), "metrics: step 3 differs in loss"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics: 1 lines in one, 0 in the other"),
        (edit("checkpoints/best.json", "0.5", "0.6"), "best: "),
        (lambda run: (run / "checkpoints" / "00000003").rename(run / "checkpoints" / "00000002"), "step: "),
    ],
)
def test_difference_is_named(tmp_path: pathlib.Path, change: Callable[[pathlib.Path], Any], named: str) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    change(other)
    (found,) = kill_and_compare.differences(one, other)
    assert found.startswith(named)


def test_tensor_that_differs_is_named(tmp_path: pathlib.Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    facts = {"step": 3, "tensors": {"step": "aa", "seeds/0": "cc"}}
    atomic.commit_folder(other / "checkpoints" / "00000003", lambda at: (at / "state").write_bytes(bytes(99)), facts)
    assert kill_and_compare.differences(one, other) == ["tensor seeds/0"]


def test_flipped_byte_damages_a_checkpoint(tmp_path: pathlib.Path) -> None:
    checkpoint = make_run(tmp_path) / "checkpoints" / "00000003"
    path = kill_and_compare.flip_byte(checkpoint)
    with pytest.raises(atomic.Damaged, match=path.name):
        atomic.verify_folder(checkpoint)


def test_phase_is_told_by_what_is_left(tmp_path: pathlib.Path) -> None:
    run = make_run(tmp_path)
    assert kill_and_compare.phase_of_kill(run, began_at=4) == "start-up"
    assert kill_and_compare.phase_of_kill(run, began_at=0, eval_every=3) == "steps"
    assert kill_and_compare.phase_of_kill(run, began_at=0, eval_every=2) == "evaluation"
    (run / "checkpoints" / ".tmp-1-00000006").mkdir()
    assert kill_and_compare.phase_of_kill(run, began_at=0) == "save"
    (run / "checkpoints" / ".tmp-1-deleted-00000003").mkdir()
    assert kill_and_compare.phase_of_kill(run, began_at=0) == "deletion"


def test_random_kills_rise_and_half_of_them_are_in_saves() -> None:
    kills = kill_and_compare.random_kills(6, 100, random.Random(0))
    assert [kill.step for kill in kills] == sorted(kill.step for kill in kills)
    assert all(1 <= kill.step < 100 for kill in kills)
    assert sum(kill.in_save for kill in kills) == 3
