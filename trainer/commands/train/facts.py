"""The facts about a run that are kept beside its numbers: run.json."""

from __future__ import annotations

import json
import math
import pathlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.commands import machine

if TYPE_CHECKING:
    from loopwright.trainer.commands.train.command import Plan

#: What the last bits depend on, besides versions.
_ARITHMETIC = ("cpu", "cpus", "devices", "intra_op_threads", "inter_op_threads", "onednn")


def of_plan(plan: Plan) -> dict[str, Any]:
    """The facts about what is trained, and on what."""
    dataset, feed, eval_feed = plan.dataset, plan.feed, plan.eval_feed
    return {
        "dataset_fingerprint": dataset.fingerprint,
        "execution": plan.config.run.execution,
        "task": plan.job.assignment.name,
        **plan.measured,
        "parameters": plan.job.state.model.count_params(),
        "steps_per_epoch": feed.steps_per_epoch,
        "feed": dataset.kind(dataset.train_split),
        "class_names": dataset.class_names,
        "examples": {
            dataset.train_split: feed.examples_per_epoch,
            dataset.eval_split: eval_feed.examples_per_epoch,
        },
        "layers": layers(plan.job.state.model),
    }


def check_data(folder: pathlib.Path, fingerprint: str) -> None:
    """Raises TrainingError where the folder's run had different data under the same name."""
    path = RunFolder.at(folder).facts
    before = _read(path).get("dataset_fingerprint", fingerprint)
    if before != fingerprint:
        raise TrainingError(
            f"{folder} was trained on different data: the dataset's fingerprint was {before} and is {fingerprint} now; "
            "restore the data, or choose another --workdir"
        )


def write_run_json(files: RunFolder, facts: dict[str, Any]) -> list[str]:
    """Writes run.json: versions, machine and devices, and the facts of this run.

    Returns what the last bits depend on and what differs from the run's process before, such as "cpus: 8 before, 2 now".
    """
    import tensorflow_datasets as tfds

    before, here = _read(files.facts), machine.environment()
    run = {
        "versions": {
            **{name: here[name] for name in ("python", "tensorflow", "keras", "numpy")},
            "tensorflow_datasets": tfds.__version__,
        },
        "host": socket.gethostname(),
        "platform": here["platform"],
        **{name: here[name] for name in _ARITHMETIC},
        "git_revision": _git_revision(),
        **facts,
    }
    replace_file(files.facts, json.dumps(run, indent=1) + "\n")
    was, now = _arithmetic(before), _arithmetic(run)
    return [f"{name}: {value} before, {now[name]} now" for name, value in was.items() if value != now[name]]


def layers(model: Any) -> list[dict[str, Any]]:
    """The layers of a model as run.json holds them: name, kind, shape of the output where it is known, parameters."""
    found = []
    for layer in model.layers:
        try:
            shape = str(layer.output.shape).replace("None", "batch")
        except (AttributeError, ValueError):  # a layer of a subclassed model, or one with several outputs
            shape = ""
        parameters = sum(math.prod(weight.shape) for weight in layer.weights)
        found.append({"name": layer.name, "kind": type(layer).__name__, "output": shape, "parameters": parameters})
    return found


def _read(path: pathlib.Path) -> dict[str, Any]:
    """run.json; empty where there is none. Raises TrainingError for a damaged one."""
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["dataset_fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete it to go on without the check of the data") from None
    return facts


def _arithmetic(run: dict[str, Any]) -> dict[str, Any]:
    """What the last bits depend on, out of a run.json. An old one doesn't have all of it."""
    return {**run.get("versions", {}), **{name: run[name] for name in _ARITHMETIC if name in run}}


def _git_revision() -> str | None:
    if shutil.which("git") is None:
        return None
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
