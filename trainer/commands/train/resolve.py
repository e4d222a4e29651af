"""What `--execution=auto` stands for."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.commands import setup, workdir
from loopwright.trainer.commands.train import build

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed


def resolve_execution(
    config: flags.Config, job: build.Job, dataset: Dataset, feed: Feed
) -> tuple[flags.Config, dict[str, Any]]:
    """The config with the execution that `auto` stands for: that of the folder's run, or the fastest of graph and xla.

    Returns a fact for run.json, too: the milliseconds a step, where they were measured now.
    """
    from loopwright import trainer

    folder = pathlib.Path(config.run.workdir or "")
    before = workdir.read_config(folder)
    if before is not None:
        resolved = workdir.with_run(config, execution=before.run.execution)
        if not workdir.identity_differences(folder, resolved):
            return resolved, {}
    candidates = {name: build.make_execution(name, config.run.steps_per_call) for name in ("graph", "xla")}
    ahead = 200 + 3 * config.run.steps_per_call  # of the state, which is put back before an error comes here
    with setup.bad_samples_named(dataset, feed, lambda: int(job.state.step), ahead=ahead):
        choice = trainer.choose(job.state, job.step, feed, candidates)
    for name, milliseconds in sorted(choice.milliseconds.items(), key=lambda item: item[1]):
        print(f"execution {name}: {milliseconds:.3f} ms a step", file=sys.stderr)
    for name, reason in choice.failed.items():
        print(f"execution {name}: {reason}", file=sys.stderr)
    print(f"execution {choice.name} is chosen", file=sys.stderr)
    return workdir.with_run(config, execution=choice.name), {"execution_measured_ms": choice.milliseconds}
