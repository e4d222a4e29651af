"""What a run begins with: its own newest checkpoint, another folder's or an `.h5`, another run's weights, or nothing."""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING

from loopwright import flags
from loopwright.trainer.base import atomic
from loopwright.trainer.base.errors import TrainingError

if TYPE_CHECKING:
    from loopwright.trainer.checkpoint.checkpoint import Checkpoint
    from loopwright.trainer.core.state import TrainState


def begin(config: flags.Config, state: TrainState, checkpoint: Checkpoint, num_steps: int) -> int:
    """Gives the state what the run goes on from, and returns its step. Call it as the folder's only writer.

    The folder's own checkpoints come first, so that the same command, repeated, goes on; then `--restore_from`, exactly and
    whole; then `--init_from`, the weights alone. Raises TrainingError.
    """
    atomic.sweep(checkpoint.directory)
    step = checkpoint.restore(state, allow_fresh_start=config.run.allow_fresh_start)
    if step is not None:
        if config.run.restore_from is not None:
            checkpoint.say(
                f"--restore_from={config.run.restore_from} isn't read: the run goes on from its own step {step}"
            )
        return step
    if config.run.restore_from is not None:
        step = _restore_from(pathlib.Path(config.run.restore_from), state, checkpoint)
        if step >= num_steps:
            raise flags.UsageError(
                f"--restore_from={config.run.restore_from} is at step {step}, and the run ends at {num_steps}; give more "
                "--epochs or --train_steps"
            )
        return step
    if config.model.init_from is not None:
        _init_from(pathlib.Path(config.model.init_from), state, config.model.init_exclude)
    return 0


def check(config: flags.Config) -> None:
    """Raises UsageError for flags that contradict each other; loads no TensorFlow."""
    run, model = config.run, config.model
    if run.restore_from is not None and model.init_from is not None:
        raise flags.UsageError(
            f"--restore_from={run.restore_from} and --init_from={model.init_from} contradict each other: the first goes on "
            "with a run, the second begins one"
        )
    if run.log_samples and run.execution in ("xla", "auto"):
        raise flags.UsageError(f"--log_samples needs --execution=graph or eager, not {run.execution}")
    if model.init_exclude is not None:
        if model.init_from is None:
            raise flags.UsageError(f"--init_exclude={model.init_exclude} needs --init_from")
        try:
            re.compile(model.init_exclude)
        except re.error as error:
            raise flags.UsageError(f"--init_exclude={model.init_exclude}: no regular expression ({error})") from None


def _is_there(flag: str, folder: pathlib.Path) -> None:
    if not (folder / atomic.MANIFEST).is_file():
        raise flags.UsageError(f"{flag}={folder}: no checkpoint folder ({atomic.MANIFEST} is missing)")


def _restore_from(source: pathlib.Path, state: TrainState, checkpoint: Checkpoint) -> int:
    from loopwright.trainer.checkpoint.checkpoint import load, read_manifest
    from loopwright.trainer.export import h5_reader

    if source.is_file() and source.suffix in (".h5", ".hdf5"):
        checkpoint.check_facts(source, h5_reader.read_facts(source))
        h5_reader.restore_h5(source, state)
        return int(state.step)
    _is_there("--restore_from", source)
    manifest = read_manifest(source)
    checkpoint.check_facts(source, manifest)
    load(source, manifest, state)
    return int(state.step)


def _init_from(folder: pathlib.Path, state: TrainState, exclude: str | None) -> None:
    from loopwright.trainer.checkpoint.checkpoint import load_weights

    _is_there("--init_from", folder)
    if not load_weights(folder, state.model, exclude=exclude):
        raise TrainingError(f"--init_exclude={exclude} leaves out every variable", exit_code=2)
