"""TensorBoard's data of a run that was killed three times: no gap, no duplicate, and no step that the run took back."""

import json
import math
import pathlib
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from loopwright.trainer.observe.event_files import event_files, read_events

NOT_METRICS = {"step", "epoch", "split", "wall_time"}


def series_of(records: list[dict[str, Any]], split: str) -> dict[str, list[tuple[int, float, float]]]:
    """Step, wall time and value (float32, as TensorBoard keeps them) of each metric of a split."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if record["split"] == split and name not in NOT_METRICS:
                number = math.nan if value is None else float(np.float32(value))
                found.setdefault(name, []).append((record["step"], record["wall_time"], number))
    return found


@pytest.mark.parametrize("split", ["train", "eval"])
def test_event_files_equal_the_records(killed_run: pathlib.Path, records: list[dict[str, Any]], split: str) -> None:
    expected = series_of(records, split)
    every = 20 if split == "train" else 50
    assert [step for step, _, _ in expected["loss"]] == list(range(every, 401, every))
    reader = EventAccumulator(str(killed_run / "tensorboard" / split), size_guidance={"tensors": 0}).Reload()
    for name, series in expected.items():
        events = [(e.step, e.wall_time, float(make_ndarray(e.tensor_proto))) for e in reader.Tensors(name)]
        assert events == series, name


def test_files_hold_every_step_once_in_order(killed_run: pathlib.Path) -> None:
    for split, pictures in (("train", [200, 400]), ("eval", [100, 200, 300, 400])):
        folder = killed_run / "tensorboard" / split
        assert len(event_files(folder)) == 4, "one file for each process"
        places: dict[str, list[int]] = {}
        for path in event_files(folder):
            for event in read_events(path):
                for value in event.summary.value:
                    places.setdefault(value.tag, []).append(event.step)
        assert all(steps == sorted(set(steps)) for steps in places.values()), places
        drawn = [steps for tag, steps in places.items() if tag.startswith(("weights/", "samples/", "confusion"))]
        assert drawn
        assert all(steps == pictures for steps in drawn)


def test_server_that_watched_shows_what_the_files_hold(
    server: str, killed_run: pathlib.Path, records: list[dict[str, Any]], page: Any
) -> None:
    expected = [[wall_time, step, value] for step, wall_time, value in series_of(records, "train")["loss"]]
    query = urllib.parse.urlencode({"run": "killed/tensorboard/train", "tag": "loss"})

    def shown() -> Any:
        with urllib.request.urlopen(f"{server}/data/plugin/scalars/scalars?{query}") as answer:
            return json.load(answer) == expected

    page.wait_for(shown, "loss that equals metrics.jsonl")


def test_goodput_covers_all_four_processes(killed_run: pathlib.Path) -> None:
    goodput = json.loads((killed_run / "summary.json").read_text(encoding="utf-8"))["goodput"]
    assert goodput["processes"] == 4
    assert goodput["seconds"]["lost"] > 0
    assert sum(goodput["share"].values()) == pytest.approx(1, abs=0.01)
    began = [process["began"] for process in json.loads((killed_run / "goodput.json").read_text())["processes"]]
    assert goodput["total_seconds"] > 0
    assert began == sorted(began)
