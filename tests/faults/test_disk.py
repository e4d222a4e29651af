"""A disk that is full, fails, forbids or has no handles left, while a run saves."""

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextlib.contextmanager
def mounted(target: pathlib.Path, *arguments: str) -> Iterator[None]:
    target.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(target)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"can't mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def assert_failed_in_one_line(trainer: Any, *parts: str) -> None:
    assert trainer.wait() == 1, trainer.said()
    last = trainer.said().splitlines()[-1]
    assert last.startswith("loopwright: ")
    assert any(part in last for part in parts), last
    assert "Traceback" not in trainer.said()


@needs_root
def test_disk_full(start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        workdir = disk / "run"
        trainer = start(workdir, "--train_steps=1000")
        assert trainer.until_step(11), trainer.said()
        with contextlib.suppress(OSError), (disk / "ballast").open("wb") as ballast:
            while True:
                ballast.write(bytes(4096))
                ballast.flush()
        assert_failed_in_one_line(trainer, "No space left")
        assert assert_whole(workdir) >= 5
        assert not any((workdir / "checkpoints").glob(".tmp-*"))
        (disk / "ballast").unlink()
        goes_on(workdir)
    survived("disk full")


def take_handles(trainer: Any) -> None:
    """Leaves the process no file handle beyond those that it has."""
    count = sum(1 for _ in pathlib.Path(f"/proc/{trainer.pid}/fd").iterdir())
    resource.prlimit(trainer.pid, resource.RLIMIT_NOFILE, (count, count))


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["file size", "open files", "log size"])
def test_limit_of_the_process(
    start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any, limit: str
) -> None:
    workdir = tmp_path / "run"
    # The limit of a log's size falls on an event file, and that of a file's size on a checkpoint.
    saves = ["--checkpoint_every=500"] if limit == "log size" else []
    trainer = start(workdir, "--train_steps=1000", *saves)
    assert trainer.until_step(16), trainer.said()  # past the first evaluation: see the next test
    if limit in ("file size", "log size"):
        resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    else:
        take_handles(trainer)
    assert_failed_in_one_line(trainer, "File too large", "Too many open files")
    if not saves:
        assert assert_whole(workdir) >= 5
    goes_on(workdir)
    survived(f"limit of {limit}")


@pytest.mark.slow
def test_no_handle_left_for_the_first_evaluation(
    start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any
) -> None:
    """TensorFlow traces it without its source, or aborts without its random device; whatever it says, nothing is lost."""
    workdir = tmp_path / "run"
    trainer = start(workdir, "--train_steps=1000")
    assert trainer.until_step(6), trainer.said()
    take_handles(trainer)
    assert trainer.wait() != 0
    assert assert_whole(workdir) >= 5
    goes_on(workdir)
    survived("no handle left in an evaluation")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing; `make faults` installs it")
def test_fsync_fails(start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir, "--train_steps=1000")
    assert trainer.until_step(6), trainer.said()
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"]
    with subprocess.Popen([*command, "-p", str(trainer.pid)]) as tracer:
        assert_failed_in_one_line(trainer, "Input/output error")
        tracer.wait()
    assert assert_whole(workdir) >= 5
    goes_on(workdir)
    survived("EIO at fsync of a run")


@pytest.mark.slow
@needs_root
def test_read_only_folder(start: Any, goes_on: Any, assert_whole: Any, tmp_path: pathlib.Path, survived: Any) -> None:
    workdir = tmp_path / "run"
    trainer = start(workdir)
    assert trainer.until_step(11), trainer.said()
    trainer.send(signal.SIGKILL)
    trainer.wait()
    newest = assert_whole(workdir)
    with mounted(workdir, "--bind", str(workdir)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(workdir)], check=True)
        trainer = start(workdir)
        assert trainer.wait() == 2
        assert trainer.said().splitlines()[-1].endswith("can't be written (Read-only file system)")
        assert assert_whole(workdir) == newest
    goes_on(workdir)
    survived("read-only folder")
