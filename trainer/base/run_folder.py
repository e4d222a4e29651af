"""The files of a run's folder, by name. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from loopwright.trainer.base.paths import local_path

#: The attributes of a `RunFolder` and the names of the files and folders.
NAMES = {
    "lock": "lock",
    "flags": "flags.txt",
    "facts": "run.json",
    "preprocessing": "preprocessing.json",
    "metrics": "metrics.jsonl",
    "summary": "summary.json",
    "goodput": "goodput.json",
    "predictions": "predictions.npz",
    "samples": "samples.jsonl",
    "tensorboard": "tensorboard",
    "checkpoints": "checkpoints",
    "exports": "exports",
    "report": "report.html",
}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files, made by `RunFolder.at(folder)`. `root` is the folder.

    lock            the process that writes here
    flags.txt       a flagfile that repeats the run
    run.json        versions, machine, data fingerprint
    preprocessing.json what was learned of texts or tables: vocabulary, means, categories
    metrics.jsonl   one object a record: step, epoch, split, loss, accuracy, …
    summary.json    the last and the best numbers, and where the time went
    goodput.json    the seconds of each process that worked on the run
    predictions.npz the newest predictions of the evaluation split
    samples.jsonl   the samples of each step, on request
    tensorboard/    train and eval
    checkpoints/    tf.train.Checkpoint files with a manifest of their hashes
    exports/        model.h5; on request model.keras, saved_model/, model.tflite and a manifest of what was compared
    report.html     a page about the run, on request
    """

    root: pathlib.Path
    lock: pathlib.Path
    flags: pathlib.Path
    facts: pathlib.Path
    preprocessing: pathlib.Path
    metrics: pathlib.Path
    summary: pathlib.Path
    goodput: pathlib.Path
    predictions: pathlib.Path
    samples: pathlib.Path
    tensorboard: pathlib.Path
    checkpoints: pathlib.Path
    exports: pathlib.Path
    report: pathlib.Path

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> RunFolder:
        """The paths below a folder. Nothing is created."""
        root = local_path(root)
        return cls(root, **{attribute: root / name for attribute, name in NAMES.items()})
