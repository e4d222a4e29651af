"""`loopwright train`: the main job."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer import commit
from loopwright.trainer.clock import Clock
from loopwright.trainer.commands import jobs, outcome, setup, watch, workdir
from loopwright.trainer.commands.data_progress import status

if TYPE_CHECKING:
    from loopwright.data import Feed
    from loopwright.trainer.evaluation import Evaluate

USAGE = "usage: loopwright train [--flags]"
HELP = (
    "Trains a Keras model on a TFDS dataset, with TensorBoard logs, checkpoints and an .h5 at the end. The same command "
    "run again goes on where the run stopped."
)


def run(argv: Sequence[str]) -> int:
    """Parses the flags and trains."""
    groups, _ = flags.parse(argv, flags.TRAIN_GROUPS, usage=USAGE, help_text=HELP)
    config = flags.config_from_groups(groups)
    if config.run.epochs is None and config.run.train_steps is None:
        config = _with_run(config, epochs=10)
    models.check_name(config.model.model)
    watch.profile_steps(config.run.profile_steps)
    clock = Clock()
    with status("starting TensorFlow", moves=config.run.progress == "auto"):
        setup.start_tensorflow(
            deterministic=config.run.deterministic,
            intra_op_threads=config.run.intra_op_threads,
            inter_op_threads=config.run.inter_op_threads,
        )
    return _train(config, clock)


def _train(config: flags.Config, clock: Clock) -> int:
    from loopwright import trainer
    from loopwright.trainer.progress import Progress
    from loopwright.trainer.signals import SaveOnSignal

    with clock.phase("data"):
        dataset = setup.load_dataset(config.data, config.run.progress)
        if not dataset.num_classes:
            raise flags.UsageError(f"--label_key: {dataset.name} has no class labels, which this command trains on")
        # The sequential feed alone has an order of its own, so the identity of the run says that it was taken.
        if dataset.kind(dataset.train_split) == "sequential":
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, feed="sequential"))
        feed = dataset.train_feed(
            config.data.batch_size,
            seed=config.run.seed,
            drop_remainder=config.data.drop_remainder,
            augment=config.data.augment or None,
        )
        eval_feed = dataset.eval_feed(max(config.data.batch_size, 250))
    epoch = feed.steps_per_epoch
    num_steps = config.run.train_steps or (config.run.epochs or 0) * epoch
    job = jobs.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=num_steps,
        norms=config.run.log_norms,
    )
    state = job.state
    config = _with_run(config, workdir=config.run.workdir or workdir.default_workdir(config))
    measured = None
    if config.run.execution == "auto":
        config, measured = _resolve_execution(config, job, feed)
    folder = workdir.open_workdir(config)
    workdir.write_run_json(
        folder,
        {
            "dataset_fingerprint": dataset.fingerprint,
            "execution": config.run.execution,
            "execution_measured_ms": measured,
            "parameters": state.model.count_params(),
            "steps_per_epoch": epoch,
            "feed": dataset.kind(dataset.train_split),
            "class_names": dataset.class_names,
            "examples": {
                dataset.train_split: feed.examples_per_epoch,
                dataset.eval_split: eval_feed.examples_per_epoch,
            },
            "layers": watch.layers(state.model),
        },
    )
    watching = watch.Watch(config, folder, job, dataset, clock, num_steps)
    progress = Progress(
        num_steps=num_steps,
        steps_per_epoch=epoch,
        monitor=config.run.monitor,
        mode=config.run.progress,
        clock=clock,
    )
    writers = [*watching.writers, progress.write]
    log = trainer.Log(writers, clock=clock, steps_per_epoch=epoch, examples_per_step=feed.examples_per_epoch / epoch)
    evaluate = trainer.Evaluate(eval_feed, job.objective, writers, steps_per_epoch=epoch)
    control = _control(config, evaluate, job)
    state.extras |= control
    checkpoint = trainer.Checkpoint(
        folder / "checkpoints",
        keep=config.run.keep,
        facts={"identity": flags.identity(config), "dataset_fingerprint": dataset.fingerprint},
    )
    commit.sweep(folder / "checkpoints")
    start = checkpoint.restore(state) or 0
    stopped_early = control["early_stop"].exhausted()
    if (start >= num_steps or stopped_early) and (folder / "summary.json").exists():
        outcome.report(config, folder, finished_before=True)
        return 0

    watching.start(start)
    progress.start(start)
    eval_every, checkpoint_every = config.run.eval_every or epoch, config.run.checkpoint_every or epoch
    clock.end_phase("start")
    with SaveOnSignal(checkpoint) as save_on_signal, watching, progress, setup.bad_samples_named(dataset, feed, state):
        log.start(start)
        trainer.train(
            state,
            feed,
            job.step,
            num_steps=num_steps,
            execution=jobs.make_execution(config.run.execution, config.run.steps_per_call, clock),
            hooks=[
                trainer.every(config.run.log_every or max(1, min(100, epoch // 5)), log),
                progress,
                trainer.AbortOnSkips(config.run.max_skipped_steps, say=progress.say),
                trainer.every(eval_every, clock.timed("evaluation", evaluate)),
                *(trainer.every(eval_every, hook, at_last=False) for hook in control.values()),
                *watching.hooks(feed, eval_feed, eval_every=eval_every, checkpoint_every=checkpoint_every),
                trainer.every(checkpoint_every, clock.timed("checkpoint", checkpoint)),
                save_on_signal,
            ],
        )
    if control["early_stop"].exhausted():
        print(f"stopped early: {control['early_stop'].reason()}", file=sys.stderr)
    with clock.phase("export"), trainer.averaged_weights(state.model, state.optimizer):
        trainer.export_h5(state.model, folder / "exports" / "model.h5", dataset.input_shape)
    watching.goodput.save()
    watching.tensorboard.finish()
    outcome.write_summary(folder, watching.goodput.summary(), monitor=config.run.monitor)
    outcome.report(config, folder, finished_before=False)
    return 0


def _with_run(config: flags.Config, **changes: Any) -> flags.Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))


def _resolve_execution(config: flags.Config, job: jobs.Job, feed: Feed) -> tuple[flags.Config, dict[str, Any] | None]:
    """What `auto` stands for: what the folder's run was begun with, or the fastest of graph and xla, measured now.

    Gives the milliseconds a step, too, where they were measured.
    """
    from loopwright import trainer

    folder = pathlib.Path(config.run.workdir or "")
    before = workdir.read_config(folder)
    if before is not None:
        resolved = _with_run(config, execution=before.run.execution)
        if not workdir.identity_differences(folder, resolved):
            return resolved, None
    candidates = {name: jobs.make_execution(name, config.run.steps_per_call) for name in ("graph", "xla")}
    choice = trainer.choose(job.state, job.step, feed, candidates)
    for name, milliseconds in sorted(choice.milliseconds.items(), key=lambda item: item[1]):
        print(f"execution {name}: {milliseconds:.3f} ms a step", file=sys.stderr)
    for name, reason in choice.failed.items():
        print(f"execution {name}: {reason}", file=sys.stderr)
    print(f"execution {choice.name} is chosen", file=sys.stderr)
    return _with_run(config, execution=choice.name), choice.milliseconds


def _control(config: flags.Config, evaluate: Evaluate, job: jobs.Job) -> dict[str, Any]:
    """The hooks that steer by --monitor, by the names under which the state keeps what they remember."""
    from loopwright import trainer

    names = {"loss", "accuracy", *(metric.name for metric in job.state.metrics)}
    if config.run.monitor not in names:
        raise flags.UsageError(
            f"--monitor={config.run.monitor}: no such metric; {flags.nearest(config.run.monitor, names)}"
        )
    hooks: dict[str, Any] = {}
    if config.run.reduce_on_plateau is not None:
        if config.optimization.schedule != "constant" or config.optimization.warmup_steps:
            raise flags.UsageError(
                f"--reduce_on_plateau={config.run.reduce_on_plateau} needs a constant rate, not "
                f"--schedule={config.optimization.schedule} with --warmup_steps={config.optimization.warmup_steps}"
            )
        if config.optimization.decay_factor >= 1:
            raise flags.UsageError(f"--decay_factor={config.optimization.decay_factor}: a lower rate needs less than 1")
        hooks["reduce_on_plateau"] = trainer.reduce_on_plateau(
            evaluate, config.run.monitor, config.run.reduce_on_plateau, config.optimization.decay_factor
        )
    # Always there, so that a run may be given --early_stop, or another, when it goes on.
    hooks["early_stop"] = trainer.early_stop(evaluate, config.run.monitor, config.run.early_stop)
    return hooks
