"""The table that ends the command: what a run came to, and where it lies."""

from __future__ import annotations

import json
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from loopwright import flags
from loopwright.trainer.base.run_folder import RunFolder

#: The number of phases that the table names, the largest ones, so that its line fits 80 columns.
_NAMED = 4


def report(config: flags.Config, folder: pathlib.Path, *, as_json: bool, finished_before: bool) -> None:
    """Prints the result on stdout: a table of what was reached and where it lies, or the summary as one JSON object."""
    files = RunFolder.at(folder)
    summary = json.loads(files.summary.read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps({"workdir": str(folder), **summary}))
        return
    if finished_before:
        print(f"This run is finished: it took {summary['step']} steps ({folder}).")
    evaluated, best = summary["eval"], summary["best"]
    monitor = (config.run.monitor or "loss").partition(":")[0]
    longer = "--epochs" if config.run.epochs else "--train_steps"
    steps = config.run.epochs or config.run.train_steps or 0
    rows = []
    if best is not None and best["step"] != evaluated["step"]:
        rows.append(("best", f"{monitor} {_number(best[monitor])} at step {best['step']}"))
    rows += [("time", times(summary["goodput"])), ("report", f"loopwright report --workdir={quote(folder)}")]
    headline = headline_of(evaluated, monitor)
    loss = "" if headline == "loss" else f", loss {_number(evaluated['loss'])}"
    rows.append((headline, f"{_number(evaluated[headline])}{loss} after step {evaluated['step']}"))
    rows += _exports(files.exports, summary["step"])
    rows.append(("watch", f"tensorboard --logdir={quote(folder.parent)}"))
    if config.optimization.schedule != "cosine":  # its rate ends where the run ends
        command = f"loopwright train --flagfile={quote(files.flags)} --workdir={quote(folder)} {longer}={steps * 2}"
        rows.append(("go on", command))
    width = max(13, *(len(name) + 2 for name, _ in rows))
    for name, value in rows:
        print(f"{name:<{width}}{value}")


def headline_of(evaluated: Mapping[str, Any], monitor: str) -> str:
    """The metric that says most about an evaluation: accuracy where there is one, otherwise what --monitor names."""
    return "accuracy" if evaluated.get("accuracy") is not None else monitor


def _exports(folder: pathlib.Path, step: int) -> list[tuple[str, str]]:
    """The exports of this step. Those of an earlier step are named as such."""
    from loopwright.trainer.export.formats import read_exports_manifest

    told = read_exports_manifest(folder)["files"]
    current = [("model", str(folder / name)) for name, entry in told.items() if entry["step"] == step]
    older = [f"{folder / name} (step {entry['step']})" for name, entry in told.items() if entry["step"] != step]
    return current + [("older model", path) for path in older]


def quote(path: pathlib.Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def times(goodput: dict[str, Any]) -> str:
    """Where the time went, in a line: "32 s: step 81%, compile 9%, …". Only the largest phases are named."""
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
    if value is None:
        return "nan"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
