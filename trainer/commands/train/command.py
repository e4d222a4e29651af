"""`loopwright train`: the main job."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.monitor import Monitor
from loopwright.trainer.commands import scaling, setup, workdir
from loopwright.trainer.commands.train import build, facts, moved_data, resolve, restore, summary, watch

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed

USAGE = "usage: loopwright train [--flags]"
HELP = (
    "Trains a Keras model on a TFDS dataset, with TensorBoard logs, checkpoints and an .h5 at the end. The same command "
    "run again goes on where the run stopped."
)


def run(argv: Sequence[str]) -> int:
    """Parses the flags and trains."""
    groups, _ = flags.parse(argv, flags.TRAIN_GROUPS, usage=USAGE, help_text=HELP)
    config = flags.config_from_groups(groups, argv)
    if config.run.epochs is None and config.run.train_steps is None:
        config = workdir.with_run(config, epochs=10)
    models.check_name(config.model.model)
    clock = Clock()
    from loopwright.trainer.commands.data_progress import status

    with status("starting TensorFlow", moves=config.run.progress == "auto"):
        setup.start_tensorflow(
            deterministic=config.run.deterministic,
            intra_op_threads=config.run.intra_op_threads,
            inter_op_threads=config.run.inter_op_threads,
            onednn=config.run.onednn,
        )
    plan = _plan(config, clock)
    return _train(workdir.open_workdir(plan.config), plan, clock)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, on what, and for how long. `measured` is what was found out on the way, for run.json."""

    config: flags.Config
    dataset: Dataset
    feed: Feed
    eval_feed: Feed
    job: build.Job
    monitor: Monitor
    num_steps: int
    measured: dict[str, Any]


def _plan(config: flags.Config, clock: Clock) -> Plan:
    """Everything that the flags name, loaded and built."""
    with clock.phase("data"):
        dataset = setup.load_dataset(config.data, config.run.progress, task=config.model.task)
        # Only the sequential feed has its own order of samples, so the identity of the run says that it was taken.
        if dataset.kind(dataset.train_split) == "sequential":
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, feed="sequential"))
        steered = config.run.reduce_on_plateau is not None
        optimization = build.with_schedule(config.optimization, dataset, steered=steered)
        config = dataclasses.replace(config, optimization=optimization)
        feed = dataset.train_feed(
            config.data.batch_size,
            seed=config.run.seed,
            drop_remainder=config.data.drop_remainder,
            augment=config.data.augment or None,
        )
        eval_feed = dataset.eval_feed(max(config.data.batch_size, 250))
    num_steps = config.run.train_steps or (config.run.epochs or 0) * feed.steps_per_epoch
    watch.check_profile(config.run.profile_steps, num_steps)
    if config.model.unfreeze_at is not None and config.model.unfreeze_at >= num_steps:
        raise flags.UsageError(
            f"--unfreeze_at={config.model.unfreeze_at}: the run ends at step {num_steps}; leave it out"
        )
    job = build.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=num_steps,
        norms=config.run.log_norms,
        skip_nonfinite=config.run.on_nonfinite == "skip",
    )
    scale = scaling.decide(config.data.scale, job.state.model, feed)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, scale=scale), model=job.model)
    feed, eval_feed = scaling.follow(scale, feed), scaling.follow(scale, eval_feed)
    monitor = watch.monitor_of(config, job)
    config = workdir.with_run(config, monitor=config.run.monitor or str(monitor))
    config, dataset = moved_data.by_name_of_run(config, dataset)
    measured: dict[str, Any] = {}
    if config.run.execution == "auto":
        config, measured = resolve.resolve_execution(config, job, dataset, feed)
    return Plan(config, dataset, feed, eval_feed, job, monitor, num_steps, measured)


def _train(opened: workdir.Workdir, plan: Plan, clock: Clock) -> int:
    """Trains in the run's folder, which only this process writes."""
    from loopwright import trainer
    from loopwright.trainer.core.thawing import thawing

    config, state, options, folder = plan.config, plan.job.state, plan.config.run, opened.path
    epoch = plan.feed.steps_per_epoch
    evaluate = trainer.Evaluate(plan.eval_feed, plan.job.objective)
    steering = watch.steering(config, evaluate, plan.monitor)
    state.extras |= steering
    facts.check_data(folder, plan.dataset.fingerprint)
    run = trainer.Run(folder, state, monitor=plan.monitor, clock=clock, **restore.options(plan))
    with run, opened.emptied_if_refused():
        start = restore.begin(config, run, plan.num_steps)
        if (start >= plan.num_steps or steering["early_stop"].exhausted()) and run.files.summary.exists():
            summary.report(workdir.read_config(folder) or config, folder, as_json=options.json, finished_before=True)
            return 0
        workdir.write_flags(folder, config)
        if plan.dataset.preprocessing is not None:
            replace_file(run.files.preprocessing, json.dumps(plan.dataset.preprocessing.state()) + "\n")
        changed = facts.write_run_json(run.files, facts.of_plan(plan))
        if start and changed:
            run.progress.say(f"this run may not equal one that was never stopped to the bit ({'; '.join(changed)})")
        watch.describe(run, plan)
        samples = watch.samples(config, run)
        execution = build.make_execution(options.execution, options.steps_per_call, clock)
        if config.model.unfreeze_at is not None:
            execution = thawing(execution, config.model.unfreeze_at, plan.job.thaw)
        with setup.bad_samples_named(plan.dataset, plan.feed, lambda: int(state.step)):
            trainer.train(
                state,
                plan.feed,
                plan.job.step if samples is None else samples.logged(plan.job.step),
                num_steps=plan.num_steps,
                execution=execution,
                hooks=run.hooks(
                    evaluate,
                    feed=plan.feed,
                    num_steps=plan.num_steps,
                    log_every=options.log_every or max(1, min(100, epoch // 5)),
                    eval_every=options.eval_every or epoch,
                    checkpoint_every=options.checkpoint_every or epoch,
                    guards=watch.guards(config, run) + ([] if samples is None else [samples]),
                    extra=watch.extra(run, plan, list(steering.values())),
                ),
            )
    summary.report(config, folder, as_json=options.json, finished_before=False)
    return 0
