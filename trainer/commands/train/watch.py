"""The hooks that the flags ask for: guards, steering, pictures, histograms, a profile, the export at the end."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.monitor import STANDARD, Monitor, directions_of
from loopwright.trainer.base.say import say
from loopwright.trainer.commands.train import build

if TYPE_CHECKING:
    from loopwright.trainer.commands.train.command import Plan
    from loopwright.trainer.hooks.evaluate import Evaluate
    from loopwright.trainer.hooks.sample_log import SampleLog
    from loopwright.trainer.run import Run

_PICTURES_A_RUN = 5


def check_profile(text: str | None, num_steps: int) -> None:
    """Raises UsageError for a --profile_steps after the run's end."""
    steps = flags.checks.profile_steps(text)
    if steps is not None and steps[0] >= num_steps:
        raise flags.UsageError(f"--profile_steps={text}: the run ends at step {num_steps}")


def monitor_of(config: flags.Config, job: build.Job) -> Monitor:
    """The metric that --monitor names, or the task, with its better end. Raises UsageError for one that isn't evaluated."""
    from loopwright.trainer.base.windows import metric_results

    directions = directions_of(job.objective, job.state.metrics)
    evaluated = [*dict.fromkeys([*directions, *metric_results(job.state.metrics)])]
    wanted = config.run.monitor
    if wanted is None:
        wanted = job.assignment.monitor if job.assignment.monitor.partition(":")[0] in evaluated else "loss:min"
    name, _ = flags.checks.monitor(wanted)
    if name not in evaluated:
        raise flags.UsageError(
            f"--monitor={wanted}: the run doesn't evaluate {name}, only {', '.join(evaluated)}; add it to --metrics"
        )
    return Monitor.of(wanted, {**STANDARD, **directions})


def steering(config: flags.Config, evaluate: Evaluate, monitor: Monitor) -> dict[str, Any]:
    """The hooks that steer by --monitor, by the names under which the state keeps what they remember."""
    from loopwright import trainer

    run = config.run
    # Always there, so that a run that goes on may be given an --early_stop, or a different one.
    hooks: dict[str, Any] = {"early_stop": trainer.early_stop(evaluate, monitor, run.early_stop)}
    if run.reduce_on_plateau is not None:
        factor = config.optimization.decay_factor
        hooks["reduce_on_plateau"] = trainer.reduce_on_plateau(evaluate, monitor, run.reduce_on_plateau, factor)
    return hooks


def guards(config: flags.Config, run: Run) -> list[Any]:
    """The hooks that come before everything that evaluates and saves."""
    from loopwright.trainer.core.loss_scaling import scales
    from loopwright.trainer.hooks.guards import AbortOnNonfinite, AbortOnSkips, StallTimeout
    from loopwright.trainer.hooks.signals import ShortCalls

    options = config.run
    hooks: list[Any] = [AbortOnSkips(options.max_skipped_steps, say=run.progress.say)]
    if options.on_nonfinite == "abort" and not scales(run.state.optimizer):
        hooks.append(AbortOnNonfinite())
    if options.grace_seconds is not None:
        hooks.append(ShortCalls(options.grace_seconds, run.clock))
    if options.stall_timeout is not None:
        hooks.append(StallTimeout(options.stall_timeout))
    return hooks


def samples(config: flags.Config, run: Run) -> SampleLog | None:
    """The log of samples, where --log_samples asks for it. It is on the disk before a checkpoint is committed."""
    from loopwright.trainer.hooks.sample_log import SampleLog

    if not config.run.log_samples:
        return None
    log = SampleLog(run.files.samples)
    run.checkpoint.before_commit.append(log.flush)
    run.checkpoint.hash_tensors = True
    return log


def extra(run: Run, plan: Plan, steer: list[Any]) -> list[Any]:
    """The hooks that come after evaluation and before a checkpoint, and the export after the last step."""
    from loopwright import trainer

    options = plan.config.run
    eval_every = options.eval_every or plan.feed.steps_per_epoch
    found = [trainer.every(eval_every, hook) for hook in steer]
    found += _board(run, plan, eval_every)

    def export(state: Any, metrics: Any) -> None:
        build.export_model(plan.job, plan.config, plan.dataset, run.files.exports)

    return [*found, trainer.at_end(run.clock.timed("export", export))]


def _board(run: Run, plan: Plan, eval_every: int) -> list[Any]:
    """The hooks that show more than numbers on TensorBoard."""
    from loopwright import trainer
    from loopwright.trainer.hooks.board import Histograms, Profile
    from loopwright.trainer.tasks.boards import Board

    options, state, timed = plan.config.run, run.state, run.clock.timed
    found: list[Any] = []
    if importlib.util.find_spec("PIL") is None:
        say("no pictures on TensorBoard without the extra 'plots': pip install 'loopwright[plots]'")
    else:
        board = Board(state, plan.eval_feed, run.tensorboard, run.files.predictions, plan.dataset.preprocessing)
        pictures = plan.job.assignment.board(board)
        often = -(-plan.num_steps // (_PICTURES_A_RUN * eval_every)) * eval_every
        if pictures is not None:
            found.append(trainer.every(options.pictures_every or often, timed("pictures", pictures)))
    if options.histograms_every is not None:
        histograms = Histograms(run.tensorboard, plan.job.objective, plan.feed)
        found.append(trainer.every(options.histograms_every, timed("pictures", histograms)))
    steps = flags.checks.profile_steps(options.profile_steps)
    if steps is not None:
        found.append(Profile(run.files.tensorboard / "train", *steps))
        if importlib.util.find_spec("xprof") is None:
            say("to see the profile, install the extra 'profile': pip install 'loopwright[profile]'")
    return found


def describe(run: Run, plan: Plan) -> None:
    """Tells TensorBoard what is trained: hyperparameters, flags, facts and the graph of the model."""
    from loopwright.trainer.observe.tensorboard import model_graph

    typed = {**flags.identity(plan.config), "train_steps": plan.num_steps}
    facts = json.loads(run.files.facts.read_text(encoding="utf-8"))
    texts = {
        "flags": _table(flags.flag_values(plan.config)),
        "run": _table({name: value for name, value in facts.items() if name != "layers"}),
    }
    graph = model_graph(run.state.model, plan.feed.element_spec["x"])
    run.tensorboard.describe("/".join(run.files.root.resolve().parts[-2:]), typed, texts, graph)


def _table(values: dict[str, Any]) -> str:
    """Names and values as a table in Markdown. Names without a value are left out."""
    rows = [f"| {name} | `{value}` |" for name, value in values.items() if value not in (None, "")]
    return "\n".join(["| name | value |", "| --- | --- |", *rows])
