"""Kills a run again and again, and compares its folder with that of an undisturbed run. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
import re
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from loopwright.trainer.base import atomic, json_lines

#: Fields of records that differ between two equal runs.
VOLATILE = ("wall_time", "examples_per_second")

_POLL_SECONDS = 0.0005
_TAIL_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Kill:
    """When to kill a run: `delay` seconds after a step is in the log of samples.

    With `in_save`, the delay begins only when the next save has begun.
    """

    step: int
    delay: float = 0.0
    in_save: bool = False


def random_kills(count: int, num_steps: int, rng: random.Random) -> list[Kill]:
    """Kills at random moments, in rising order of their steps. Every second kill happens within a save."""
    steps = sorted(rng.randrange(1, num_steps) for _ in range(count))
    return [
        Kill(step, rng.uniform(0, 0.02 if number % 2 else 0.05), in_save=number % 2 == 1)
        for number, step in enumerate(steps)
    ]


def run_and_kill(command: Sequence[str], workdir: pathlib.Path, said: pathlib.Path, kill: Kill | None) -> int | None:
    """Runs a command, appends its stderr to the file `said`, and sends SIGKILL at the moment of `kill`.

    Returns None if the run was killed, and otherwise its exit code.
    """
    with (
        said.open("a") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log) as process,
    ):
        if kill is None:
            return process.wait()
        try:
            ended = _wait(process, lambda: last_logged_step(workdir) >= kill.step)
            if kill.in_save and not ended:
                ended = _wait(process, lambda: any((workdir / "checkpoints").glob(f".tmp-{process.pid}-*")))
            if not ended:
                time.sleep(kill.delay)
        finally:
            process.kill()
        code = process.wait()
        return None if code == -9 else code


def _wait(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Polls until the condition holds. Returns True if the process ended first."""
    while process.poll() is None:
        if condition():
            return False
        time.sleep(_POLL_SECONDS)
    return True


def last_logged_step(workdir: pathlib.Path) -> int:
    """The newest step in the log of samples; 0 if there is none."""
    try:
        with (workdir / "samples.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            steps = re.findall(rb'\{"step": (\d+),', file.read())
    except OSError:
        return 0
    return int(steps[-1]) if steps else 0


def leftovers(workdir: pathlib.Path) -> set[str]:
    """The names of unfinished files that a killed process left beside the checkpoints. The next start sweeps them."""
    return {path.name for path in (workdir / "checkpoints").glob(".*")}


def phase_of_kill(
    workdir: pathlib.Path, began_at: int, eval_every: int | None = None, *, earlier: Collection[str] = ()
) -> str:
    """The phase in which a run was killed, according to its folder.

    Args:
      began_at: the newest step in the log of samples before the run was started.
      eval_every: steps between evaluations; None for one evaluation per epoch.
      earlier: the `leftovers` before the run was started.
    """
    left = leftovers(workdir) - set(earlier)
    if any("-deleted-" in name for name in left):
        return "deletion"
    if left:
        return "save"
    step = last_logged_step(workdir)
    if step in (0, began_at):
        return "start-up"
    if (workdir / "exports").is_dir():
        return "export"
    every = eval_every or (_read(workdir / "run.json") or {}).get("steps_per_epoch", 1)
    records = [record for record in _lines(workdir / "metrics.jsonl") if record["step"] == step]
    evaluated = any(record["split"] == "eval" for record in records)
    return "evaluation" if step % every == 0 and not evaluated else "steps"


def flip_byte(checkpoint: pathlib.Path) -> pathlib.Path:
    """Changes one bit in the middle of a checkpoint's largest file; returns the file's path."""
    path = max((path for path in checkpoint.iterdir() if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def differences(straight: pathlib.Path, killed: pathlib.Path) -> list[str]:
    """One line for each difference between the folders of two runs; empty for equal runs."""
    found = []
    folders = [_last_checkpoint(run) for run in (straight, killed)]
    if folders[0].name != folders[1].name:
        found.append(f"step: the last checkpoint is {folders[0].name} in one, {folders[1].name} in the other")
    else:
        hashes = [atomic.verify_folder(folder)["tensors"] for folder in folders]
        names = [name for name in {**hashes[0], **hashes[1]} if hashes[0].get(name) != hashes[1].get(name)]
        found += [f"tensor {name}" for name in names]
    for file, title in (("samples.jsonl", "samples"), ("metrics.jsonl", "metrics")):
        difference = _first_difference(_lines(straight / file), _lines(killed / file))
        if difference:
            found.append(f"{title}: {difference}")
    best = [_read(run / "checkpoints" / "best.json") for run in (straight, killed)]
    if best[0] != best[1]:
        found.append(f"best: {best[0]} in one, {best[1]} in the other")
    return found


def compared_counts(run: pathlib.Path) -> dict[str, int]:
    """How many tensors, steps and records `differences` compared."""
    return {
        "tensors": len(atomic.verify_folder(_last_checkpoint(run))["tensors"]),
        "steps": len(_lines(run / "samples.jsonl")),
        "records": len(_lines(run / "metrics.jsonl")),
    }


def _last_checkpoint(run: pathlib.Path) -> pathlib.Path:
    return max((path for path in (run / "checkpoints").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON lines file, without the fields in `VOLATILE`."""
    return [{name: value for name, value in line.items() if name not in VOLATILE} for line in json_lines.read(path)]


def _first_difference(straight: list[dict[str, Any]], killed: list[dict[str, Any]]) -> str | None:
    for one, other in zip(straight, killed, strict=False):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            return f"step {one['step']} differs in {', '.join(names)}"
    if len(straight) != len(killed):
        return f"{len(straight)} lines in one, {len(killed)} in the other"
    return None


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
