"""`loopwright evaluate`: the metrics of a run's checkpoint or of a model file, over every sample of a split."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags, models
from loopwright.trainer.commands import setup, workdir
from loopwright.trainer.errors import TrainingError

if TYPE_CHECKING:
    from loopwright.data import Dataset

USAGE = (
    "usage: loopwright evaluate --workdir=DIR [--flags]\n       loopwright evaluate --restore_from=model.h5 [--flags]"
)
HELP = (
    "Evaluates the newest checkpoint of a run, or what --restore_from names. Flags that aren't typed are the run's own, so "
    "--workdir alone repeats its evaluation; --eval_split=train evaluates on the training data."
)
GROUPS = (flags.Evaluation, flags.Data, flags.Model)


def run(argv: Sequence[str]) -> int:
    """Parses the flags and evaluates."""
    (evaluation, _, _), _ = flags.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    if evaluation.workdir is None and evaluation.restore_from is None:
        raise flags.UsageError("give --workdir=DIR of a run, or --restore_from=model.h5")
    of_the_run: list[str] = []
    if evaluation.workdir is not None:
        config = workdir.read_config(evaluation.workdir)
        if config is None:
            raise TrainingError(
                f"--workdir={evaluation.workdir}: no run there ({workdir.FLAGFILE} is missing)", exit_code=2
            )
        of_the_run = [*flags.to_arguments(config.data), *flags.to_arguments(config.model)]
    (evaluation, data, model), _ = flags.parse([*of_the_run, *argv], GROUPS, usage=USAGE, help_text=HELP)
    models.check_name(model.model)
    setup.start_tensorflow()
    result = _evaluate(evaluation, data, model)
    if evaluation.json:
        print(json.dumps(result))
    else:
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        print(f"{numbers}  ({result['examples']} samples of {data.dataset} {result['split']}, {result['from']})")
    return 0


def _evaluate(evaluation: flags.Evaluation, data: flags.Data, model: flags.Model) -> dict[str, Any]:
    import keras

    from loopwright import trainer

    dataset = setup.load_dataset(data)
    network, source = _network(evaluation, model, dataset)
    name = model.model if source.is_dir() else ""  # a file says itself what it ends in
    # The optimizer is never used: evaluation needs a state, and a state has one.
    state = trainer.TrainState.create(network, keras.optimizers.SGD())
    objective = trainer.classification(from_logits=not models.ends_in_probabilities(name, network))
    feed = dataset.eval_feed(max(data.batch_size, 250))
    return {
        "metrics": trainer.evaluate(state, feed, objective),
        "examples": feed.examples_per_epoch,
        "split": dataset.eval_split,
        "from": str(source),
    }


def _network(evaluation: flags.Evaluation, model: flags.Model, dataset: Dataset) -> tuple[Any, pathlib.Path]:
    """The model with its weights, and where they are from."""
    import keras

    from loopwright.trainer.checkpoint import Checkpoint, restore_weights

    path = pathlib.Path(evaluation.restore_from) if evaluation.restore_from else None
    if path is not None and path.suffix in (".h5", ".keras"):
        if not path.is_file():
            raise TrainingError(f"--restore_from={path}: no such file", exit_code=2)
        try:
            network = keras.models.load_model(path, compile=False)
        except (OSError, ValueError, TypeError) as error:
            first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise TrainingError(f"--restore_from={path}: can't be loaded ({first_line})") from error
        models.check_fits(f"--restore_from={path}", network, dataset.input_shape, dataset.num_classes)
        return network, path
    if path is None:
        folders = Checkpoint(pathlib.Path(evaluation.workdir or "") / "checkpoints").folders()
        if not folders:
            raise TrainingError(f"--workdir={evaluation.workdir}: holds no checkpoint yet")
        path = folders[-1]
    elif not path.is_dir():
        raise TrainingError(f"--restore_from={path}: neither a checkpoint folder nor a .h5 or .keras file", exit_code=2)
    network = models.create(model.model, dataset.input_shape, dataset.num_classes, precision=model.precision)
    restore_weights(path, network)
    return network, path
