"""`loopwright export`: a run's checkpoint in other formats, each of them loaded again and compared before it counts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.commands import scaling, setup, sources

if TYPE_CHECKING:
    from loopwright.data import Dataset

USAGE = "usage: loopwright export --workdir=DIR [--flags]"
HELP = (
    "Exports the newest checkpoint of a run, or the one that --restore_from names. A new process loads each file and runs "
    "it on samples of the evaluation split. The files are put into the folder only if all outputs agree with the model's. "
    "manifest.json says how large the differences are."
)
GROUPS = (flags.Export, flags.Data)

_SAMPLES = 64


def run(argv: Sequence[str]) -> int:
    """Parses the flags and exports."""
    (export, data), _, source = sources.parse(argv, GROUPS, usage=USAGE, help_text=HELP)
    formats = flags.checks.formats(export.formats)
    if source.config is None:
        raise flags.UsageError(f"--restore_from={source.path}: is an export already; give --workdir of the run")
    setup.start_tensorflow()
    folder = pathlib.Path(export.output) if export.output else source.folder / "exports"
    dataset = source.load_dataset(data)
    manifest = _export(source, source.config, dataset, folder, formats, export)
    _print(manifest, folder, formats, as_json=export.json)
    return 0


def _export(
    source: sources.Source,
    config: flags.Config,
    dataset: Dataset,
    folder: pathlib.Path,
    formats: Sequence[str],
    export: flags.Export,
) -> dict[str, Any]:
    import numpy as np

    from loopwright.trainer.commands.train import build
    from loopwright.trainer.export import formats as trainer_formats

    if isinstance(dataset.input_shape, dict):
        raise TrainingError(f"{dataset.name} has several inputs; export writes only models with one input")
    job, _ = sources.restored_job(source, config, dataset)
    if export.include_preprocessing and not _takes_images(dataset):
        raise flags.UsageError("--include_preprocessing scales uint8 images, and this dataset holds none; leave it out")
    feed = dataset.eval_feed(_SAMPLES)
    scale = scaling.of_run(config.data.scale, feed)
    inputs = next(iter(scaling.follow(scale, feed)()))["x"]
    loss, metrics = build.plain_loss(job)
    return trainer_formats.export_all(
        trainer_formats.Export(
            state=job.state,
            samples=np.asarray(inputs),
            input_name=getattr(dataset, "input_key", None) or "inputs",
            output_name=build.output_name(job),
            class_names=dataset.class_names,
            include_preprocessing=export.include_preprocessing,
            scaled=scale != "none",
            loss=loss,
            metrics=metrics,
            facts=build.facts(config, dataset),
        ),
        folder,
        formats,
    )


def _takes_images(dataset: Dataset) -> bool:
    split = getattr(dataset, "split", None)
    return split is not None and split(dataset.eval_split).specs["x"].dtype.name == "uint8"


def _print(manifest: dict[str, Any], folder: pathlib.Path, formats: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"folder": str(folder), **manifest}))
        return
    written = {name: entry for name, entry in manifest["files"].items() if entry["format"] in formats}
    first = next(iter(written.values()))
    print(f"{folder}: step {first['step']}, compared in a new process on {first['samples']} samples")
    for name, entry in written.items():
        size, difference = f"{entry['bytes'] / 1e6:.2f} MB", entry["largest_difference"]
        print(f"  {name:<12} {size:>10}  takes {entry['inputs']:<8} outputs differ by {difference:.2g} at most")
