"""The flags of every command but `train`, defined as `config` defines those of `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loopwright.flags.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    SEEDS,
    Bounds,
    flag,
    json_flag,
    onednn_flag,
    outputs_flag,
    seed_flag,
    steps_per_call_flag,
    threads_flag,
)


def run_folder_flag() -> Any:
    """The flag `--workdir` of the commands that read a run."""
    return flag(
        None, "Folder of the run, whose flags.txt gives the data flags that you don't type.", common=True, path=True
    )


def trust_flag() -> Any:
    """The flag `--trust_file`."""
    return flag(
        False, "Open a model file that holds code or names classes of other packages; such a file can do anything."
    )


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: a run's newest checkpoint, or an exported model file."""

    workdir: str | None = run_folder_flag()
    restore_from: str | None = flag(
        None,
        "Checkpoint folder of the run (default: its newest), or a model.h5 or model.keras.",
        common=True,
        path=True,
    )
    outputs: str = outputs_flag()
    trust_file: bool = trust_flag()
    progress: str = flag(
        "auto",
        "What stderr shows: auto (a live view on a terminal), plain or none.",
        choices=("auto", "plain", "none"),
    )
    json: bool = json_flag()


@dataclass(frozen=True)
class Verification:
    """When the run is killed."""

    kills: int = flag(
        5, "Number of kills at random moments, half of them during a save.", bounds=AT_LEAST_1, common=True
    )
    kill_at: str | None = flag(
        None, "Steps at which the run is killed, comma separated, instead of random moments.", common=True
    )
    kill_seed: int = flag(0, "Seed of the random moments.", bounds=AT_LEAST_0)


@dataclass(frozen=True)
class Export:
    """What is exported, and in which formats."""

    workdir: str | None = run_folder_flag()
    restore_from: str | None = flag(None, "Checkpoint folder of the run (default: its newest).", common=True, path=True)
    formats: str = flag(
        "h5,keras,saved_model,litert", "Formats, comma separated: h5, keras, saved_model, litert.", common=True
    )
    include_preprocessing: bool = flag(
        False,
        "Let SavedModel and LiteRT take uint8 images and scale them to [0, 1] themselves. A SavedModel of texts or tables "
        "always takes raw ones.",
        common=True,
    )
    output: str | None = flag(None, "Folder for the files (default: exports/ of the run).", common=True, path=True)
    json: bool = json_flag()


@dataclass(frozen=True)
class Prediction:
    """What predicts, and how much of it is shown."""

    workdir: str | None = run_folder_flag()
    restore_from: str | None = flag(
        None,
        "Checkpoint folder of the run (default: its newest), or an export: .h5, .keras, .tflite or a SavedModel folder.",
        common=True,
        path=True,
    )
    split: str | None = flag(None, "Split of the dataset to predict, in TFDS syntax, such as test[:20].", common=True)
    top: int = flag(3, "Number of classes shown for each sample, the likeliest first.", bounds=AT_LEAST_1, common=True)
    length: int = flag(200, "Number of tokens that a language model writes after each text.", bounds=AT_LEAST_1)
    temperature: float = flag(
        0.0,
        "How freely a language model draws tokens: 0 takes the likeliest, 1 draws by probability.",
        bounds=AT_LEAST_0,
    )
    seed: int = flag(0, "Seed of the tokens that a language model draws.", bounds=SEEDS)
    outputs: str = outputs_flag()
    trust_file: bool = trust_flag()
    json: bool = json_flag()


@dataclass(frozen=True)
class Benchmark:
    """How the comparison with model.fit is made."""

    train_steps: int = flag(200, "Steps that one measurement times.", bounds=AT_LEAST_1, common=True)
    repeats: int = flag(9, "Measurements of every row, made in turns.", bounds=AT_LEAST_1, common=True)
    curves: bool = flag(
        False,
        "Also train with fit and with the fastest loop, and draw loss and accuracy over steps and seconds.",
        common=True,
    )
    seed: int = seed_flag()
    steps_per_call: int = steps_per_call_flag()
    intra_op_threads: int = threads_flag("Threads inside one TensorFlow op")
    inter_op_threads: int = threads_flag("TensorFlow ops that run at the same time")
    onednn: str = onednn_flag()
    output: str | None = flag(
        None, "Folder for benchmark.json, benchmark.png and TensorBoard runs.", common=True, path=True
    )
    json: bool = json_flag()


@dataclass(frozen=True)
class Parity:
    """How the certificate against model.fit is made."""

    train_steps: int = flag(200, "Steps that the loop and fit both take.", bounds=AT_LEAST_1, common=True)
    execution: str = flag(
        "graph",
        "What is certified: graph against fit(jit_compile=False), xla against fit(jit_compile=True), eager against "
        "fit(run_eagerly=True).",
        choices=("graph", "xla", "eager"),
        common=True,
    )
    seed: int = seed_flag()
    steps_per_call: int = steps_per_call_flag()
    onednn: str = onednn_flag()
    output: str | None = flag(None, "Folder for parity.json.", common=True, path=True)
    json: bool = json_flag()


@dataclass(frozen=True)
class Listing:
    """For which data a model is summarised, and how the list is printed."""

    input_shape: str = flag("32,32,3", "Shape of one input, comma separated, for the summary of a model.", common=True)
    num_classes: int = flag(10, "Number of classes, for the summary of a model.", bounds=Bounds(minimum=2), common=True)
    json: bool = json_flag()


@dataclass(frozen=True)
class Description:
    """What is shown of a dataset."""

    measure: bool = flag(False, "Measure how many samples a second the feed alone gives.", common=True)
    sheet: str | None = flag(
        None,
        "PNG file for a sheet of training images; with --augment, their changes stand beside them (extra 'plots').",
        common=True,
        path=True,
    )
    seed: int = flag(0, "Seed of the order of samples and of --augment.", bounds=SEEDS)
    json: bool = json_flag()


@dataclass(frozen=True)
class Report:
    """What the page is about."""

    workdir: str | None = flag(None, "Folder of a run; several, comma separated, stand side by side.", common=True)
    output: str | None = flag(
        None,
        "The HTML file (default: report.html in the folder of the run, or in the current folder for several runs).",
        common=True,
        path=True,
    )
    json: bool = json_flag()


@dataclass(frozen=True)
class Doctor:
    """What is examined."""

    data_dir: str | None = flag(
        None, "Folder of prepared TFDS datasets (default: TFDS's own, ~/tensorflow_datasets).", common=True, path=True
    )
    json: bool = json_flag()
