"""The commit protocol, killed or failing at every one of its system calls (strace injects both)."""

import collections
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from loopwright.trainer.base import atomic

FAULTS_DIR = pathlib.Path(__file__).resolve().parent
#: `make test` tries every n-th system call, `make faults` all of them.
STRIDE = {"quick": 30}


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is missing, and `make faults` could not install it (apt-get needs root and a network)")
    return found


@pytest.fixture
def stride() -> int:
    return STRIDE.get(os.environ.get("FAULTS", "quick"), 1)


def prepare(parent: pathlib.Path) -> None:
    """A folder with checkpoints 5 and 10, the newest named by `latest`."""
    shutil.rmtree(parent, ignore_errors=True)
    for step in (5, 10):
        atomic.commit_folder(parent / f"{step:08d}", lambda folder: (folder / "old").write_text("old"), {"step": step})
    atomic.replace_file(parent / "latest", "00000010\n")


def command(parent: pathlib.Path, job: str) -> list[str]:
    module = importlib.util.find_spec("loopwright.trainer.base.atomic")
    assert module is not None
    return [sys.executable, "-ISB", str(FAULTS_DIR / "commit_steps.py"), str(module.origin), str(parent), job]


def system_calls(strace: str, parent: pathlib.Path, job: str) -> list[tuple[str, int]]:
    """The system calls between the marks: each one's name, and its number among those of its name since the start."""
    prepare(parent)
    log = parent.with_name("strace.log")
    subprocess.run([strace, "-o", str(log), *command(parent, job)], check=True)
    counts: collections.Counter[str] = collections.Counter()
    calls, inside = [], False
    for line in log.read_text().splitlines():
        name = re.match(r"(\w+)\(", line)
        if name is None:
            continue
        counts[name[1]] += 1
        if line.startswith('access("/mark-begin"'):
            inside = True
        elif line.startswith('access("/mark-end"'):
            return calls
        elif inside:
            calls.append((name[1], counts[name[1]]))
    raise AssertionError(f"no marks among {sum(counts.values())} system calls")


def assert_nothing_lost(parent: pathlib.Path) -> int:
    """After the sweep all that is committed is whole, and the newest is the old or the new one; returns its step."""
    atomic.sweep(parent)
    left = sorted(path.name for path in parent.iterdir() if path.name not in ("latest", "warm"))
    assert all(name.isdigit() for name in left), left
    steps = [atomic.verify_folder(parent / name)["step"] for name in left]
    assert steps == [int(name) for name in left]
    assert max(steps) >= 10
    assert (parent / "latest").read_text() in ("00000010\n", "00000020\n")
    return max(steps)


@pytest.mark.parametrize("job", ["save", "save again"])
def test_kill_at_every_system_call(strace: str, stride: int, tmp_path: pathlib.Path, survived: Any, job: str) -> None:
    parent = tmp_path / "checkpoints"
    calls = system_calls(strace, parent, job)
    assert len(calls) > 60
    newest, killed = [], 0
    for name, number in calls[::stride]:
        prepare(parent)
        inject = f"inject={name}:signal=KILL:when={number}"
        done = subprocess.run(
            [strace, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject, *command(parent, job)], check=False
        )
        assert done.returncode in (-9, 137), (name, number, done.returncode)
        killed += 1
        newest.append(assert_nothing_lost(parent))
    assert killed == len(calls[::stride])
    if job == "save":
        assert newest == sorted(newest)  # old ones, then new ones
        assert set(newest) == {10, 20}
    kinds = {
        "save": "kill at a system call of save and deletion",
        "save again": "kill at a system call, step saved twice",
    }
    survived(kinds[job], killed)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_fsync_or_write(strace: str, stride: int, tmp_path: pathlib.Path, survived: Any, error: str) -> None:
    parent = tmp_path / "checkpoints"
    failing = [
        call for call in system_calls(strace, parent, "save") if call[0] == ("fsync" if error == "EIO" else "write")
    ]
    for name, number in failing:
        prepare(parent)
        inject = f"inject={name}:error={error}:when={number}"
        done = subprocess.run(
            [strace, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject, *command(parent, "save")],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert ("Input/output error" if error == "EIO" else "No space left") in done.stderr
        assert_nothing_lost(parent)
    assert len(failing) >= 3
    survived(f"{error} at {failing[0][0]} in a commit", len(failing))
