"""Real faults in real runs. FAULTS=quick (each kind once, in `make test`), full (`make faults`) or long."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from loopwright.trainer.base import atomic
from loopwright.trainer.compare import kill_and_compare

HERE = pathlib.Path(__file__).resolve().parent
#: Steps of the runs that are interrupted once.
STEPS = 60


@dataclasses.dataclass
class Trainer:
    """A trainer's process, that the zygote forked."""

    pid: int
    workdir: pathlib.Path
    err: pathlib.Path
    ask: Callable[[dict[str, Any]], dict[str, Any]]
    code: int | None = None

    def wait(self) -> int:
        """Waits for its end; a negative code is a signal's number."""
        if self.code is None:
            self.code = self.ask({"wait": self.pid})["code"]
        return self.code

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def alive(self) -> bool:
        return pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def until(self, condition: Callable[[], Any]) -> bool:
        """Polls until the condition holds; false if the process ended before."""
        while self.alive():
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def until_step(self, step: int) -> bool:
        return self.until(lambda: kill_and_compare.last_logged_step(self.workdir) >= step)

    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

    def saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob(f".tmp-{self.pid}-*"))


@pytest.fixture(scope="session")
def zygote() -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, str(HERE / "zygote.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            process.stdin.write(json.dumps(request) + "\n")
            return json.loads(process.stdout.readline())

        assert json.loads(process.stdout.readline())["threads"] >= 1
        yield ask
        process.stdin.close()


@pytest.fixture
def start(zygote: Any, mnist_dir: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Callable[..., Trainer]]:
    """`start(workdir, *flags)`: a trainer under way, killed at the test's end if it still lives."""
    shutil.copy(HERE / "tiny.py", tmp_path)
    started: list[Trainer] = []

    def begin(workdir: pathlib.Path, *words: str, **options: Any) -> Trainer:
        err = tmp_path / f"err-{len(started)}"
        argv = ["train", *words_of(mnist_dir), *words, f"--workdir={workdir}"]
        pid = zygote({"argv": argv, "cwd": str(tmp_path), "err": str(err), **options})["pid"]
        started.append(Trainer(pid, workdir, err, zygote))
        return started[-1]

    yield begin
    for trainer in started:
        if trainer.code is None:
            trainer.send(signal.SIGKILL)
            trainer.wait()


def words_of(data_dir: pathlib.Path) -> list[str]:
    """A run with shuffling, augmentation, dropout and batch norm: an epoch has 10 steps, a checkpoint comes every 5."""
    return [
        *(f"--data_dir={data_dir}", "--train_split=train[:320]", "--eval_split=test[:64]", "--augment=translate:2"),
        *("--model=tiny:net", "--seed=5", "--log_samples", "--deterministic", f"--train_steps={STEPS}"),
        *("--steps_per_call=3", "--log_every=10", "--eval_every=15", "--checkpoint_every=5"),
    ]


@pytest.fixture(scope="session")
def straight(once: Any, zygote: Any, mnist_dir: pathlib.Path) -> Callable[..., pathlib.Path]:
    """`straight(steps)`: the folder of a run that nothing interrupted, to be looked at only."""

    def run(steps: int = STEPS, *words: str) -> pathlib.Path:
        def fill(folder: pathlib.Path) -> None:
            shutil.copy(HERE / "tiny.py", folder)
            argv = ["train", *words_of(mnist_dir), f"--train_steps={steps}", *words, "--workdir=run"]
            pid = zygote({"argv": argv, "cwd": str(folder), "err": str(folder / "err")})["pid"]
            assert zygote({"wait": pid})["code"] == 0, (folder / "err").read_text()

        return once(f"straight-{steps}-{'-'.join(words)}".replace("/", "_"), fill) / "run"

    return run


@pytest.fixture
def run_copy(straight: Any, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the finished run, to be spoilt."""
    return pathlib.Path(shutil.copytree(straight(), tmp_path / "run"))


@pytest.fixture(scope="session")
def assert_whole() -> Callable[..., int]:
    """Asserts that every committed checkpoint is whole, and the newest no older than it was; returns its step."""

    def check(workdir: pathlib.Path, at_least: int = 0) -> int:
        folders = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
        steps = [atomic.verify_folder(folder)["step"] for folder in folders]
        assert sorted(steps) == sorted(int(folder.name) for folder in folders)
        newest = max(steps, default=0)
        assert newest >= at_least
        return newest

    return check


@pytest.fixture
def goes_on(start: Any, straight: Any) -> Callable[..., str]:
    """`goes_on(workdir)`: the same command ends the run, and it equals the straight one; returns what was said."""

    def check(workdir: pathlib.Path, steps: int = STEPS, *words: str, like: Sequence[str] = ()) -> str:
        expected = straight(steps, *like)
        trainer = start(workdir, f"--train_steps={steps}", *words, *like)
        assert trainer.wait() == 0, trainer.said()
        assert kill_and_compare.differences(expected, workdir) == []
        return trainer.said()

    return check


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`survived(kind, times)`: put into the table at the end."""

    def note(kind: str, times: int = 1) -> None:
        record_property("fault", [kind, times])

    return note


@pytest.fixture(scope="session")
def host() -> str:
    return socket.gethostname()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table: each kind of fault, how often it was tried, and how often nothing was lost."""
    table: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            faults = [value for name, value in getattr(report, "user_properties", []) if name == "fault"]
            if report.when == "call" and outcome == "failed" and "faults" in report.nodeid and not faults:
                faults = [[report.nodeid.rpartition("::")[2], 1]]
            for kind, times in faults if report.when == "call" else []:
                table[kind][0] += times
                table[kind][1] += times if outcome == "passed" else 0
    if table:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'kind':<58}{'tried':>7}{'survived':>10}")
        for kind, (tried, well) in sorted(table.items()):
            terminalreporter.write_line(f"{kind:<58}{tried:>7}{well:>10}")
        total = [sum(column) for column in zip(*table.values(), strict=True)]
        terminalreporter.write_line(f"{'in all':<58}{total[0]:>7}{total[1]:>10}")
