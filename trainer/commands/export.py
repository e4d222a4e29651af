"""`loopwright export`: a run's checkpoint in other formats, each of them loaded again and compared before it counts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import exported, scaling, setup, sources

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
    import tensorflow as tf

    from loopwright.trainer.commands.train import build
    from loopwright.trainer.export import formats as trainer_formats

    job, _ = sources.restored_job(source, config, dataset)
    if export.include_preprocessing and dataset.preprocessing is None and not _takes_images(dataset):
        raise flags.UsageError(
            "--include_preprocessing is for uint8 images, texts and tables, and this dataset holds none; leave it out"
        )
    feed = dataset.eval_feed(_SAMPLES)
    scale = scaling.of_run(config.data.scale, feed)
    inputs = next(iter(scaling.follow(scale, feed)()))["x"]
    raw = None if dataset.preprocessing is None else _raw(dataset, inputs)
    if raw is not None and dataset.preprocessing is not None:
        inputs = dataset.preprocessing(raw)
        if "litert" in formats:
            say(
                "format litert holds no preprocessing, because it knows no strings: it takes what the preprocessing gives"
            )
    loss, metrics = build.plain_loss(job)
    return trainer_formats.export_all(
        trainer_formats.Export(
            state=job.state,
            samples=tf.nest.map_structure(lambda part: part.numpy(), inputs),
            input_name=getattr(dataset, "input_key", None) or "inputs",
            output_name=build.output_name(job),
            class_names=dataset.class_names,
            include_preprocessing=export.include_preprocessing,
            scaled=scale != "none",
            preprocessing=dataset.preprocessing,
            raw=raw,
            loss=loss,
            metrics=metrics,
            facts=build.facts(config, dataset) | exported.described(job, dataset),
        ),
        folder,
        formats,
        say=lambda line: say(flags.as_flags(line)),
    )


def _raw(dataset: Dataset, inputs: Any) -> Any:
    """The first raw inputs of the evaluation split: strings, or columns by name."""
    import tensorflow as tf

    from loopwright.data.preprocessing import as_columns
    from loopwright.data.splits import RecordSplit, good_batches

    stored, learned = dataset.split(dataset.eval_split), dataset.preprocessing
    if not isinstance(stored, RecordSplit):  # the windows of a language model
        return learned.batch([learned.text(ids) for ids in inputs.numpy()])  # type: ignore[union-attr]
    plain = RecordSplit(stored.files, dataclasses.replace(stored.decoder, preprocessing=None))
    stop = min(plain.num_examples, _SAMPLES)
    batches = [batch["x"] for _, batch in good_batches(plain, stop, dataset.bad(dataset.eval_split))]
    raw = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *batches)
    return as_columns(dataset.keys, raw) if dataset.input_kind == "table" else raw


def _takes_images(dataset: Dataset) -> bool:
    split = getattr(dataset, "split", None)
    spec = None if split is None else split(dataset.eval_split).specs["x"]
    return spec is not None and not isinstance(spec, dict) and spec.dtype.name == "uint8"


def _print(manifest: dict[str, Any], folder: pathlib.Path, formats: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"folder": str(folder), **manifest}))
        return
    written = {name: entry for name, entry in manifest["files"].items() if entry["format"] in formats}
    first = next(iter(written.values()))
    print(f"{folder}: step {first['step']}, compared in a new process on {first['samples']} samples")
    for name, entry in written.items():
        size, difference = f"{entry['bytes'] / 1e6:.2f} MB", entry["largest_difference"]
        takes = entry["inputs"] if isinstance(entry["inputs"], str) else f"{len(entry['inputs'])} inputs"
        print(f"  {name:<12} {size:>10}  takes {takes:<9} outputs differ by {difference:.2g} at most")
