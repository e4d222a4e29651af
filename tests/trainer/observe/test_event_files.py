"""Event files, whole or half-written, are cut where a run resumes, and TensorBoard's own readers read them."""

import pathlib

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as Watching
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util.tensor_util import make_ndarray

from loopwright.trainer.observe.event_files import EventFile, cut, event_files, read_events, replace_events


def write(folder: pathlib.Path, steps: list[int], start: int = 0, value: float = 0.0) -> EventFile:
    file = EventFile(folder, start)
    for step in steps:
        file.add(step, scalar_pb("loss", step + value))
    file.flush()
    return file


def found(folder: pathlib.Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    if "loss" not in events.Tags()["tensors"]:
        return []
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")]


@pytest.mark.parametrize("step", [0, 10, 15, 20, 30, 99])
def test_cut_leaves_what_is_not_past_the_step(tmp_path: pathlib.Path, step: int) -> None:
    write(tmp_path, [10, 20, 30])
    cut(tmp_path, step)
    assert found(tmp_path) == [(at, at) for at in (10, 20, 30) if at <= step]


def test_cut_leaves_a_file_alone_that_holds_nothing_past_the_step(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, [10, 20]).path
    before = path.stat()
    cut(tmp_path, 20)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("torn", [1, 7, 13, 39])
def test_cut_takes_out_what_a_killed_writer_left_half_written(tmp_path: pathlib.Path, torn: int) -> None:
    path = write(tmp_path, [10, 20]).path
    whole = path.read_bytes()
    write(tmp_path / "other", [30])
    path.write_bytes(whole + next((tmp_path / "other").iterdir()).read_bytes()[:torn])
    cut(tmp_path, 20)
    assert found(tmp_path) == [(10, 10), (20, 20)]
    assert path.read_bytes() == whole


def test_every_step_is_there_once_after_three_deaths(tmp_path: pathlib.Path) -> None:
    restored = 0
    for value, steps in enumerate([[10, 20, 30], [20, 30, 40, 50], [50], [40, 50, 60]]):
        restored = steps[0] - 10
        cut(tmp_path, restored)
        write(tmp_path, steps, restored, value / 8)
    assert [step for step, _ in found(tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert [value - step for step, value in found(tmp_path)] == [0, 1 / 8, 1 / 8, 3 / 8, 3 / 8, 3 / 8]
    steps = [event.step for path in event_files(tmp_path) for event in read_events(path) if event.HasField("summary")]
    assert steps == [10, 20, 30, 40, 50, 60]


def test_reader_that_is_watching_forgets_what_the_run_takes_back(tmp_path: pathlib.Path) -> None:
    watching = Watching(str(tmp_path))
    write(tmp_path, [10, 20, 30, 40])
    assert [event.step for event in watching.Reload().Tensors("loss")] == [10, 20, 30, 40]
    cut(tmp_path, 20)
    write(tmp_path, [25], start=20)
    assert [event.step for event in watching.Reload().Tensors("loss")] == [10, 20, 25]


def test_temporary_file_is_none_that_tensorboard_reads(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [10, 20])
    names = []
    replace = pathlib.Path.replace

    def spy(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        names.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", spy)
    cut(tmp_path, 10)
    assert len(names) == 1
    assert "tfevents" not in names[0]
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in event_files(tmp_path)]


def test_new_file_sorts_behind_the_others_though_the_clock_went_back(tmp_path: pathlib.Path) -> None:
    replace_events(tmp_path / "events.out.tfevents.9000000000.host.1", [])
    newest = EventFile(tmp_path).path
    assert event_files(tmp_path)[-1] == newest
