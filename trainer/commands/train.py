"""`loopwright train`: the main job."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from loopwright import flags, models
from loopwright.trainer.commands import setup, workdir

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
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, epochs=10))
    models.check_name(config.model.model)
    setup.start_tensorflow(deterministic=config.run.deterministic)
    return _train(config)


def _train(config: flags.Config) -> int:
    from loopwright import trainer
    from loopwright.trainer.clock import Clock
    from loopwright.trainer.progress import Progress
    from loopwright.trainer.records import Writer
    from loopwright.trainer.signals import SaveOnSignal

    clock = Clock()
    with clock.phase("data"):
        dataset = setup.load_dataset(config.data)
        if not dataset.num_classes:
            raise flags.UsageError(f"--label_key: {dataset.name} has no class labels, which this command trains on")
        if (
            dataset.kind(dataset.train_split) == "sequential"
        ):  # the one feed with an order of its own: say so in the identity
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
    state, objective = setup.build_state(
        config.model, config.optimization, dataset, seed=config.run.seed, total_steps=num_steps
    )
    folder = workdir.open_workdir(config)
    workdir.write_run_json(
        folder,
        {
            "dataset_fingerprint": dataset.fingerprint,
            "execution": config.run.execution,
            "parameters": state.model.count_params(),
            "steps_per_epoch": epoch,
            "feed": dataset.kind(dataset.train_split),
            "class_names": dataset.class_names,
        },
    )
    checkpoint = trainer.Checkpoint(
        folder / "checkpoints",
        keep=config.run.keep,
        facts={"identity": flags.identity(config), "dataset_fingerprint": dataset.fingerprint},
    )
    start = checkpoint.restore(state) or 0
    if start >= num_steps and (folder / "summary.json").exists():
        _report(config, folder, finished_before=True)
        return 0

    progress = Progress(start=start, num_steps=num_steps, steps_per_epoch=epoch)
    writers: list[Writer] = [
        trainer.JsonLines(folder / "metrics.jsonl", step=start),
        trainer.TensorBoard(folder / "tensorboard"),
        progress.write,
    ]
    log = trainer.Log(writers, clock=clock, steps_per_epoch=epoch, examples_per_step=feed.examples_per_epoch / epoch)
    evaluate = trainer.Evaluate(eval_feed, objective, writers, steps_per_epoch=epoch)
    execution = trainer.eager() if config.run.execution == "eager" else trainer.graph(config.run.steps_per_call)
    with SaveOnSignal(checkpoint) as save_on_signal, progress, setup.bad_samples_named(dataset, feed, state):
        log.start(start)
        trainer.train(
            state,
            feed,
            trainer.gradient_step(objective),
            num_steps=num_steps,
            execution=execution,
            hooks=[
                trainer.every(config.run.log_every or max(1, min(100, epoch // 5)), log),
                progress,
                trainer.every(config.run.eval_every or epoch, clock.timed("evaluation", evaluate)),
                trainer.every(config.run.checkpoint_every or epoch, clock.timed("checkpoint", checkpoint)),
                save_on_signal,
            ],
        )
    with clock.phase("export"):
        trainer.export_h5(state.model, folder / "exports" / "model.h5", dataset.input_shape)
    _write_summary(folder, clock, seconds_trained=clock.training_seconds())
    _report(config, folder, finished_before=False)
    return 0


def _write_summary(folder: pathlib.Path, clock: Any, *, seconds_trained: float) -> None:
    """summary.json: the newest record of each split, the best evaluation, and where this process's seconds went."""
    from loopwright.trainer.commit import replace_file

    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    train = [record for record in records if record["split"] == "train"]
    evals = [record for record in records if record["split"] == "eval"]
    rates = sorted(record["examples_per_second"] for record in train if "examples_per_second" in record)
    summary = {
        "step": train[-1]["step"],
        "epoch": train[-1]["epoch"],
        "train": train[-1],
        "eval": evals[-1],
        "best": max(evals, key=lambda record: record["accuracy"]),
        "examples_per_second": rates[len(rates) // 2] if rates else None,
        "goodput": {"training": seconds_trained, **clock.phases},
    }
    replace_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def _report(config: flags.Config, folder: pathlib.Path, *, finished_before: bool) -> None:
    """The result, on stdout: four lines, or the summary as one JSON object."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if config.run.json:
        print(json.dumps({"workdir": str(folder), **summary}))
        return
    if finished_before:
        print(f"This run is finished: it took {summary['step']} steps ({folder}).")
    evaluated = summary["eval"]
    loss = "nan" if evaluated["loss"] is None else f"{evaluated['loss']:.4f}"
    print(f"accuracy     {evaluated['accuracy']:.4f}, loss {loss} after step {evaluated['step']}")
    print(f"model        {folder / 'exports' / 'model.h5'}")
    print(f"watch        tensorboard --logdir={folder.parent}")
    longer = (
        f"--train_steps={config.run.train_steps * 2}"
        if config.run.train_steps
        else f"--epochs={(config.run.epochs or 0) * 2}"
    )
    print(f"go on        loopwright train --flagfile={folder / workdir.FLAGFILE} --workdir={folder} {longer}")
