"""Every flag, once: a field of a frozen dataclass with its default, help and bounds.

`parse.define_flags` turns the fields into absl flags, and a parsed command line into a `Config`. A field marked
`identity` says what a run *is*: change it and it is another run. All other fields may differ when a run goes on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


def flag(
    default: Any,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    identity: bool = False,
    common: bool = False,
    path: bool = False,
) -> Any:
    """A dataclass field that is also a flag.

    `minimum` is an inclusive bound, `above` and `below` are exclusive ones. `common` flags are shown by `--help`, the
    others by `--helpfull` only. A `path` may begin with `~`, the home folder.
    """
    metadata = {
        "help": help_text,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "below": below,
        "identity": identity,
        "common": common,
        "path": path,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    dataset: str = flag(
        "mnist_5k",
        "Dataset: mnist_5k (embedded), any TFDS name/config:version, folder:PATH of class folders, or module:function.",
        identity=True,
        common=True,
    )
    data_dir: str | None = flag(
        None, "Folder of prepared TFDS datasets (default: TFDS's own, ~/tensorflow_datasets).", path=True
    )
    manual_dir: str | None = flag(
        None, "Folder with source files, where a builder can't or shan't download them.", path=True
    )
    download: bool = flag(True, "Let TFDS download what is neither prepared nor in --manual_dir.")
    train_split: str = flag("train", "Split to train on, in TFDS syntax (train[:90%]).", identity=True)
    eval_split: str | None = flag(
        None, "Split to evaluate on, in TFDS syntax (default: test, else validation).", identity=True
    )
    batch_size: int = flag(32, "Samples in a global batch.", minimum=1, identity=True, common=True)
    drop_remainder: bool = flag(False, "Leave out the ragged last batch of each training epoch.", identity=True)
    augment: str = flag(
        "",
        "Random changes of training images: flip, translate:PIXELS, crop:PIXELS, cutout:PIXELS, module:function, with "
        "commas between them.",
        identity=True,
        common=True,
    )
    input_key: str | None = flag(
        None, "Feature that is the input, or several with commas (default: the builder's, else image).", identity=True
    )
    label_key: str | None = flag(
        None, "Feature that is the label or the target (default: the builder's, else label).", identity=True
    )
    weight_key: str | None = flag(None, "Feature that weights the samples (default: all count alike).", identity=True)
    image_size: str | None = flag(None, "HEIGHT,WIDTH to which images are resized, where sizes differ.", identity=True)
    feed: str = flag(
        "auto",
        "How samples are read: memory, streaming (global shuffle from ArrayRecord files, the same batches as memory), "
        "sequential (files in turns, shuffle buffer), or auto: the first of them that --memory_budget and files allow.",
        choices=("auto", "memory", "streaming", "sequential"),
    )
    memory_budget: float | None = flag(
        None, "GB that decoded samples may take in memory (default: a third of this machine's).", above=0
    )
    prepare_array_record: bool = flag(
        True, "Let streaming write an ArrayRecord copy beside TFRecord files, which takes their space again."
    )
    max_bad_records: int = flag(
        0,
        "Bad samples that are left out of each split, after a search, before it is an error.",
        minimum=0,
        identity=True,
    )


@dataclass(frozen=True)
class Model:
    """What is trained."""

    model: str = flag("cnn", "A name that 'loopwright models' lists, or module:function.", identity=True, common=True)
    precision: str = flag(
        "float32",
        "Keras dtype policy of the model; variables and losses stay float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        identity=True,
        common=True,
    )
    init_from: str | None = flag(
        None,
        "Checkpoint folder whose weights, and nothing else of it, a new run begins with.",
        identity=True,
        path=True,
    )
    init_exclude: str | None = flag(
        None, "Regular expression; variables whose path it is found in are not taken from --init_from.", identity=True
    )
    freeze: str | None = flag(
        None, "Regular expression; variables whose path it is found in are not trained.", identity=True
    )
    metrics: str = flag("accuracy", "Metrics, comma separated: accuracy, top_5, auc, f1.", identity=True)


@dataclass(frozen=True)
class Optimization:
    """How it is trained."""

    optimizer: str = flag("adam", "Optimizer.", choices=("adam", "adamw", "sgd"), identity=True, common=True)
    learning_rate: float = flag(1e-3, "Peak learning rate.", above=0, identity=True, common=True)
    schedule: str = flag(
        "constant",
        "Learning rate after the warm-up.",
        choices=("constant", "cosine", "piecewise"),
        identity=True,
        common=True,
    )
    warmup_steps: int = flag(0, "Updates of linear warm-up from 0 to --learning_rate.", minimum=0, identity=True)
    boundaries: str | None = flag(None, "Updates at which a piecewise rate falls, comma separated.", identity=True)
    decay_factor: float = flag(0.1, "What a piecewise rate is multiplied by.", above=0, identity=True)
    momentum: float = flag(0.9, "Momentum of sgd.", minimum=0, below=1, identity=True)
    weight_decay: float | None = flag(
        None,
        "Decoupled weight decay, not on biases and norms (default: 0.004 for adamw, none for others).",
        minimum=0,
        identity=True,
    )
    clip_norm: float | None = flag(None, "Global L2 norm that gradients are scaled down to.", above=0, identity=True)
    clip_value: float | None = flag(None, "What each element of a gradient is cut to.", above=0, identity=True)
    ema_decay: float | None = flag(
        None, "Decay of an average of the weights, which is evaluated and exported.", above=0, below=1, identity=True
    )
    label_smoothing: float = flag(
        0.0, "Share of each label spread over all classes.", minimum=0, below=1, identity=True
    )
    gradient_accumulation: int = flag(1, "Batches whose mean gradient makes one update.", minimum=1, identity=True)
    loss_scale_floor: float = flag(1.0, "Least loss scale of mixed_float16.", above=0, identity=True)


def onednn_flag() -> Any:
    """The flag of each command that computes a step."""
    return flag(
        "auto",
        "oneDNN's kernels: on, off, or auto (TensorFlow decides: on where the CPU has AVX-512 VNNI or AMX; elsewhere on may "
        "be faster).",
        choices=("auto", "on", "off"),
    )


@dataclass(frozen=True)
class Run:
    """How long the run is, and how it is executed, watched and kept."""

    epochs: int | None = flag(
        None, "Passes over the training split, in total (default: 10 unless --train_steps).", minimum=1, common=True
    )
    train_steps: int | None = flag(None, "Steps in total, instead of --epochs.", minimum=1, common=True)
    workdir: str | None = flag(
        None, "Folder of the run (default: runs/<dataset>-<model>-<identity>).", common=True, path=True
    )
    seed: int = flag(
        0, "Seed of weights, dropout and the order of samples.", minimum=0, below=2**32, identity=True, common=True
    )
    execution: str = flag(
        "graph",
        "How steps run: graph (compiled loop), xla (the loop one XLA program), eager (for debugging), or auto (measures "
        "and chooses).",
        choices=("graph", "xla", "eager", "auto"),
        identity=True,
        common=True,
    )
    steps_per_call: int = flag(50, "Most steps in one call of the compiled loop.", minimum=1)
    deterministic: bool = flag(False, "Deterministic TensorFlow ops (slower).", identity=True)
    intra_op_threads: int = flag(0, "Threads inside one TensorFlow op (0: TensorFlow decides).", minimum=0)
    inter_op_threads: int = flag(0, "TensorFlow ops at the same time (0: TensorFlow decides).", minimum=0)
    onednn: str = onednn_flag()
    on_nonfinite: str = flag(
        "abort",
        "When the loss or a gradient isn't finite: abort, or skip the update (mixed_float16 always skips).",
        choices=("abort", "skip"),
    )
    max_skipped_steps: int = flag(50, "Updates that may be skipped in a row before the run fails.", minimum=1)
    stall_timeout: float | None = flag(
        None,
        "Seconds that a call, with its evaluation and save, may take before the run dumps all stacks and fails.",
        above=0,
    )
    grace_seconds: float | None = flag(
        None, "Seconds between SIGTERM and SIGKILL here: calls are kept so short that a save fits.", above=0
    )
    log_norms: bool = flag(False, "Log the global L2 norms of gradients, parameters and updates.")
    monitor: str = flag("accuracy", "Evaluation metric that decides what is best; less is better for losses.")
    early_stop: int | None = flag(None, "Stop after this many evaluations without improvement of --monitor.", minimum=1)
    reduce_on_plateau: int | None = flag(
        None, "Lower the rate after this many evaluations without improvement of --monitor.", minimum=1, identity=True
    )
    log_every: int | None = flag(
        None, "Steps between logged metrics (default: five times an epoch, and at most 100).", minimum=1
    )
    eval_every: int | None = flag(None, "Steps between evaluations (default: an epoch).", minimum=1)
    checkpoint_every: int | None = flag(None, "Steps between checkpoints (default: an epoch).", minimum=1)
    keep: int = flag(3, "Newest checkpoints to keep; the best by --monitor stays too.", minimum=1)
    keep_every: int | None = flag(None, "Keep for ever the checkpoints whose step is a multiple of this.", minimum=1)
    async_checkpoints: bool = flag(False, "Let a thread write checkpoints while training goes on.")
    log_samples: bool = flag(
        False, "Log the samples of every step to samples.jsonl, and the tensors' hashes to the checkpoints."
    )
    restore_from: str | None = flag(
        None,
        "Checkpoint folder or model.h5 of the same run, which a folder without checkpoints begins with.",
        common=True,
        path=True,
    )
    allow_fresh_start: bool = flag(False, "Begin at step 0 where no checkpoint of the run is whole.")
    progress: str = flag(
        "auto",
        "What stderr shows: auto (a moving view on a terminal, else lines), plain (lines), none.",
        choices=("auto", "plain", "none"),
    )
    pictures_every: int | None = flag(
        None, "Steps between pictures and class accuracies on TensorBoard (default: five times a run).", minimum=1
    )
    histograms_every: int | None = flag(
        None, "Steps between histograms of weights and gradients on TensorBoard (default: none).", minimum=1
    )
    profile_steps: str | None = flag(
        None, "FIRST:LAST: record TensorFlow's profile of these steps for TensorBoard (extra profile to see it)."
    )
    overwrite: bool = flag(False, "Move another run's folder aside and start anew; nothing is deleted.")
    json: bool = flag(False, "Print the result as one JSON object on stdout.", common=True)


@dataclass(frozen=True)
class Config:
    """The flags of `loopwright train`, by group."""

    data: Data = Data()
    model: Model = Model()
    optimization: Optimization = Optimization()
    run: Run = Run()


def flag_values(config: Any) -> dict[str, Any]:
    """The flags of a config as one flat dict, in the order in which they are defined."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(config, g.name) for g in dataclasses.fields(config))
        for field in dataclasses.fields(group)
    }


def identity(config: Config) -> dict[str, Any]:
    """What makes the run this run and no other: the identity flags, by name.

    The length of training belongs to it only where the learning rate depends on it (cosine), and the feed only where it is
    the sequential one: the others give the same batches.
    """
    names = {
        field.name
        for group in (Data, Model, Optimization, Run)
        for field in dataclasses.fields(group)
        if field.metadata["identity"]
    }
    if config.optimization.schedule == "cosine":
        names |= {"epochs", "train_steps"}
    if config.data.feed == "sequential":
        names |= {"feed"}
    return {name: value for name, value in flag_values(config).items() if name in names}


def to_arguments(group: Any) -> list[str]:
    """One of the groups as the words of a command line; flags without a value are left out."""
    words = []
    for name, value in dataclasses.asdict(group).items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no{name}")
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def changed_arguments(group: Any) -> list[str]:
    """Those of `to_arguments` whose values aren't the defaults."""
    usual = set(to_arguments(type(group)()))
    return [word for word in to_arguments(group) if word not in usual]


#: Flags that a run's flagfile leaves out: they are said once, and shan't be repeated unawares.
NOT_REPEATED = ("overwrite", "allow_fresh_start", "json")


def to_flagfile(config: Config) -> str:
    """The run as a flagfile: every flag that has a value, except where the run lies, and what is said once only."""
    run = dataclasses.replace(config.run, workdir=None)
    groups = (config.data, config.model, config.optimization, run)
    words = [word for group in groups for word in to_arguments(group)]
    return "\n".join(word for word in words if word.removeprefix("--no").removeprefix("--") not in NOT_REPEATED) + "\n"
