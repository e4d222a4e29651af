"""`loopwright parity`: whether the loop and `model.fit` reach the same weights, or where they part."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.json_lines import finite
from loopwright.trainer.commands import fit_job, machine, scaling, setup, workdir
from loopwright.trainer.commands.train import build

if TYPE_CHECKING:
    from loopwright.trainer.compare.parity import Certificate

USAGE = "usage: loopwright parity [--flags]"
HELP = (
    "Trains a model from the same weights on the same batches with model.fit and with the loop, and compares every weight, "
    "optimizer slot and seed after each step. Exits 0 if they are equal to the last bit, or differ by no more than the "
    "bound of the execution, and 1 otherwise."
)
GROUPS = (flags.Data, flags.Model, flags.Optimization, flags.Parity)


@dataclasses.dataclass(frozen=True)
class Bound:
    """How far two trainings may be apart, and why."""

    max_abs_difference: float
    reason: str


def bound(execution: str) -> Bound:
    """The bound of an execution: 0, except for xla."""
    if execution != "xla":
        return Bound(0.0, f"{execution} and fit run the same ops in the same order")
    return Bound(
        1e-3,
        "XLA compiles the program of the loop and that of fit separately, and may fuse and add up in another order; Adam "
        "turns the last bit of a gradient near zero into a step as large as the learning rate",
    )


def run(argv: Sequence[str]) -> int:
    """Parses the flags, trains twice and prints what was found."""
    (data, model, optimization, parity), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    models.check_name(model.model)
    if parity.output is not None:
        workdir.make_folder("--output", pathlib.Path(parity.output))
    # With deterministic ops, fit silently runs without XLA. XLA's programs are deterministic on a CPU anyway.
    setup.start_tensorflow(deterministic=parity.execution != "xla", onednn=parity.onednn)
    certificate = _certify(data, model, optimization, parity)
    allowed = bound(parity.execution)
    holds = certificate.max_abs_difference <= allowed.max_abs_difference
    result = _result(certificate, allowed, holds=holds)
    result["job"] = {
        name: value
        for group in (data, model, optimization, parity)
        for name, value in dataclasses.asdict(group).items()
        if name not in ("output", "json", "data_dir", "manual_dir")
    }
    result["environment"] = machine.environment()
    if parity.output is not None:
        replace_file(pathlib.Path(parity.output) / "parity.json", json.dumps(result, indent=1) + "\n")
    if parity.json:
        print(json.dumps(result))
    else:
        _print(result, f"{model.model} on {data.dataset}", parity.execution)
    return 0 if holds else 1


def _certify(
    data: flags.Data, model: flags.Model, optimization: flags.Optimization, parity: flags.Parity
) -> Certificate:
    from loopwright import trainer
    from loopwright.trainer.compare.parity import FIT_OPTIONS

    dataset = setup.load_dataset(data, task=model.task)
    feed = dataset.train_feed(
        data.batch_size, seed=parity.seed, drop_remainder=data.drop_remainder, augment=data.augment or None
    )
    ours, theirs = [
        build.build_job(model, optimization, dataset, seed=parity.seed, total_steps=parity.train_steps)
        for _ in range(2)
    ]
    feed = scaling.follow(scaling.decide(data.scale, ours.state.model, feed), feed)
    network = fit_job.compile_for_fit(theirs, **FIT_OPTIONS[parity.execution])
    if parity.execution == "xla" and not network.jit_compile:
        raise TrainingError(
            f"--model={model.model}: one of its layers doesn't support XLA, so fit runs without it; use --execution=graph"
        )
    with setup.bad_samples_named(dataset, feed, lambda: int(ours.state.step)):
        return trainer.certify(
            network,
            ours.state,
            ours.step,
            feed,
            num_steps=parity.train_steps,
            execution=build.make_execution(parity.execution, parity.steps_per_call),
            to_fit=fit_job.batches_for_fit(ours),
        )


def _result(certificate: Certificate, allowed: Bound, *, holds: bool) -> dict[str, Any]:
    first = certificate.first_difference
    return {
        "steps": certificate.steps,
        "identical": certificate.identical,
        "holds": holds,
        "max_abs_difference": finite(certificate.max_abs_difference),
        "first_difference": None if first is None else dataclasses.asdict(first),
        "bound": dataclasses.asdict(allowed),
        "compared": {
            kind: {
                "tensors": part.tensors,
                "values": part.values,
                "max_abs_difference": finite(part.max_abs_difference),
                "first_step_that_differs": None if part.first_difference is None else part.first_difference.step,
            }
            for kind, part in certificate.parts.items()
        },
        "logged_loss_relative_difference": certificate.loss_difference,
    }


def _print(result: dict[str, Any], job: str, execution: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from loopwright.trainer.compare.parity import FIT_OPTIONS

    options = ", ".join(f"{name}={value}" for name, value in FIT_OPTIONS[execution].items())
    table = Table(title=f"{job}: {execution} against fit({options})", title_justify="left")
    table.add_column("compared")
    for column in ("tensors", "values", "largest difference", "first at step"):
        table.add_column(column, justify="right")
    for kind, part in result["compared"].items():
        difference, step = part["max_abs_difference"], part["first_step_that_differs"]
        table.add_row(
            kind,
            f"{part['tensors']:,}",
            f"{part['values']:,}",
            "NaN" if difference is None else f"{difference:.3g}",
            "–" if step is None else str(step),
        )
    loss = result["logged_loss_relative_difference"]
    table.add_row("logged loss", "1", "1", "–" if loss is None else f"{loss:.1e} (relative)", "")
    console = Console()
    console.print(table)
    console.print(_verdict(result), highlight=False, soft_wrap=True)


def _verdict(result: dict[str, Any]) -> str:
    steps = result["steps"]
    if result["identical"]:
        return f"identical: weights, slots and seeds are equal to the last bit after each of {steps} steps"
    first, allowed = result["first_difference"], result["bound"]
    where = f"first at step {first['step']}, {first['what']}"
    if result["holds"]:
        return (
            f"equal within {allowed['max_abs_difference']:g} after each of {steps} steps ({where}): {allowed['reason']}"
        )
    difference = result["max_abs_difference"]
    size = "NaN" if difference is None else f"{difference:.3g}"
    return f"different ({where}): up to {size}, but only {allowed['max_abs_difference']:g} is allowed"
