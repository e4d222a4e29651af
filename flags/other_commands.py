"""The flags of every command but `train`, as `config` has those."""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.flags.config import flag, onednn_flag


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: a run's newest checkpoint, or an exported model file."""

    workdir: str | None = flag(
        None, "Folder of the run; its flags.txt gives the flags not typed here.", common=True, path=True
    )
    restore_from: str | None = flag(
        None, "A checkpoint folder of the run, or a model.h5 or model.keras.", common=True, path=True
    )
    trust_file: bool = flag(False, "Open a model file that brings code or names foreign classes: it may do anything.")
    progress: str = flag(
        "auto",
        "What stderr shows: auto (a moving view on a terminal), plain or none.",
        choices=("auto", "plain", "none"),
    )
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Verification:
    """When the run is killed."""

    kills: int = flag(5, "Times that the run is killed, half of them in a save.", minimum=1, common=True)
    kill_at: str | None = flag(
        None, "Steps at which it's killed, comma separated, instead of random moments.", common=True
    )
    kill_seed: int = flag(0, "Seed of the random moments.", minimum=0)


@dataclass(frozen=True)
class Export:
    """What is exported, and in which formats."""

    workdir: str | None = flag(
        None, "Folder of the run; its flags.txt gives the flags not typed here.", common=True, path=True
    )
    restore_from: str | None = flag(
        None, "A checkpoint folder of the run (default: its newest).", common=True, path=True
    )
    formats: str = flag("h5,keras,saved_model,litert", "Formats, comma separated.", common=True)
    include_preprocessing: bool = flag(
        False, "SavedModel and LiteRT take uint8 images and scale them to [0, 1].", common=True
    )
    output: str | None = flag(None, "Folder for the files (default: exports/ of the run).", common=True, path=True)
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Prediction:
    """What predicts, and how much of it is told."""

    workdir: str | None = flag(
        None, "Folder of the run; its flags.txt gives the flags not typed here.", common=True, path=True
    )
    restore_from: str | None = flag(
        None,
        "A checkpoint folder of the run, or an export: .h5, .keras, .tflite, SavedModel folder.",
        common=True,
        path=True,
    )
    split: str | None = flag(None, "Split of the dataset to predict, in TFDS syntax, such as test[:20].", common=True)
    top: int = flag(3, "Classes to show for each image, the likeliest first.", minimum=1, common=True)
    trust_file: bool = flag(False, "Open a model file that brings code or names foreign classes: it may do anything.")
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Benchmark:
    """How the comparison with model.fit is made."""

    train_steps: int = flag(200, "Steps that one measurement times.", minimum=1, common=True)
    repeats: int = flag(9, "Interleaved measurements of every row.", minimum=1, common=True)
    curves: bool = flag(
        False, "Also train with fit and with the loop, and draw loss and accuracy over steps and seconds.", common=True
    )
    seed: int = flag(0, "Seed of weights, dropout and the order of samples.", minimum=0, below=2**32)
    steps_per_call: int = flag(50, "Most steps in one call of the compiled loop.", minimum=1)
    intra_op_threads: int = flag(0, "Threads inside one TensorFlow op (0: TensorFlow decides).", minimum=0)
    inter_op_threads: int = flag(0, "TensorFlow ops at the same time (0: TensorFlow decides).", minimum=0)
    onednn: str = onednn_flag()
    output: str | None = flag(
        None, "Folder for benchmark.json, benchmark.png and TensorBoard runs.", common=True, path=True
    )
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Parity:
    """How the certificate against model.fit is made."""

    train_steps: int = flag(200, "Steps that both take.", minimum=1, common=True)
    execution: str = flag(
        "graph",
        "What is certified: graph against fit(jit_compile=False), xla against fit(jit_compile=True), eager against "
        "fit(run_eagerly=True).",
        choices=("graph", "xla", "eager"),
        common=True,
    )
    seed: int = flag(0, "Seed of weights, dropout and the order of samples.", minimum=0, below=2**32)
    steps_per_call: int = flag(50, "Most steps in one call of the compiled loop.", minimum=1)
    onednn: str = onednn_flag()
    output: str | None = flag(None, "Folder for parity.json.", common=True, path=True)
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Listing:
    """How a list is printed."""

    input_shape: str = flag("32,32,3", "Shape of one input, comma separated, for a model's summary.", common=True)
    num_classes: int = flag(10, "Classes, for a model's summary.", minimum=2, common=True)
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Description:
    """What is told about a dataset."""

    measure: bool = flag(False, "Measure the samples a second of the feed alone.", common=True)
    sheet: str | None = flag(
        None,
        "PNG file for a sheet of training images, with --augment changed ones beside (extra plots).",
        common=True,
        path=True,
    )
    seed: int = flag(0, "Seed of the order of samples and of --augment.", minimum=0, below=2**32)
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Report:
    """What the page is about."""

    workdir: str | None = flag(None, "Folder of a run; several with commas stand side by side.", common=True)
    output: str | None = flag(
        None, "The HTML file (default: report.html in the folder of the run; here for several).", common=True, path=True
    )
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Doctor:
    """What is examined."""

    data_dir: str | None = flag(None, "Folder of prepared TFDS datasets (default: TFDS's own).", common=True, path=True)
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)
