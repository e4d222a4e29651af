"""What a training run came to: summary.json, and the table that ends the command."""

from __future__ import annotations

import json
import pathlib
import shlex
from typing import Any

from loopwright import flags
from loopwright.trainer.base.atomic import MANIFEST, replace_file
from loopwright.trainer.commands import workdir

#: Phases that the table names, the largest ones, so that its line fits 80 columns.
_NAMED = 4


def write_summary(folder: pathlib.Path, goodput: dict[str, Any], *, monitor: str) -> None:
    """summary.json: the newest record of each split, the best evaluation, and where the run's seconds went."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    train = [record for record in records if record["split"] == "train"]
    evals = [record for record in records if record["split"] == "eval"]
    rates = sorted(record["examples_per_second"] for record in train if "examples_per_second" in record)
    sign = -1 if "loss" in monitor else 1
    scored = [record for record in evals if record[monitor] is not None]
    summary = {
        "step": train[-1]["step"],
        "epoch": train[-1]["epoch"],
        "train": train[-1],
        "eval": evals[-1],
        "best": max(scored, key=lambda record: sign * record[monitor], default=None),
        "examples_per_second": rates[len(rates) // 2] if rates else None,
        "goodput": goodput,
    }
    replace_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def report(config: flags.Config, folder: pathlib.Path, *, as_json: bool, finished_before: bool) -> None:
    """The result, on stdout: a table of what was reached and where it lies, or the summary as one JSON object."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps({"workdir": str(folder), **summary}))
        return
    if finished_before:
        print(f"This run is finished: it took {summary['step']} steps ({folder}).")
    evaluated, best, monitor = summary["eval"], summary["best"], config.run.monitor
    longer = "--epochs" if config.run.epochs else "--train_steps"
    steps = config.run.epochs or config.run.train_steps or 0
    rows = []
    if best is not None and best["step"] != evaluated["step"]:
        rows.append(("best", f"{monitor} {best[monitor]:.4f} at step {best['step']}"))
    rows += [("time", times(summary["goodput"])), ("report", f"loopwright report --workdir={quote(folder)}")]
    rows.append(
        ("accuracy", f"{evaluated['accuracy']:.4f}, loss {_number(evaluated['loss'])} after step {evaluated['step']}")
    )
    rows += [("model", str(path)) for path in sorted((folder / "exports").glob("[!.]*")) if path.name != MANIFEST]
    rows += [
        ("watch", f"tensorboard --logdir={quote(folder.parent)}"),
        (
            "go on",
            f"loopwright train --flagfile={quote(folder / workdir.FLAGFILE)} --workdir={quote(folder)} {longer}={steps * 2}",
        ),
    ]
    for name, value in rows:
        print(f"{name:<13}{value}")


def quote(path: pathlib.Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def times(goodput: dict[str, Any]) -> str:
    """Where the time went, in a line: "32 s: step 81%, compile 9%, …"; only the largest phases are named."""
    shares = sorted(goodput["share"].items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {share:.0%}" for name, share in shares[:_NAMED])
    again = f", in {goodput['processes']} processes" if goodput["processes"] > 1 else ""
    return f"{duration(goodput['total_seconds'])}{again}: {named}"


def duration(seconds: float) -> str:
    """Seconds as a person writes them: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4f}"
