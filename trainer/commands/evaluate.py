"""`loopwright evaluate`: the metrics of a run's checkpoint or of a model file, over every sample of a split."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.commands import jobs, setup, workdir
from loopwright.trainer.commands.data_progress import status
from loopwright.trainer.errors import TrainingError

if TYPE_CHECKING:
    from loopwright.data import Dataset

USAGE = (
    "usage: loopwright evaluate --workdir=DIR [--flags]\n       loopwright evaluate --restore_from=model.h5 [--flags]"
)
HELP = (
    "Evaluates the newest checkpoint of a run, or the checkpoint or model file that --restore_from names. Data flags that "
    "aren't typed are the run's own, so --workdir alone repeats its evaluation; --eval_split=train evaluates on the "
    "training data."
)
GROUPS = (flags.Evaluation, flags.Data)


def run(argv: Sequence[str]) -> int:
    """Parses the flags and evaluates."""
    (evaluation, data), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    source = pathlib.Path(evaluation.restore_from) if evaluation.restore_from else None
    if source is None and evaluation.workdir is None:
        raise flags.UsageError("give --workdir=DIR of a run, or --restore_from=model.h5")
    if source is not None and not source.exists():
        raise flags.UsageError(f"--restore_from={source}: no such file or folder")
    config, folder = None, pathlib.Path()
    if source is None or source.is_dir():
        folder = pathlib.Path(evaluation.workdir) if evaluation.workdir else _run_of(source)
        config = workdir.read_config(folder)
        if config is None:
            named = f"--restore_from={source}" if source else f"--workdir={folder}"
            raise flags.UsageError(f"{named}: no checkpoint of a run ({folder / workdir.FLAGFILE} is missing)")
        (evaluation, data), _ = flags.parse(
            [*flags.to_arguments(config.data), *argv], GROUPS, usage=USAGE, help_text=HELP
        )
    with status("starting TensorFlow", moves=evaluation.progress == "auto"):
        setup.start_tensorflow()
    source = source or _newest(folder)
    result = _evaluate(source, config, data, evaluation.progress)
    if evaluation.json:
        print(json.dumps(result))
    else:
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        print(f"{numbers}  ({result['examples']} samples of {data.dataset} {result['split']}, {source})")
    return 0


def _run_of(checkpoint: pathlib.Path | None) -> pathlib.Path:
    """The run's folder of a checkpoint, which lies in workdir/checkpoints/<step>."""
    return (checkpoint or pathlib.Path()).resolve().parent.parent


def _newest(folder: pathlib.Path) -> pathlib.Path:
    from loopwright.trainer.checkpoint import Checkpoint

    folders = Checkpoint(folder / "checkpoints").folders()
    if not folders:
        raise TrainingError(f"--workdir={folder}: holds no checkpoint yet")
    return folders[-1]


def _evaluate(source: pathlib.Path, config: flags.Config | None, data: flags.Data, progress: str) -> dict[str, Any]:
    from loopwright import trainer
    from loopwright.trainer.checkpoint import restore_folder

    dataset = setup.load_dataset(data, progress)
    feed = dataset.eval_feed(max(data.batch_size, 250))
    if config is None:
        state, objective = _from_file(source, dataset)
    else:
        # The length of a schedule doesn't matter here: no step is taken.
        job = jobs.build_job(config.model, config.optimization, dataset, seed=config.run.seed, total_steps=2**40)
        state, objective = job.state, job.objective
        restore_folder(source, state, exact=False)
    with status(f"evaluating {feed.examples_per_epoch:,} samples", moves=progress == "auto"):
        metrics = trainer.evaluate(state, feed, objective)
    return {
        "metrics": metrics,
        "examples": feed.examples_per_epoch,
        "split": dataset.eval_split,
        "from": str(source),
    }


def _from_file(path: pathlib.Path, dataset: Dataset) -> tuple[Any, Any]:
    """A state around the model in a file, and the objective that fits what it ends in."""
    import keras

    from loopwright import trainer

    try:
        network = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TrainingError(f"--restore_from={path}: can't be loaded ({first_line})") from error
    models.check_fits(f"--restore_from={path}", network, dataset.input_shape, dataset.num_classes)
    objective = trainer.classification(from_logits=not models.ends_in_probabilities("", network))
    # The optimizer is never used: a state has one.
    return trainer.TrainState.create(network, keras.optimizers.SGD()), objective
