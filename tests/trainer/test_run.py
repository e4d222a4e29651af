"""A run's folder in Python: it is locked, goes on without gap or duplicate, and ends with a summary or an error."""

import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from tensorboard.util.tensor_util import make_ndarray

from loopwright import trainer
from loopwright.trainer.base import atomic
from loopwright.trainer.hooks.signals import Interrupted
from loopwright.trainer.observe.event_files import event_files, read_events

#: Fields that differ between two equal runs.
VOLATILE = ("wall_time", "examples_per_second")


class At:
    """A hook that does something when it is called at a step. It leaves the metrics alone."""

    reads_metrics = False

    def __init__(self, step: int, do: Callable[[], object]) -> None:
        self.step, self.do = step, do

    def next_due(self, step: int) -> int:
        return self.step if step < self.step else step + 1000

    def __call__(self, state: trainer.TrainState, metrics: Any) -> None:
        if int(state.step) == self.step:
            self.do()


def crash() -> None:
    raise RuntimeError("power cut")


@pytest.fixture(scope="module")
def go(make_state: Any, make_feed: Any, objective: Any) -> Callable[..., trainer.Run]:
    """`go(folder)`: trains a fresh state up to step 30 in a folder, as a program does that is started again.

    It logs every 5 steps, evaluates every 10 and saves every 20. Other keywords are those of `Run`.
    """

    def start(
        folder: pathlib.Path, *extra: Any, num_steps: int = 30, execution: Any = None, **options: Any
    ) -> trainer.Run:
        feed, evaluate = make_feed(), trainer.Evaluate(make_feed(shuffle=False), objective)
        with trainer.Run(folder, make_state(), **{"monitor": "accuracy", "progress": "none", **options}) as run:
            trainer.train(
                run.state,
                feed,
                trainer.gradient_step(objective),
                num_steps=num_steps,
                execution=execution or trainer.graph(7, clock=run.clock),
                hooks=run.hooks(
                    evaluate,
                    feed=feed,
                    num_steps=num_steps,
                    log_every=5,
                    eval_every=10,
                    checkpoint_every=20,
                    extra=extra,
                ),
            )
        return run

    return start


@pytest.fixture(scope="module")
def straight(go: Any, tmp_path_factory: pytest.TempPathFactory) -> trainer.Run:
    """A run that nothing interrupted, to be looked at only."""
    return go(tmp_path_factory.mktemp("straight") / "run")


def records(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds, apart from what the clock says."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in VOLATILE} for line in lines]


def events(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by split and tag, over all event files in their order. What the clock says is a zero."""
    found: dict[str, list[tuple[int, float]]] = {}
    for split in ("train", "eval"):
        for path in event_files(folder / "tensorboard" / split):
            for event in read_events(path):
                for value in event.summary.value:
                    by_clock = value.tag in VOLATILE or value.tag.startswith("goodput/")
                    number = 0.0 if by_clock else float(make_ndarray(value.tensor))
                    if not value.tag.startswith("goodput/"):  # its phases differ between processes
                        found.setdefault(f"{split}/{value.tag}", []).append((event.step, number))
    return found


def steps_of(folder: pathlib.Path, split: str) -> list[int]:
    return [record["step"] for record in records(folder) if record["split"] == split]


def checkpoints(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def contents(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, tuple[bytes, int]]:
    """The bytes and the time of the last change of each file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths if path.is_file()}


def assert_equal_runs(run: trainer.Run, straight: trainer.Run) -> None:
    """Asserts that a run equals the straight one: tensors to the bit, and every record and event once, in order."""
    assert run.state.hashes() == straight.state.hashes()
    assert records(run.files.root) == records(straight.files.root)
    assert events(run.files.root) == events(straight.files.root)
    best = [json.loads((one.files.checkpoints / "best.json").read_text()) for one in (run, straight)]
    assert best[0] == best[1]


def test_straight_run_holds_every_step_once(straight: trainer.Run) -> None:
    folder = straight.files.root
    assert straight.restored is None
    assert steps_of(folder, "train") == [5, 10, 15, 20, 25, 30]
    assert steps_of(folder, "eval") == [10, 20, 30]
    assert checkpoints(folder) == [20, 30]
    found = events(folder)
    assert [step for step, _ in found["train/loss"]] == [5, 10, 15, 20, 25, 30]
    assert [step for step, _ in found["eval/accuracy"]] == [10, 20, 30]
    scalars = [(record["step"], float(np.float32(record["loss"]))) for record in records(folder)]
    assert sorted(found["train/loss"] + found["eval/loss"]) == sorted(scalars)
    logged = [json.loads(line) for line in straight.files.metrics.read_text().splitlines()]
    assert [record["epoch"] for record in logged if record["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert all(record["examples_per_second"] > 0 for record in logged if record["split"] == "train")


def test_summary_holds_the_last_and_the_best_numbers(straight: trainer.Run) -> None:
    summary = json.loads(straight.files.summary.read_text())
    lines = [json.loads(line) for line in straight.files.metrics.read_text().splitlines()]
    evals = [line for line in lines if line["split"] == "eval"]
    assert (summary["step"], summary["epoch"]) == (30, 6)
    assert summary["train"] == next(line for line in reversed(lines) if line["split"] == "train")
    assert summary["eval"] == evals[-1]
    assert summary["best"] == max(evals, key=lambda line: line["accuracy"])  # the first of equals
    assert summary["goodput"]["processes"] == 1
    assert summary["goodput"]["seconds"].keys() >= {"start", "compile", "step", "evaluation", "checkpoint"}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["", "asynchronous"])
def test_run_goes_on_after_a_crash_without_gap_or_duplicate(
    go: Any, straight: trainer.Run, tmp_path: pathlib.Path, asynchronous: bool
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        go(tmp_path, At(27, crash), asynchronous=asynchronous)
    assert checkpoints(tmp_path) == [20]
    assert steps_of(tmp_path, "train")[-1] == 25  # which the run takes back
    assert not (tmp_path / "summary.json").exists()
    run = go(tmp_path, asynchronous=asynchronous)
    assert run.restored == 20
    assert_equal_runs(run, straight)
    assert json.loads(run.files.summary.read_text())["goodput"]["processes"] == 2


def test_crash_before_the_first_checkpoint_begins_again(go: Any, straight: trainer.Run, tmp_path: pathlib.Path) -> None:
    for step in (4, 13, 19):
        with pytest.raises(RuntimeError, match="power cut"):
            go(tmp_path, At(step, crash))
        assert checkpoints(tmp_path) == []
    run = go(tmp_path)
    assert run.restored is None
    assert_equal_runs(run, straight)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_the_run_goes_on(
    go: Any,
    straight: trainer.Run,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    signum: signal.Signals,
    code: int,
) -> None:
    with pytest.raises(Interrupted) as stopped:
        go(tmp_path, At(27, lambda: os.kill(os.getpid(), signum)))
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"loopwright: stopped by {signum.name} at step 27, which is saved\n"
    assert checkpoints(tmp_path) == [20, 27]
    assert not (tmp_path / "summary.json").exists()
    run = go(tmp_path)
    assert run.restored == 27
    assert_equal_runs(run, straight)


def test_run_that_is_made_longer_equals_one_that_was_longer(
    go: Any, straight: trainer.Run, tmp_path: pathlib.Path
) -> None:
    assert json.loads(go(tmp_path, num_steps=20).files.summary.read_text())["step"] == 20
    seen: list[bool] = []
    look = At(25, lambda: seen.append((tmp_path / "summary.json").exists()))
    run = go(tmp_path, look)
    assert seen == [False]  # while it goes on, there is none
    assert run.restored == 20
    assert json.loads(run.files.summary.read_text())["step"] == 30
    assert_equal_runs(run, straight)


def test_run_that_is_made_longer_and_crashes_has_no_summary(go: Any, tmp_path: pathlib.Path) -> None:
    go(tmp_path, num_steps=20)
    with pytest.raises(RuntimeError, match="power cut"):
        go(tmp_path, At(25, crash))
    assert not (tmp_path / "summary.json").exists()


def test_finished_run_called_again_leaves_its_files_as_they_are(go: Any, tmp_path: pathlib.Path) -> None:
    first = go(tmp_path)
    folders = (first.files.checkpoints, first.files.tensorboard)
    kept = {first.files.metrics, *(path for folder in folders for path in folder.rglob("*") if path.name != "lock")}
    before = contents(kept)
    summary = json.loads(first.files.summary.read_text())
    called: list[int] = []
    again = go(tmp_path, lambda state, metrics: called.append(int(state.step)))
    assert again.restored == 30
    assert not called
    assert contents(kept) == before
    assert {path for folder in folders for path in folder.rglob("*") if path.name != "lock"} < kept
    assert all(path.exists() for path in kept)
    assert again.state.hashes() == first.state.hashes()
    renewed = json.loads(again.files.summary.read_text())
    assert renewed.pop("goodput")["processes"] == summary.pop("goodput")["processes"] + 1
    assert renewed == summary


def test_finished_run_whose_summary_was_lost_gets_one(go: Any, tmp_path: pathlib.Path) -> None:
    first = go(tmp_path)
    first.files.summary.unlink()  # a process that was killed after its last checkpoint has written none
    assert json.loads(go(tmp_path).files.summary.read_text())["step"] == 30


def test_second_run_is_refused_while_the_folder_is_written(
    go: Any, make_state: Any, straight: trainer.Run, tmp_path: pathlib.Path
) -> None:
    refused: list[trainer.TrainingError] = []

    def second() -> None:
        with pytest.raises(trainer.TrainingError, match=f"being written by process {os.getpid()} on ") as error:
            go(tmp_path)
        refused.append(error.value)

    run = go(tmp_path, At(12, second))
    assert [error.exit_code for error in refused] == [2]
    assert_equal_runs(run, straight)  # the second one changed nothing
    with trainer.Run(tmp_path, make_state(), progress="none") as third:  # and now the folder is free
        assert third.restored == 30


def test_run_that_can_not_be_restored_frees_its_folder(go: Any, make_state: Any, tmp_path: pathlib.Path) -> None:
    go(tmp_path, num_steps=20)
    other = make_state(optimizer="sgd")
    with pytest.raises(trainer.TrainingError, match="doesn't fit"), trainer.Run(tmp_path, other, progress="none"):
        pass
    with trainer.Run(tmp_path, make_state(), progress="none") as run:
        assert run.restored == 20


def test_run_removes_what_a_killed_process_left_half_written(make_state: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints" / ".tmp-4194304-00000020").mkdir(parents=True)
    (tmp_path / ".tmp-4194304-summary.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "split": "train", "wall_time": 1.0}\n{"step": 10, "spl')
    with trainer.Run(tmp_path, make_state(), progress="none"):
        assert not list(tmp_path.rglob(".tmp-*"))


def test_run_whose_checkpoints_are_damaged_begins_again_only_where_allowed(
    go: Any, straight: trainer.Run, tmp_path: pathlib.Path
) -> None:
    for folder in go(tmp_path).checkpoint.folders():
        (folder / "manifest.json").unlink()
    with pytest.raises(trainer.TrainingError, match="allow_fresh_start=True"):
        go(tmp_path)
    run = go(tmp_path, allow_fresh_start=True)
    assert run.restored is None
    assert_equal_runs(run, straight)


def test_hooks_made_twice_write_each_record_once(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = trainer.Evaluate(make_feed(shuffle=False), objective)
    with trainer.Run(tmp_path, make_state(), progress="plain") as run:
        for _ in range(3):
            hooks = run.hooks(evaluate, feed=make_feed(), log_every=2, eval_every=3, checkpoint_every=6)
        step = trainer.gradient_step(objective)
        trainer.train(run.state, make_feed(), step, num_steps=6, execution=trainer.graph(), hooks=hooks)
    assert steps_of(tmp_path, "train") == [2, 4, 6]
    assert steps_of(tmp_path, "eval") == [3, 6]
    found = events(tmp_path)
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in found["eval/loss"]] == [3, 6]
    lines = [line.split()[:3] for line in capsys.readouterr().err.splitlines()]
    shown = [(2, "train"), (3, "eval"), (4, "train"), (6, "train"), (6, "eval")]
    assert lines == [["step", str(at), split] for at, split in shown]


def test_two_trainings_in_one_run_equal_a_single_one(
    make_state: Any, make_feed: Any, objective: Any, straight: trainer.Run, tmp_path: pathlib.Path
) -> None:
    feed, evaluate = make_feed(), trainer.Evaluate(make_feed(shuffle=False), objective)
    step = trainer.gradient_step(objective)
    with trainer.Run(tmp_path, make_state(), monitor="accuracy", progress="none") as run:
        for num_steps in (20, 30):
            trainer.train(
                run.state,
                feed,
                step,
                num_steps=num_steps,
                execution=trainer.graph(7, clock=run.clock),
                hooks=run.hooks(evaluate, feed=feed, log_every=5, eval_every=10, checkpoint_every=20),
            )
            assert json.loads(run.files.summary.read_text())["step"] == num_steps
    assert_equal_runs(run, straight)
    assert json.loads(run.files.summary.read_text())["goodput"]["processes"] == 1


def test_run_without_evaluation_or_feed_logs_what_it_knows(
    make_state: Any, make_feed: Any, objective: Any, tmp_path: pathlib.Path
) -> None:
    with trainer.Run(tmp_path, make_state(), progress="none") as run:
        hooks = run.hooks(None, log_every=2, checkpoint_every=4)
        step = trainer.gradient_step(objective)
        trainer.train(run.state, make_feed(), step, num_steps=4, execution=trainer.graph(), hooks=hooks)
    assert [list(record) for record in records(tmp_path)] == [
        ["step", "split", "accuracy", "loss", "learning_rate"]
    ] * 2
    assert not (tmp_path / "checkpoints" / "best.json").exists()
    summary = json.loads(run.files.summary.read_text())
    assert (summary["epoch"], summary["eval"], summary["best"], summary["examples_per_second"]) == (None,) * 4


def test_extra_hooks_come_between_evaluation_and_checkpoint(go: Any, tmp_path: pathlib.Path) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    go(
        tmp_path,
        At(20, lambda: seen.append((steps_of(tmp_path, "eval"), checkpoints(tmp_path)))),
        At(30, lambda: seen.append((steps_of(tmp_path, "eval"), checkpoints(tmp_path)))),
    )
    assert seen == [([10, 20], []), ([10, 20, 30], [20])]


def test_failed_last_save_leaves_no_summary_and_the_run_goes_on(
    go: Any, straight: trainer.Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = atomic.commit_folder

    def full_at_the_end(folder: pathlib.Path, *arguments: Any) -> None:
        if folder.name == "00000030":
            raise OSError(28, "No space left on device")
        commit(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "commit_folder", full_at_the_end)
        with pytest.raises(trainer.TrainingError, match=r"step 30 can't be saved in .*No space left on device"):
            go(tmp_path, asynchronous=True)
    assert checkpoints(tmp_path) == [20]
    assert not (tmp_path / "summary.json").exists()
    run = go(tmp_path, asynchronous=True)
    assert run.restored == 20
    assert_equal_runs(run, straight)
    assert run.files.summary.exists()


def test_stop_training_ends_a_run_with_a_checkpoint_and_a_summary(go: Any, tmp_path: pathlib.Path) -> None:
    def stop() -> None:
        raise trainer.StopTraining("enough")

    run = go(tmp_path, At(12, stop))
    assert checkpoints(tmp_path) == [12]
    assert json.loads(run.files.summary.read_text())["step"] == 12
    assert steps_of(tmp_path, "train") == [5, 10, 12]
