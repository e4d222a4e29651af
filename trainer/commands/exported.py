"""What an export says of its run beside its identity: what is predicted, and how inputs are made of texts or columns."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.commands import setup, sources

if TYPE_CHECKING:
    from loopwright.data import Dataset
    from loopwright.data.preprocessing import Preprocessing
    from loopwright.trainer.commands.train.build import Job
    from loopwright.trainer.tasks.assignment import Assignment


def described(job: Job, dataset: Dataset) -> dict[str, Any]:
    """The facts about a job that `assignment` and `preprocessing` read again."""
    heads = {
        name: {
            "task": job.model.task if ":" in job.model.task else head.task.name,
            "kind": head.goal.target.kind,
            "shape": list(head.goal.target.shape),
            "names": list(head.goal.target.names),
            "activated": head.goal.activated,
        }
        for name, head in job.assignment.heads.items()
    }
    keys = getattr(dataset, "keys", None)
    return {
        "heads": heads,
        "inputs": list(keys.inputs) if keys is not None else [],
        "preprocessing": None if dataset.preprocessing is None else dataset.preprocessing.state(),
    }


def assignment(facts: Mapping[str, Any]) -> Assignment | None:
    """What the model predicts. None if the facts don't say it, as those of older exports."""
    if "heads" not in facts:
        return None
    from loopwright.data.target import Target
    from loopwright.trainer.tasks.assignment import Assignment, Head, find
    from loopwright.trainer.tasks.task import Goal

    heads = {}
    for name, said in facts["heads"].items():
        target = Target(said["kind"], tuple(said["shape"]), tuple(said["names"]))
        heads[name] = Head(find(said["task"]), Goal(target, activated=said["activated"]))
    return Assignment(heads)


def preprocessing(facts: Mapping[str, Any]) -> Preprocessing | None:
    """What makes inputs of texts or columns. None if the model takes neither."""
    from loopwright.data.preprocessing import from_state

    state = facts.get("preprocessing")
    return None if state is None else from_state(state)


def of_file(path: pathlib.Path) -> dict[str, Any]:
    """What an export, or the manifest beside it, says of its run; empty if neither says anything."""
    from loopwright.trainer.export.open_export import read_facts

    return read_facts(path) or sources.facts_in(path)


def load_dataset(
    facts: Mapping[str, Any], argv: Sequence[str], groups: Sequence[type], progress: str = "auto"
) -> tuple[flags.Data, Dataset]:
    """The dataset on which an export is run, and the flags that name it.

    Flags that aren't typed are those of the run that wrote the export, and so is what was learned of texts or tables.
    `--scale` is left to `scaling.of_file`.
    """
    identity = facts.get("identity", {})
    names = {field.name for field in dataclasses.fields(flags.Data)} - {"scale"}
    of_run = flags.Data(**{name: value for name, value in identity.items() if name in names})
    parsed, _ = flags.parse(
        [*flags.to_arguments(of_run), *argv], groups, usage="", help_text="", positional="INPUT...", checked=False
    )
    flags.check(parsed)
    data = next(group for group in parsed if isinstance(group, flags.Data))
    task, state = str(identity.get("task", "auto")), facts.get("preprocessing")
    return data, setup.load_dataset(data, progress, task=task, preprocessing=state)
