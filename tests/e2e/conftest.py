"""The program, in this process (quick) and as the installed command (each costs an import of TensorFlow)."""

import contextlib
import dataclasses
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from loopwright.trainer.__main__ import main


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command left behind: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def loopwright(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*argv: str) -> Result:
        capsys.readouterr()
        code = main(argv)
        return Result(code, *capsys.readouterr())

    return run


class Here:
    """In the place of a new process: the same program, run in this one. A new process costs an import of TensorFlow."""

    def __init__(self, module: str, arguments: tuple[str, ...]) -> None:
        self.module, self.arguments, self.returncode = module, list(arguments), 0

    def communicate(self) -> tuple[None, str]:
        said = importlib.import_module(self.module).main(self.arguments)
        self.returncode = int(said is not None)
        return None, said or ""


@pytest.fixture(autouse=True)
def _exports_are_loaded_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands in this process load their exports here, unless the test is marked `new_process`.

    The installed command, which other tests run, always starts the process, and so do the tests of `trainer.export`.
    """
    if request.node.get_closest_marker("new_process") is None:
        from loopwright.trainer.export import new_process

        def started(module: str, *arguments: str) -> Any:
            return contextlib.nullcontext(Here(module, arguments))

        monkeypatch.setattr(new_process, "started", started)


#: A run of 30 steps, whose records and checkpoints come at other steps than its calls end.
SMALL_RUN = (
    *("train", "--model=mlp", "--train_steps=30", "--seed=3", "--steps_per_call=7"),
    *("--log_every=10", "--eval_every=20", "--checkpoint_every=15", "--keep=2"),
)


@pytest.fixture(scope="session")
def small_run_result(once: Any, installed: Any, mnist_dir: pathlib.Path) -> tuple[pathlib.Path, Result]:
    """The folder in which the installed command made `run`, and what it said; made once for all tests."""

    def fill(folder: pathlib.Path) -> None:
        command, environment = installed
        argv = [command, *SMALL_RUN, f"--data_dir={mnist_dir}", "--workdir=run"]
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        (folder / "result.json").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))

    folder = once("small", fill)
    return folder, Result(*json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="session")
def small_run(small_run_result: tuple[pathlib.Path, Result]) -> pathlib.Path:
    """A finished run's folder, to be looked at only."""
    return small_run_result[0] / "run"


@pytest.fixture
def run_folder(small_run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of a finished run of 30 steps, which a test may go on with or spoil."""
    return pathlib.Path(shutil.copytree(small_run, tmp_path / "run"))
