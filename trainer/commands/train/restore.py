"""What a run begins with: its newest checkpoint, another folder's or an `.h5`, the weights of another run, or nothing."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base import atomic
from loopwright.trainer.base.run_folder import RunFolder
from loopwright.trainer.base.say import say

if TYPE_CHECKING:
    from loopwright.trainer.checkpoint.checkpoint import Checkpoint
    from loopwright.trainer.commands.train.command import Plan
    from loopwright.trainer.core.state import TrainState
    from loopwright.trainer.run import Run


def options(plan: Plan) -> dict[str, Any]:
    """What the flags say about restoring and saving, as `trainer.Run` takes it."""
    run = plan.config.run
    return {
        "progress": run.progress,
        "allow_fresh_start": run.allow_fresh_start,
        "keep": run.keep,
        "keep_every": run.keep_every,
        "facts": {"identity": flags.identity(plan.config), "dataset_fingerprint": plan.dataset.fingerprint},
        "asynchronous": run.async_checkpoints,
        "abort_on_nonfinite": run.on_nonfinite == "abort",
    }


def begin(config: flags.Config, run: Run, num_steps: int) -> int:
    """Gives the state what the run goes on from, and returns its step.

    The folder's own checkpoints come first, so that the same command, repeated, goes on. Then comes `--restore_from`, which
    is taken exactly and whole, then `--init_from`, of which only the weights are taken. Raises TrainingError.
    """
    source = config.run.restore_from
    if run.restored is not None:
        if source is not None:
            run.checkpoint.say(f"--restore_from={source} isn't read: the run goes on from its own step {run.restored}")
        return run.restored
    if source is not None:
        step = _restore_from(pathlib.Path(source), run.state, run.checkpoint)
        if step >= num_steps:
            raise flags.UsageError(
                f"--restore_from={source} is at step {step}, and the run ends at {num_steps}; give more --epochs or "
                "--train_steps"
            )
        return step
    if config.model.init_from is not None:
        _init_from(pathlib.Path(config.model.init_from), run.state, config.model.init_exclude)
        _begin_averages(run.state)
    return 0


def _check_is_checkpoint(flag: str, folder: pathlib.Path) -> None:
    if not (folder / atomic.MANIFEST).is_file():
        raise flags.UsageError(f"{flag}={folder}: not a checkpoint folder ({atomic.MANIFEST} is missing)")


def _restore_from(source: pathlib.Path, state: TrainState, checkpoint: Checkpoint) -> int:
    from loopwright.trainer.checkpoint.checkpoint import load, verified_manifest
    from loopwright.trainer.export import h5_reader

    if source.is_file() and source.suffix in (".h5", ".hdf5", ".keras"):
        checkpoint.check_facts(source, h5_reader.read_facts(source))
        h5_reader.restore_h5(source, state)
        return int(state.step)
    _check_is_checkpoint("--restore_from", source)
    manifest = verified_manifest(source)
    checkpoint.check_facts(source, manifest)
    load(source, manifest, state)
    return int(state.step)


def _begin_averages(state: TrainState) -> None:
    """Gives the optimizer's copies of the weights their new values. The first update would bring back the old ones."""
    import keras

    from loopwright.trainer.core.optimizers import inner_optimizer

    optimizer = inner_optimizer(state.optimizer)
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        for average, variable in zip(optimizer._momentums, optimizer._trainable_variables, strict=True):
            average.assign(variable)


def _init_from(path: pathlib.Path, state: TrainState, exclude: str | None) -> None:
    """Takes the weights of a checkpoint, a run's folder, a file of Keras, or the files of a `tf.train.Checkpoint`.

    Raises TrainingError, with the variables, if they don't fit the model.
    """
    from loopwright.trainer.base.named_weights import give_weights
    from loopwright.trainer.checkpoint import plain
    from loopwright.trainer.checkpoint.checkpoint import load_weights, newest_good
    from loopwright.trainer.export.weight_files import file_weights

    model = state.model
    run = RunFolder.at(path)
    if not (path / atomic.MANIFEST).is_file() and (run.checkpoints.is_dir() or path.name == run.checkpoints.name):
        newest = newest_good(run.checkpoints if run.checkpoints.is_dir() else path)
        if newest is not None:
            path = newest
    if (path / atomic.MANIFEST).is_file():
        load_weights(path, model, exclude=exclude, say=say)
    elif path.is_file() and path.suffix in (".h5", ".hdf5", ".keras"):
        give_weights(path, file_weights(path, model), model, exclude=exclude, say=say)
    elif (prefix := plain.prefix_of(path)) is not None:
        give_weights(prefix, plain.plain_weights(prefix, model), model, exclude=exclude, say=say)
    else:
        raise flags.UsageError(
            f"--init_from={path}: holds no weights; name a checkpoint, a run's folder, an .h5, .keras or .weights.h5 file, "
            "or the files of a tf.train.Checkpoint"
        )
