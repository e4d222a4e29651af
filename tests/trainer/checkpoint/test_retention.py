"""Which checkpoints stay: the newest, one every so often, and the best by the monitored metric."""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from loopwright import trainer
from loopwright.trainer.base import atomic
from loopwright.trainer.checkpoint.retention import Retention


@pytest.fixture
def kept(tmp_path: pathlib.Path) -> Callable[..., tuple[list[int], dict[str, Any] | None]]:
    """`kept(values, name, ...)`: commits a checkpoint at steps 1, 2, … with these values of a metric.

    Gives the steps of the checkpoints that stayed, and what best.json says.
    """

    def commit(
        values: list[float | None], name: str, restart: bool = False, **options: Any
    ) -> tuple[list[int], dict[str, Any] | None]:
        retention = Retention(tmp_path, monitor=options.pop("monitor", name), **options)
        for step, value in enumerate(values, 1):
            if restart:
                retention = Retention(tmp_path, retention.keep, retention.keep_every, retention.monitor)
            evaluation = {} if value is None else {name: value}
            folder = tmp_path / f"{step:08d}"
            atomic.commit_folder(folder, lambda temporary: None, {"step": step, "evaluation": evaluation})
            retention.apply(folder, evaluation)
        best = tmp_path / "best.json"
        return [int(path.name) for path in retention.folders()], json.loads(best.read_text()) if best.exists() else None

    return commit


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("monitor", ["mae", "mae:min", trainer.Monitor("mae", "min")])
def test_smallest_mae_is_kept_beside_the_newest(kept: Any, monitor: Any, restart: bool) -> None:
    steps, best = kept([0.9, 0.1, 0.5, 0.4], "mae", keep=1, monitor=monitor, restart=restart)
    assert steps == [2, 4]
    assert best == {"step": 2, "monitor": "mae", "value": 0.1}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("name", "monitor", "values", "options", "steps", "best"),
    [
        ("accuracy", "accuracy", [0.5, 0.9, 0.9, 0.7], {"keep": 1}, [2, 4], 2),  # the first of equals
        ("loss", "loss", [0.5, 0.1, 0.1, 0.7], {"keep": 1}, [2, 4], 2),
        ("edits", "edits:max", [5.0, 7.0, 1.0], {"keep": 1}, [2, 3], 2),
        ("edits", "edits:min", [5.0, 7.0, 1.0, 3.0], {"keep": 1}, [3, 4], 3),
        ("loss", "loss", [math.nan, 0.5, math.nan, math.nan], {"keep": 1}, [2, 4], 2),
        ("loss", "loss", [None, 0.5, None, 0.6], {"keep": 1}, [2, 4], 2),
        ("loss", "loss", [0.5, 0.4, 0.3, 0.2, 0.1], {"keep": 2}, [4, 5], 5),
        ("loss", "loss", [0.1, 0.4, 0.3, 0.2, 0.5, 0.6], {"keep": 1, "keep_every": 3}, [1, 3, 6], 1),
    ],
)
def test_newest_best_and_multiples_stay(
    kept: Any,
    name: str,
    monitor: str,
    values: list[float | None],
    options: dict[str, int],
    steps: list[int],
    best: int,
    restart: bool,
) -> None:
    stayed, said = kept(values, name, monitor=monitor, restart=restart, **options)
    assert stayed == steps
    assert said == {"step": best, "monitor": name, "value": values[best - 1]}


@pytest.mark.parametrize("values", [[math.nan, math.nan, math.nan], [None, None, None]])
def test_nothing_is_the_best_without_a_number(kept: Any, values: list[float | None]) -> None:
    assert kept(values, "loss", keep=2) == ([2, 3], None)


def test_checkpoint_keeps_the_best_by_its_monitor(make_state: Any, tmp_path: pathlib.Path) -> None:
    state, evaluation = make_state(), {"mae": 0.0}
    checkpoint = trainer.Checkpoint(tmp_path, keep=1, monitor="mae", evaluation=lambda: evaluation)
    for step, evaluation["mae"] in enumerate([0.9, 0.1, 0.5, 0.4], 1):
        state.step.assign(step)
        checkpoint(state, {})
    assert [folder.name for folder in checkpoint.folders()] == ["00000002", "00000004"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "monitor": "mae", "value": 0.1}


def test_retention_refuses_to_keep_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="keep=0: the newest checkpoint is always kept, so give at least 1"):
        Retention(tmp_path, keep=0)
