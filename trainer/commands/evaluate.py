"""`loopwright evaluate`: the metrics of a run's checkpoint or of a model file, over every sample of a split."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.json_lines import finite
from loopwright.trainer.commands import exported, scaling, setup, sources

if TYPE_CHECKING:
    from loopwright.data import Dataset

USAGE = (
    "usage: loopwright evaluate --workdir=DIR [--flags]\n       loopwright evaluate --restore_from=model.h5 [--flags]"
)
HELP = (
    "Evaluates the newest checkpoint of a run, or the checkpoint or model file that --restore_from names. Data flags that "
    "you don't type are those of the run, so --workdir alone repeats its evaluation. --eval_split=train evaluates on the "
    "training data."
)
GROUPS = (flags.Evaluation, flags.Data)


def run(argv: Sequence[str]) -> int:
    """Parses the flags and evaluates."""
    (evaluation, data), _, source = sources.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    if source.config is None and source.path is not None and source.path.suffix not in (".h5", ".hdf5", ".keras"):
        raise flags.UsageError(f"--restore_from={source.path}: evaluate reads only .h5 and .keras files")
    from loopwright.trainer.commands.data_progress import status

    with status("starting TensorFlow", moves=evaluation.progress == "auto"):
        setup.start_tensorflow()
    facts = {} if source.config is not None else exported.of_file(source.path or pathlib.Path())
    if source.config is None:
        data, dataset = exported.load_dataset(facts, argv, GROUPS, evaluation.progress)
    else:
        dataset = source.load_dataset(data, evaluation.progress)
    result = _evaluate(source, dataset, data, evaluation, facts)
    if evaluation.json:
        print(json.dumps(result | {"metrics": {name: finite(value) for name, value in result["metrics"].items()}}))
    else:
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        print(f"{numbers}  ({result['examples']} samples of {data.dataset} {result['split']}, {result['from']})")
    return 0


def _evaluate(
    source: sources.Source, dataset: Dataset, data: flags.Data, evaluation: flags.Evaluation, facts: dict[str, Any]
) -> dict[str, Any]:
    from loopwright import trainer
    from loopwright.trainer.commands.data_progress import status

    feed = dataset.eval_feed(max(data.batch_size, 250))
    if source.config is None:
        path = source.path or pathlib.Path()
        state, objective = _from_file(path, facts, dataset, evaluation)
        scale = scaling.of_file(path, data.scale, state.model, feed)
    else:
        job, path = sources.restored_job(source, sources.with_outputs(source.config, evaluation.outputs), dataset)
        state, objective = job.state, job.objective
        scale = scaling.of_run(data.scale, feed)
    feed = scaling.follow(scale, feed)
    with status(f"evaluating {feed.examples_per_epoch:,} samples", moves=evaluation.progress == "auto"):
        metrics = trainer.evaluate(state, feed, objective)
    return {
        "metrics": metrics,
        "examples": feed.examples_per_epoch,
        "split": dataset.eval_split,
        "from": str(path),
    }


def _from_file(
    path: pathlib.Path, facts: dict[str, Any], dataset: Dataset, evaluation: flags.Evaluation
) -> tuple[Any, Any]:
    """A state around the model in a file, and the objective that its facts and the model's outputs ask for."""
    import keras

    from loopwright import trainer
    from loopwright.trainer.commands.train import build
    from loopwright.trainer.export import safe_load

    sources.tell_of_other_classes(facts.get("class_names", ()), dataset)
    network = safe_load.load_model(path, trust=evaluation.trust_file)
    said, outputs = facts.get("identity", {}), evaluation.outputs
    names = ("task", "loss", "loss_weights", "metrics", "outputs")
    model = flags.Model(**{name: said[name] for name in names if name in said})
    model = dataclasses.replace(model, model="", outputs=model.outputs if outputs == "auto" else outputs)
    chosen = build.as_learned(build.assign(model, dataset), network, model, dataset, f"--restore_from={path}")
    objective = build.built_objective(chosen, network, dataset)
    optimizer = keras.optimizers.SGD()  # A state needs one; it is never used.
    return trainer.TrainState.create(network, optimizer, metrics=getattr(objective, "metrics", ())), objective
