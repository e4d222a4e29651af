"""Every example runs. The examples that take a folder resume in a new process as if they had never stopped."""

import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def accurate(last_line: str) -> bool:
    name, number = last_line.split()
    return name == "accuracy" and float(number) > 0.85


def points_are_real(last_line: str) -> bool:
    x, y = (float(part) for part in last_line.partition("(")[2].partition(")")[0].split(","))
    return abs(x - 2) < 0.5 and abs(y + 1) < 0.5


#: What the last line of each example must say.
ENDS: dict[str, Callable[[str], bool]] = {
    "fit_then_resume.py": lambda last_line: (
        last_line == "2 epochs, a file, 1 epoch: the weights of 3 epochs, to the bit"
    ),
    "replay_memory.py": accurate,
    "train_gan.py": points_are_real,
    "train_your_model.py": accurate,
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert ENDS[name](last_line), last_line


def tensors(folder: pathlib.Path) -> dict[str, Any]:
    """Every tensor in the newest checkpoint of a run's folder."""
    newest = (folder / "checkpoints" / "latest").read_text().strip()
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / newest / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name).tolist() for name in names}


@pytest.mark.parametrize(
    ("name", "part"),
    [("train_gan.py", "extras/discriminator_optimizer"), ("replay_memory.py", "extras/memory/seen")],
)
@pytest.mark.slow
def test_example_resumes_in_a_new_process_as_if_it_had_never_stopped(
    name: str, part: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in ("70", "110"):  # neither is a multiple of 50, the steps in a call
        argv = [sys.executable, str(EXAMPLES / name), str(tmp_path / "stopped"), steps]
        subprocess.run(argv, capture_output=True, check=True)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "straight"), "110"])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    stopped, straight = tensors(tmp_path / "stopped"), tensors(tmp_path / "straight")
    assert stopped["step/.ATTRIBUTES/VARIABLE_VALUE"] == 110
    assert any(key.startswith(part) for key in stopped)
    assert stopped == straight
