"""`loopwright train`: the main job."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.commands import setup, workdir
from loopwright.trainer.commands.train import build, guarding, restore, summary, watch

if TYPE_CHECKING:
    from loopwright.data import Dataset, Feed
    from loopwright.trainer.hooks.evaluate import Evaluate

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
        config = _with_run(config, epochs=10)
    models.check_name(config.model.model)
    restore.check(config)
    watch.profile_steps(config.run.profile_steps)
    clock = Clock()
    from loopwright.trainer.commands.data_progress import status

    with status("starting TensorFlow", moves=config.run.progress == "auto"):
        setup.start_tensorflow(
            deterministic=config.run.deterministic,
            intra_op_threads=config.run.intra_op_threads,
            inter_op_threads=config.run.inter_op_threads,
            onednn=config.run.onednn,
        )
    return _train(config, clock)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is trained, on what, and for how long. `measured` is what was found out on the way, for run.json."""

    config: flags.Config
    dataset: Dataset
    feed: Feed
    eval_feed: Feed
    job: build.Job
    num_steps: int
    measured: dict[str, Any]


def _train(config: flags.Config, clock: Clock) -> int:
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
    profiled = watch.profile_steps(config.run.profile_steps)
    if profiled is not None and profiled[0] >= num_steps:
        raise flags.UsageError(f"--profile_steps={config.run.profile_steps}: the run ends at step {num_steps}")
    job = build.build_job(
        config.model,
        config.optimization,
        dataset,
        seed=config.run.seed,
        total_steps=num_steps,
        norms=config.run.log_norms,
        skip_nonfinite=config.run.on_nonfinite == "skip",
    )
    _check_control(config, job)
    config = _with_run(config, workdir=config.run.workdir or workdir.default_workdir(config))
    measured: dict[str, Any] = {}
    if config.run.execution == "auto":
        config, measured = _resolve_execution(config, job, dataset, feed)
    with workdir.open_workdir(config) as folder:
        return _train_in(folder, _Plan(config, dataset, feed, eval_feed, job, num_steps, measured), clock)


def _train_in(folder: pathlib.Path, plan: _Plan, clock: Clock) -> int:
    """Trains in the run's folder, which this process alone writes."""
    from loopwright import trainer
    from loopwright.trainer.hooks.sample_log import SampleLog
    from loopwright.trainer.hooks.signals import SaveOnSignal
    from loopwright.trainer.observe.progress import Progress

    config, dataset, feed, eval_feed, job = plan.config, plan.dataset, plan.feed, plan.eval_feed, plan.job
    state, num_steps, epoch = job.state, plan.num_steps, feed.steps_per_epoch
    changed = workdir.write_run_json(
        folder,
        {
            "dataset_fingerprint": dataset.fingerprint,
            "execution": config.run.execution,
            **plan.measured,
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
    samples = SampleLog(folder / "samples.jsonl") if config.run.log_samples else None

    def flush() -> None:
        """What is logged up to a checkpoint is on the disk before that is committed."""
        watching.jsonl.flush()
        if samples is not None:
            samples.flush()

    control = _control(config, evaluate)
    state.extras |= control
    checkpoint = trainer.Checkpoint(
        folder / "checkpoints",
        keep=config.run.keep,
        keep_every=config.run.keep_every,
        monitor=config.run.monitor,
        facts={"identity": flags.identity(config), "dataset_fingerprint": dataset.fingerprint},
        before_commit=flush,
        evaluation=lambda: evaluate.last,
        asynchronous=config.run.async_checkpoints,
        abort_on_nonfinite=config.run.on_nonfinite == "abort",
        hash_tensors=config.run.log_samples,
    )
    start = restore.begin(config, state, checkpoint, num_steps)
    stopped_early = control["early_stop"].exhausted()
    if (start >= num_steps or stopped_early) and (folder / "summary.json").exists():
        summary.report(workdir.read_config(folder) or config, folder, as_json=config.run.json, finished_before=True)
        return 0

    workdir.write_flags(folder, config)
    if start and changed:
        checkpoint.say(f"this run may not equal one that was never stopped to the last bit ({'; '.join(changed)})")
    # That of a run that was shorter: this one isn't finished before its exports are.
    (folder / "summary.json").unlink(missing_ok=True)
    watching.start(start, feed.element_spec["x"])
    if samples is not None:
        samples.cut(start)
    progress.start(start, watching.jsonl.read())
    eval_every, checkpoint_every = config.run.eval_every or epoch, config.run.checkpoint_every or epoch
    clock.end_phase("start")
    with contextlib.ExitStack() as stack:
        save_on_signal = stack.enter_context(SaveOnSignal(checkpoint))
        stack.enter_context(checkpoint)
        stack.enter_context(watching)
        stack.enter_context(progress)
        stack.enter_context(setup.bad_samples_named(dataset, feed, lambda: int(state.step)))
        guards = guarding.guards(config, state, clock, stack, progress.say)
        log.start(start)
        trainer.train(
            state,
            feed,
            job.step if samples is None else samples.logged(job.step),
            num_steps=start if stopped_early else num_steps,
            execution=build.make_execution(config.run.execution, config.run.steps_per_call, clock),
            hooks=[
                trainer.every(config.run.log_every or max(1, min(100, epoch // 5)), log),
                progress,
                *guards,
                trainer.every(eval_every, clock.timed("evaluation", evaluate)),
                *(trainer.every(eval_every, hook, at_last=False) for hook in control.values()),
                *watching.hooks(feed, eval_feed, eval_every=eval_every, checkpoint_every=checkpoint_every),
                trainer.every(checkpoint_every, clock.timed("checkpoint", checkpoint)),
                save_on_signal,
            ],
        )
        if control["early_stop"].exhausted():
            progress.say(f"stopped early: {control['early_stop'].reason()}")
    with clock.phase("export"):
        build.export_model(job, config, dataset, folder / "exports")
    watching.goodput.save()
    watching.tensorboard.finish()
    summary.write_summary(folder, watching.goodput.summary(), monitor=config.run.monitor)
    summary.report(config, folder, as_json=config.run.json, finished_before=False)
    return 0


def _with_run(config: flags.Config, **changes: Any) -> flags.Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))


def _resolve_execution(
    config: flags.Config, job: build.Job, dataset: Dataset, feed: Feed
) -> tuple[flags.Config, dict[str, Any]]:
    """What `auto` stands for: what the folder's run was begun with, or the fastest of graph and xla, measured now.

    Gives a fact for run.json, too: the milliseconds a step, where they were measured.
    """
    from loopwright import trainer

    folder = pathlib.Path(config.run.workdir or "")
    before = workdir.read_config(folder)
    if before is not None:
        resolved = _with_run(config, execution=before.run.execution)
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
    return _with_run(config, execution=choice.name), {"execution_measured_ms": choice.milliseconds}


def _check_control(config: flags.Config, job: build.Job) -> None:
    """Raises UsageError for a --monitor that isn't evaluated, or a --reduce_on_plateau that can't lower the rate."""
    run, optimization = config.run, config.optimization
    names = {"loss", "accuracy", *(metric.name for metric in job.state.metrics)}
    if run.monitor not in names:
        raise flags.UsageError(f"--monitor={run.monitor}: no such metric; {flags.nearest(run.monitor, sorted(names))}")
    if run.reduce_on_plateau is None:
        return
    if optimization.schedule != "constant" or optimization.warmup_steps:
        raise flags.UsageError(
            f"--reduce_on_plateau={run.reduce_on_plateau} needs a constant rate, not --schedule={optimization.schedule} "
            f"with --warmup_steps={optimization.warmup_steps}"
        )
    if optimization.decay_factor >= 1:
        raise flags.UsageError(f"--decay_factor={optimization.decay_factor}: a lower rate needs less than 1")


def _control(config: flags.Config, evaluate: Evaluate) -> dict[str, Any]:
    """The hooks that steer by --monitor, by the names under which the state keeps what they remember."""
    from loopwright import trainer

    run = config.run
    # Always there, so that a run may be given --early_stop, or another, when it goes on.
    hooks: dict[str, Any] = {"early_stop": trainer.early_stop(evaluate, run.monitor, run.early_stop)}
    if run.reduce_on_plateau is not None:
        hooks["reduce_on_plateau"] = trainer.reduce_on_plateau(
            evaluate, run.monitor, run.reduce_on_plateau, config.optimization.decay_factor
        )
    return hooks
