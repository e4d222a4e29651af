"""`loopwright verify_resume`: proves on a job of yours that a killed and resumed run equals one that never was."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from loopwright import flags, models
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands.train import restore
from loopwright.trainer.compare import kill_and_compare

USAGE = "usage: loopwright verify_resume [--kills=5] [--flags of train]"
HELP = (
    "Trains a job without interruption, trains it again with kills (SIGKILL) and a byte flipped in a checkpoint, and "
    "compares every tensor, the samples of every step and the metrics. Exits 0 if all are equal to the last bit, else 1. "
    "The flags are those of train; without --epochs or --train_steps it takes 200 steps, with a checkpoint every 25."
)
GROUPS = (flags.Verification, *flags.TRAIN_GROUPS)


def run(argv: Sequence[str]) -> int:
    """Parses the flags, runs both and prints the verdict."""
    (verification, *groups), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    config = flags.config_from_groups(groups)
    models.check_name(config.model.model)
    run_flags = config.run
    if run_flags.epochs is None and run_flags.train_steps is None:
        run_flags = dataclasses.replace(run_flags, train_steps=200, checkpoint_every=run_flags.checkpoint_every or 25)
    run_flags = dataclasses.replace(run_flags, deterministic=True, log_samples=True, json=False)
    restore.check(dataclasses.replace(config, run=run_flags))
    kill_at = _steps(verification.kill_at)
    _check_kills(kill_at, run_flags.train_steps)
    with _folder(config.run.workdir) as folder:
        result = _verify(folder, dataclasses.replace(config, run=run_flags), verification, kill_at)
    print(json.dumps(result) if config.run.json else _in_words(result))
    return 0 if result["equal"] else 1


def _verify(
    folder: pathlib.Path, config: flags.Config, verification: flags.Verification, kill_at: list[int]
) -> dict[str, Any]:
    straight, killed, said = folder / "straight", folder / "killed", folder / "killed.log"
    _say("the run without interruption")
    _finish(_command(config, straight), straight, folder / "straight.log")
    num_steps = kill_and_compare.counts(straight)["steps"]
    _check_kills(kill_at, num_steps)
    kills = [kill_and_compare.Kill(step) for step in kill_at] or kill_and_compare.random_kills(
        verification.kills, num_steps, random.Random(verification.kill_seed)
    )
    command, phases, found = _command(config, killed), collections.Counter[str](), []
    for number, kill in enumerate(kills, 1):
        before, earlier = kill_and_compare.last_step(killed), kill_and_compare.unfinished(killed)
        code = kill_and_compare.run_until(command, killed, said, kill)
        if code is None:
            phases[kill_and_compare.phase(killed, before, config.run.eval_every, earlier=earlier)] += 1
            _say(f"kill {number} of {len(kills)}: step {kill_and_compare.last_step(killed)}")
            continue
        if code != 0:
            found.append(f"the resumed run failed: {_last_line(said)}")
        break
    done, least = sum(phases.values()), len(kills) if kill_at else min(1, len(kills))
    if done < least and not found:
        found.append(f"kills: {done} of {len(kills)} came before the run's end; give it more --train_steps")
    damage = None
    if not found:
        damage, found = _damage(killed, command, said)
    if not found:
        found = kill_and_compare.differences(straight, killed)
    return {
        "equal": not found,
        "differences": found,
        "kills": {"asked": len(kills), "done": done, "phases": dict(phases)},
        "damage": damage,
        "compared": kill_and_compare.counts(straight),
    }


def _check_kills(kill_at: list[int], num_steps: int | None) -> None:
    """Raises UsageError for a kill that would come after the end; None for an end that isn't known yet."""
    late = [step for step in kill_at if num_steps is not None and step > num_steps]
    if late:
        raise flags.UsageError(f"--kill_at={late[0]}: the run ends at step {num_steps}; kill it before")


def _damage(killed: pathlib.Path, command: list[str], said: pathlib.Path) -> tuple[str | None, list[str]]:
    """Flips a byte in the newest of two checkpoints and more, and ends the run: what was damaged, and what is wrong."""
    folders = sorted(path for path in (killed / "checkpoints").glob("*") if path.name.isdigit())
    path = kill_and_compare.flip_byte(folders[-1]) if len(folders) > 1 else None
    size = said.stat().st_size if said.exists() else 0
    _say("the killed run, to its end" + (f", after a flipped byte in {path.parent.name}/{path.name}" if path else ""))
    code = kill_and_compare.run_until(command, killed, said, None)
    name = f"{path.parent.name}/{path.name}" if path else None
    with said.open("rb") as log:
        log.seek(size)
        told = log.read().decode(errors="replace")
    if path and not ("a damaged checkpoint is skipped" in told and path.parent.name in told):
        return name, [f"hash: a byte was flipped in {name}, and it was not found: {_last_line(said)}"]
    return name, [] if code == 0 else [f"the resumed run failed: {_last_line(said)}"]


def _command(config: flags.Config, workdir: pathlib.Path) -> list[str]:
    run_flags = dataclasses.replace(config.run, workdir=str(workdir))
    groups = (config.data, config.model, config.optimization, run_flags)
    words = [word for group in groups for word in flags.to_arguments(group)]
    return [sys.executable, "-m", "loopwright.trainer", "train", *words]


def _finish(command: list[str], workdir: pathlib.Path, said: pathlib.Path) -> None:
    if kill_and_compare.run_until(command, workdir, said, None) != 0:
        raise TrainingError(f"the run without interruption failed: {_last_line(said)}")


@contextlib.contextmanager
def _folder(workdir: str | None) -> Iterator[pathlib.Path]:
    """The folder of both runs: the one that was named, which must be new, or a temporary one."""
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="verify_resume-") as folder:
            yield pathlib.Path(folder)
        return
    path = pathlib.Path(workdir)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise TrainingError(f"--workdir={path}: must be a new folder ({error.strerror})", exit_code=2) from None
    yield path


def _steps(text: str | None) -> list[int]:
    """`--kill_at` as rising steps. Raises UsageError."""
    words = [word.strip() for word in text.split(",")] if text else []
    steps = [int(word) for word in words if word.isascii() and word.isdigit()]
    if len(steps) != len(words) or steps != sorted(set(steps)) or 0 in steps:
        raise flags.UsageError(
            f"--kill_at={text}: write rising steps with commas between them, such as --kill_at=10,35"
        )
    return steps


def _in_words(result: dict[str, Any]) -> str:
    kills, compared = result["kills"], result["compared"]
    phases = ", ".join(f"{count} in {name}" for name, count in kills["phases"].items())
    lines = [
        f"kills        {kills['done']} of {kills['asked']}" + (f": {phases}" if phases else ""),
        f"damage       a flipped byte in {result['damage']}" if result["damage"] else "damage       not tried",
        f"compared     {compared['tensors']} tensors, samples of {compared['steps']} steps, {compared['records']} records",
        *(f"different    {line}" for line in result["differences"][:20]),
        f"verdict      {'equal to the last bit' if result['equal'] else 'NOT equal'}",
    ]
    return "\n".join(lines)


def _last_line(said: pathlib.Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("loopwright: ") if lines else "it said nothing"


def _say(line: str) -> None:
    print(f"verify_resume: {line}", file=sys.stderr)
