"""`loopwright verify_resume`: proves on your own job that a killed and resumed run equals an uninterrupted one."""

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
from loopwright.trainer.compare import kill_and_compare

USAGE = "usage: loopwright verify_resume [--kills=5] [--flags of train]"
HELP = (
    "Trains a job without interruption, trains it again with kills (SIGKILL) and a byte flipped in a checkpoint, and "
    "compares every tensor, the samples of every step and the metrics. Exits 0 if all are equal to the last bit, and 1 "
    "otherwise. It takes the flags of train. Without --epochs and --train_steps, the job has 200 steps, with a checkpoint "
    "every 25."
)
GROUPS = (flags.Verification, *flags.TRAIN_GROUPS)


def run(argv: Sequence[str]) -> int:
    """Parses the flags, makes both runs and prints the verdict."""
    (verification, *groups), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    config = flags.config_from_groups(groups, argv)
    models.check_name(config.model.model)
    run_flags = config.run
    if run_flags.epochs is None and run_flags.train_steps is None:
        run_flags = dataclasses.replace(run_flags, train_steps=200, checkpoint_every=run_flags.checkpoint_every or 25)
    run_flags = dataclasses.replace(run_flags, deterministic=True, log_samples=True, json=False)
    flags.check((verification, config.data, config.model, config.optimization, run_flags))
    with _folder(config.run.workdir) as folder:
        result = _verify(folder, dataclasses.replace(config, run=run_flags), verification)
    print(json.dumps(result) if config.run.json else _in_words(result))
    return 0 if result["equal"] else 1


def _verify(folder: pathlib.Path, config: flags.Config, verification: flags.Verification) -> dict[str, Any]:
    straight, killed, said = folder / "straight", folder / "killed", folder / "killed.log"
    _say("the run without interruption")
    _finish(_command(config, straight), straight, folder / "straight.log")
    num_steps = kill_and_compare.compared_counts(straight)["steps"]
    kill_at = flags.checks.kill_at(verification.kill_at)
    if kill_at and kill_at[-1] > num_steps:  # known only now if the flags give --epochs
        raise flags.UsageError(f"--kill_at={kill_at[-1]}: the run ends at step {num_steps}; kill it before")
    kills = [kill_and_compare.Kill(step) for step in kill_at] or kill_and_compare.random_kills(
        verification.kills, num_steps, random.Random(verification.kill_seed)
    )
    command, phases, found = _command(config, killed), collections.Counter[str](), []
    for number, kill in enumerate(kills, 1):
        before, earlier = kill_and_compare.last_logged_step(killed), kill_and_compare.leftovers(killed)
        code = kill_and_compare.run_and_kill(command, killed, said, kill)
        if code is None:
            phases[kill_and_compare.phase_of_kill(killed, before, config.run.eval_every, earlier=earlier)] += 1
            _say(f"kill {number} of {len(kills)}: step {kill_and_compare.last_logged_step(killed)}")
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
        "compared": kill_and_compare.compared_counts(straight),
    }


def _damage(killed: pathlib.Path, command: list[str], said: pathlib.Path) -> tuple[str | None, list[str]]:
    """Flips a byte in the newest checkpoint, if there are two or more, and lets the run come to its end.

    Returns the name of the damaged file, or None, and what is wrong.
    """
    folders = sorted(path for path in (killed / "checkpoints").glob("*") if path.name.isdigit())
    path = kill_and_compare.flip_byte(folders[-1]) if len(folders) > 1 else None
    size = said.stat().st_size if said.exists() else 0
    _say("the killed run, to its end" + (f", after a flipped byte in {path.parent.name}/{path.name}" if path else ""))
    code = kill_and_compare.run_and_kill(command, killed, said, None)
    name = f"{path.parent.name}/{path.name}" if path else None
    with said.open("rb") as log:
        log.seek(size)
        told = log.read().decode(errors="replace")
    if path and not ("a damaged checkpoint is skipped" in told and path.parent.name in told):
        return name, [f"hash: a byte was flipped in {name}, and the run didn't notice it: {_last_line(said)}"]
    return name, [] if code == 0 else [f"the resumed run failed: {_last_line(said)}"]


def _command(config: flags.Config, workdir: pathlib.Path) -> list[str]:
    run_flags = dataclasses.replace(config.run, workdir=str(workdir))
    groups = (config.data, config.model, config.optimization, run_flags)
    words = [word for group in groups for word in flags.to_arguments(group)]
    return [sys.executable, "-m", "loopwright.trainer", "train", *words]


def _finish(command: list[str], workdir: pathlib.Path, said: pathlib.Path) -> None:
    if kill_and_compare.run_and_kill(command, workdir, said, None) != 0:
        raise TrainingError(f"the run without interruption failed: {_last_line(said)}")


@contextlib.contextmanager
def _folder(workdir: str | None) -> Iterator[pathlib.Path]:
    """The folder of both runs: the named one, which must be new, or a temporary one."""
    if workdir is None:
        with tempfile.TemporaryDirectory(prefix="verify_resume-") as folder:
            yield pathlib.Path(folder)
        return
    path = pathlib.Path(workdir)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise TrainingError(f"--workdir={path}: name a new folder ({error.strerror})", exit_code=2) from None
    yield path


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
