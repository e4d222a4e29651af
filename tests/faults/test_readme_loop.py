"""README's loop and `trainer.fit`, killed at random moments and started again: they end as if nothing had happened.

The scripts are made of README's own lines. Only the number of steps or epochs is smaller, so that a script takes seconds.
They run in a folder of the test, so `runs/mine` lies there, and TFDS_DATA_DIR names the folder of the prepared dataset.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loopwright.trainer.base import json_lines
from loopwright.trainer.observe.event_files import event_files, read_events

FULL = os.environ.get("FAULTS", "quick") != "quick"
KILLS, TERMINATIONS = (10, 2) if FULL else (2, 1)
STEPS, EPOCHS, STEPS_PER_EPOCH = 600, 4, 125
#: The folder of each script, the steps that it logs, and the steps at which it evaluates.
EXPECTED: dict[str, tuple[str, list[int], list[int]]] = {
    "loop": ("runs/mine", list(range(100, STEPS + 1, 100)), [250, 500, STEPS]),
    "fit": (
        "runs/fitted",
        list(range(25, EPOCHS * STEPS_PER_EPOCH + 1, 25)),
        list(range(STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH + 1, STEPS_PER_EPOCH)),
    ),
}
#: When a process is killed: while it starts, at any moment of its training, or soon after a record.
MOMENTS = ("start", "training", "record")
VOLATILE = ("wall_time", "examples_per_second")


def replaced(text: str, old: str, new: str, count: int) -> str:
    assert text.count(old) == count, f"README says {old!r} {text.count(old)} times"
    return text.replace(old, new)


def script_of(readme: str, name: str) -> str:
    """README's loop, or what comes before it with README's line of `trainer.fit`."""
    section = readme.partition("## The loop in twenty lines\n")[2].partition("\n## ")[0]
    loop, fit = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    if name == "loop":
        return replaced(loop, "num_steps=1_000", f"num_steps={STEPS}", count=2)
    before, run, _ = loop.partition("with trainer.Run(")
    assert run
    return before + replaced(fit, "epochs=10", f"epochs={EPOCHS}", count=1)


class Script:
    """A process that runs a script in a folder."""

    def __init__(self, path: pathlib.Path, folder: pathlib.Path, name: str, data_dir: pathlib.Path) -> None:
        folder.mkdir(exist_ok=True)
        self.workdir, self.said = folder / EXPECTED[name][0], folder / "stderr"
        self._before = self._processes()
        environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir), "TF_CPP_MIN_LOG_LEVEL": "2"}
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen([sys.executable, str(path)], cwd=folder, env=environment, stderr=stderr)
        self._start = time.monotonic()

    def _processes(self) -> int:
        """How many processes have trained in the folder. A process is counted when its hooks are opened."""
        goodput = self.workdir / "goodput.json"
        return len(json.loads(goodput.read_text())["processes"]) if goodput.exists() else 0

    def until_training(self) -> float:
        """Waits until this process trains, and returns the seconds since its start."""
        while self.process.poll() is None and self._processes() == self._before:
            time.sleep(0.005)
        return time.monotonic() - self._start

    def until_record(self) -> None:
        """Waits until this process has logged a step after its newest checkpoint, which the next one takes back."""
        self.until_training()
        while self.process.poll() is None and self._logged() <= self._saved():
            time.sleep(0.005)

    def _logged(self) -> int:
        metrics = self.workdir / "metrics.jsonl"
        return max((record["step"] for record in json_lines.read(metrics)), default=0)

    def _saved(self) -> int:
        folders = (self.workdir / "checkpoints").glob("*")
        return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)

    def wait(self) -> int:
        """Waits for the end. A negative code is a signal's number."""
        try:
            return self.process.wait(timeout=300)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def straight(
    repository: pathlib.Path, mnist_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """`straight(name)`: the script's path, the folder of a run that nothing interrupted, and the seconds that it took
    to start and to train."""
    made: dict[str, tuple[pathlib.Path, pathlib.Path, float, float]] = {}

    def run(name: str) -> tuple[pathlib.Path, pathlib.Path, float, float]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            path = folder / "script.py"
            path.write_text(script_of((repository / "README.md").read_text(encoding="utf-8"), name), encoding="utf-8")
            script = Script(path, folder, name, mnist_dir)
            starting, began = script.until_training(), time.monotonic()
            assert script.wait() == 0, script.said.read_text()
            made[name] = path, script.workdir, starting, time.monotonic() - began
        return made[name]

    yield run


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds, apart from what the clock says."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in VOLATILE} for line in lines]


def events(workdir: pathlib.Path, split: str) -> dict[str, list[tuple[int, bytes]]]:
    """The steps and serialized values of each tag over all event files, without the seconds of the clock."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for path in event_files(workdir / "tensorboard" / split):
        for event in read_events(path):
            for value in event.summary.value:
                timed = value.tag in VOLATILE or value.tag.startswith("goodput/")
                number = b"" if timed else value.tensor.SerializeToString()
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def tensors(workdir: pathlib.Path) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the last checkpoint and every tensor in it, read by plain TensorFlow."""
    newest = max((path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: p.name)
    reader = tf.train.load_checkpoint(str(newest / "state"))
    return newest.name, {key: np.asarray(reader.get_tensor(key)) for key in reader.get_variable_to_shape_map()}


def assert_equals_straight(name: str, workdir: pathlib.Path, straight: pathlib.Path) -> None:
    """Asserts that nothing is missing, nothing is there twice, and every number is that of the straight run."""
    _, logged, evaluated = EXPECTED[name]
    found = records(workdir)
    assert [record["step"] for record in found if record["split"] == "train"] == logged
    assert [record["step"] for record in found if record["split"] == "eval"] == evaluated
    assert found == records(straight)
    for split, steps in (("train", logged), ("eval", evaluated)):
        shown, expected = events(workdir, split), events(straight, split)
        for tag in ("loss", "accuracy"):
            assert [step for step, _ in shown[tag]] == steps
        for tag in {*shown, *expected}:
            if tag.startswith("goodput/"):  # written at each checkpoint, and a phase may be absent in a process
                assert [step for step, _ in shown.get(tag, [])] == sorted({step for step, _ in shown.get(tag, [])})
            else:
                assert shown[tag] == expected[tag], tag
    (here, values), (there, wanted) = tensors(workdir), tensors(straight)
    assert here == there == f"{logged[-1]:08d}"
    assert set(values) == set(wanted)
    assert [key for key, value in wanted.items() if value.tobytes() != values[key].tobytes()] == []
    best = [json.loads((folder / "checkpoints" / "best.json").read_text()) for folder in (workdir, straight)]
    assert best[0] == best[1]
    assert (workdir / "summary.json").exists()


def assert_saved(name: str, script: Script, whole_step: int) -> None:
    """Asserts that a script that SIGTERM stopped says at which step, and that this step is the newest checkpoint."""
    said = script.said.read_text().splitlines()[-1]
    assert said == f"loopwright: stopped by SIGTERM at step {whole_step}, which is saved"
    assert whole_step == EXPECTED[name][1][-1] or not (script.workdir / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_script_that_is_killed_again_and_again_equals_one_that_never_was(
    straight: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path, assert_whole: Any, survived: Any, name: str
) -> None:
    path, undisturbed, starting, training = straight(name)
    rng = random.Random(f"{name} {FULL}")
    signals = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * TERMINATIONS
    rng.shuffle(signals)
    number, newest = 1, 0
    while signals:
        script = Script(path, tmp_path / f"try-{number}", name, mnist_dir)
        moment = MOMENTS[signals.count(signal.SIGKILL) % 3] if signals[-1] == signal.SIGKILL else "training"
        if moment == "start":
            time.sleep(rng.uniform(0, starting))  # while it imports, restores and compiles
        elif moment == "record":
            script.until_record()
            time.sleep(rng.uniform(0, 0.5))
        else:
            script.until_training()
            time.sleep(rng.uniform(0.1, 0.6 * training))
        script.process.send_signal(signals[-1])
        code = script.wait()
        if code == 0:  # It had come to its end before the signal came, so the next one begins afresh.
            assert_equals_straight(name, script.workdir, undisturbed)
            number, newest = number + 1, 0
            continue
        assert code == (143 if signals[-1] == signal.SIGTERM else -signal.SIGKILL), script.said.read_text()
        newest = assert_whole(script.workdir, at_least=newest)
        if signals.pop() == signal.SIGTERM:
            assert_saved(name, script, newest)
    script = Script(path, tmp_path / f"try-{number}", name, mnist_dir)
    assert script.wait() == 0, script.said.read_text()
    assert_equals_straight(name, script.workdir, undisturbed)
    survived(f"README's {name}: kill -9 at a random moment", KILLS)
    survived(f"README's {name}: SIGTERM at a random moment", TERMINATIONS)
