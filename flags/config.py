"""Every flag of `train`, defined once: a field of a frozen dataclass with its default, help text and bounds.

`parse.define_flags` turns the fields into absl flags, and `parse.parse` turns a command line into these dataclasses. A field
marked `identity` is part of what a run is: another value makes another run. All other fields may change when a run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.flags.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_2,
    BELOW_1,
    BETWEEN_0_AND_1,
    POSITIVE,
    flag,
    json_flag,
    onednn_flag,
    outputs_flag,
    seed_flag,
    steps_per_call_flag,
    threads_flag,
)


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    dataset: str = flag(
        "mnist_5k",
        "Dataset: mnist_5k (embedded), a TFDS name[/config][:version], folder:PATH (images) or text:PATH with a folder for "
        "each class, csv:PATH, npz:PATH, or module:function.",
        identity=True,
        common=True,
    )
    data_dir: str | None = flag(
        None, "Folder of prepared TFDS datasets (default: TFDS's own, ~/tensorflow_datasets).", path=True
    )
    manual_dir: str | None = flag(
        None, "Folder with source files that you downloaded yourself, for preparing a TFDS dataset.", path=True
    )
    download: bool = flag(True, "Let TFDS download the source files of a dataset that isn't prepared yet.")
    train_split: str = flag("train", "Split to train on, in TFDS syntax, such as train[:90%].", identity=True)
    eval_split: str | None = flag(
        None,
        "Split to evaluate on, in TFDS syntax (default: the first of test, validation, val, valid, dev, eval that exists).",
        identity=True,
    )
    batch_size: int = flag(32, "Samples in one step's batch.", bounds=AT_LEAST_1, identity=True, common=True)
    drop_remainder: bool = flag(
        False, "Leave out the last batch of each training epoch if it isn't full.", identity=True
    )
    augment: str = flag(
        "",
        "Random changes of training images, comma separated and applied in this order: flip, translate:PIXELS, crop:PIXELS, "
        "cutout:PIXELS, module:function.",
        identity=True,
    )
    input_key: str | None = flag(
        None,
        "Feature that is the input, or several, comma separated (default: the one that the TFDS builder names, or image).",
        identity=True,
    )
    label_key: str | None = flag(
        None,
        "Feature that is the label or the target, or several, comma separated (default: the one that the TFDS builder "
        "names, or label).",
        identity=True,
        common=True,
    )
    columns: str | None = flag(
        None, "Names of the columns of a csv: file without a header, comma separated.", identity=True
    )
    tokens: str = flag(
        "auto",
        "What a text is cut into: word, character, byte, or auto (characters for a language model, words otherwise).",
        choices=("auto", "word", "character", "byte"),
        identity=True,
    )
    vocabulary: int = flag(
        20000,
        "Most tokens of a text that are told apart; rarer ones are all the same.",
        bounds=AT_LEAST_2,
        identity=True,
    )
    sequence_length: int | None = flag(
        None,
        "Length to which texts and other sequences are cut or padded (default: 256 tokens, 64 for a language model).",
        bounds=AT_LEAST_1,
        identity=True,
    )
    weight_key: str | None = flag(
        None, "Feature that holds the weight of each sample (default: all samples weigh the same).", identity=True
    )
    image_size: str | None = flag(
        None, "HEIGHT,WIDTH to which all images are resized; needed if their sizes differ.", identity=True
    )
    scale: str = flag(
        "auto",
        "How pixels reach the model: unit (scaled to [0, 1]), none (as they are stored), or auto (images are scaled, unless "
        "the model begins with Rescaling, Normalization or the like).",
        choices=("auto", "unit", "none"),
        identity=True,
    )
    feed: str = flag(
        "auto",
        "How samples are read: memory (decoded once, then kept), streaming (from ArrayRecord files, in the same order as "
        "memory), sequential (file after file, shuffled in a buffer), or auto (the first of these that --memory_budget and "
        "the files allow).",
        choices=("auto", "memory", "streaming", "sequential"),
    )
    memory_budget: float | None = flag(
        None, "GB that decoded samples may take in memory (default: a third of this machine's memory).", bounds=POSITIVE
    )
    prepare_array_record: bool = flag(
        True, "Let streaming write an ArrayRecord copy beside TFRecord files; the copy is as large as they are."
    )
    max_bad_records: int = flag(
        0,
        "Bad samples that are left out of each split before the run fails; above 0, all samples are checked first.",
        bounds=AT_LEAST_0,
        identity=True,
    )


@dataclass(frozen=True)
class Model:
    """What is trained."""

    model: str = flag(
        "auto",
        "Model: a name that 'loopwright models' lists, keras.applications:NAME, module:function, or auto (by the data: cnn "
        "for images).",
        identity=True,
        common=True,
    )
    task: str = flag(
        "auto",
        "What is learned: classification, binary, multi_label, regression, language_model, module:function, or auto (by the "
        "label).",
        identity=True,
        common=True,
    )
    loss: str | None = flag(
        None,
        "Loss by its name in Keras, such as huber or huber:delta=2, or module:function (default: that of the task).",
        identity=True,
    )
    loss_weights: str | None = flag(
        None, "What the losses of several heads are multiplied by, such as age:0.1,kind:1.", identity=True
    )
    class_weight: str | None = flag(
        None,
        "Weights of classes in the training loss: balanced (by their numbers of samples), or such as 0:1,1:6.5.",
        identity=True,
    )
    precision: str = flag(
        "float32",
        "Keras dtype policy of the model; variables and losses stay float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        identity=True,
        common=True,
    )
    init_from: str | None = flag(
        None,
        "Where a new run takes its first weights: a checkpoint, a run's folder, an .h5, .keras or .weights.h5 file, or the "
        "files of a tf.train.Checkpoint.",
        identity=True,
        path=True,
    )
    init_exclude: str | None = flag(
        None,
        "Regular expression; variables with a match in their path keep their own first weights under --init_from.",
        identity=True,
    )
    freeze: str | None = flag(
        None, "Regular expression; variables with a match in their path are not trained.", identity=True
    )
    outputs: str = outputs_flag()
    unfreeze_at: int | None = flag(
        None, "Step from which the variables that --freeze matches are trained, too.", bounds=AT_LEAST_1, identity=True
    )
    metrics: str | None = flag(
        None,
        "Metrics, comma separated: accuracy, top_5, auc, f1, names of Keras such as mae or auc:num_thresholds=50, or "
        "module:function (default: those of the task).",
        identity=True,
    )


@dataclass(frozen=True)
class Optimization:
    """How it is trained."""

    optimizer: str = flag(
        "adam",
        "Optimizer by its name in Keras, such as adamw, sgd, lion or rmsprop:rho=0.95, or module:function.",
        identity=True,
        common=True,
    )
    learning_rate: str = flag(
        "0.001",
        "Highest learning rate, or a schedule by its name in Keras, such as exponential_decay:decay_steps=1000:"
        "decay_rate=0.9, or module:function.",
        identity=True,
        common=True,
    )
    schedule: str = flag(
        "auto",
        "Learning rate after the warm-up; auto is a cosine for tables, and constant for everything else.",
        choices=("auto", "constant", "cosine", "piecewise"),
        identity=True,
        common=True,
    )
    warmup_steps: int = flag(
        0, "Updates over which the rate rises linearly from 0 to --learning_rate.", bounds=AT_LEAST_0, identity=True
    )
    boundaries: str | None = flag(
        None, "Updates at which a piecewise rate is multiplied by --decay_factor, comma separated.", identity=True
    )
    decay_factor: float = flag(
        0.1,
        "Factor by which the rate is multiplied at --boundaries and by --reduce_on_plateau.",
        bounds=POSITIVE,
        identity=True,
    )
    momentum: float = flag(0.9, "Momentum of sgd.", bounds=BELOW_1, identity=True)
    weight_decay: float | None = flag(
        None,
        "Decoupled weight decay of all variables but biases and norms (default: 0.004 for adamw, none for others).",
        bounds=AT_LEAST_0,
        identity=True,
    )
    clip_norm: float | None = flag(
        None, "Global L2 norm to which larger gradients are scaled down.", bounds=POSITIVE, identity=True
    )
    clip_value: float | None = flag(
        None,
        "Largest absolute value of a gradient's elements; larger ones are cut to it.",
        bounds=POSITIVE,
        identity=True,
    )
    ema_decay: float | None = flag(
        None,
        "Decay of a moving average of the weights, which is what is evaluated and exported.",
        bounds=BETWEEN_0_AND_1,
        identity=True,
    )
    label_smoothing: float = flag(
        0.0, "Share of each label that is spread over all classes.", bounds=BELOW_1, identity=True
    )
    gradient_accumulation: int = flag(
        1, "Batches whose mean gradient makes one update.", bounds=AT_LEAST_1, identity=True
    )
    loss_scale_floor: float = flag(1.0, "Smallest loss scale of mixed_float16.", bounds=POSITIVE, identity=True)


@dataclass(frozen=True)
class Run:
    """How long the run is, and how it is executed, watched and kept."""

    epochs: int | None = flag(
        None,
        "Passes over the training split, in total (default: 10, unless --train_steps is given).",
        bounds=AT_LEAST_1,
        common=True,
    )
    train_steps: int | None = flag(
        None, "Steps in total; give either this or --epochs.", bounds=AT_LEAST_1, common=True
    )
    workdir: str | None = flag(
        None, "Folder of the run (default: runs/<dataset>-<model>-<identity>).", common=True, path=True
    )
    seed: int = seed_flag(run=True)
    execution: str = flag(
        "graph",
        "How steps run: graph (a compiled loop), xla (the whole loop is one XLA program), eager (for debugging), or auto "
        "(measures graph and xla and takes the faster).",
        choices=("graph", "xla", "eager", "auto"),
        identity=True,
        common=True,
    )
    steps_per_call: int = steps_per_call_flag()
    deterministic: bool = flag(False, "Use deterministic TensorFlow ops only, which are slower.", identity=True)
    intra_op_threads: int = threads_flag("Threads inside one TensorFlow op")
    inter_op_threads: int = threads_flag("TensorFlow ops that run at the same time")
    onednn: str = onednn_flag()
    on_nonfinite: str = flag(
        "abort",
        "What happens when the loss or a gradient isn't finite: abort the run, or skip the update (mixed_float16 always "
        "skips).",
        choices=("abort", "skip"),
    )
    max_skipped_steps: int = flag(50, "Updates in a row that may be skipped before the run fails.", bounds=AT_LEAST_1)
    stall_timeout: float | None = flag(
        None,
        "Seconds that a call, with its evaluation and save, may take before the run prints all stacks and fails.",
        bounds=POSITIVE,
    )
    grace_seconds: float | None = flag(
        None,
        "Seconds between SIGTERM and SIGKILL on this machine; calls are kept so short that a save fits in.",
        bounds=POSITIVE,
    )
    log_norms: bool = flag(False, "Log the global L2 norms of gradients, parameters and updates.")
    monitor: str | None = flag(
        None,
        "Evaluation metric that decides what is best: loss or one of --metrics; NAME:min or NAME:max also says which end is "
        "better (default: that of the task, such as accuracy).",
    )
    early_stop: int | None = flag(
        None, "Stop after this many evaluations in a row without a better --monitor.", bounds=AT_LEAST_1
    )
    reduce_on_plateau: int | None = flag(
        None,
        "Multiply the rate by --decay_factor after this many evaluations in a row without a better --monitor.",
        bounds=AT_LEAST_1,
        identity=True,
    )
    log_every: int | None = flag(
        None, "Steps between logged metrics (default: a fifth of an epoch, but at most 100).", bounds=AT_LEAST_1
    )
    eval_every: int | None = flag(None, "Steps between evaluations (default: one epoch).", bounds=AT_LEAST_1)
    checkpoint_every: int | None = flag(None, "Steps between checkpoints (default: one epoch).", bounds=AT_LEAST_1)
    keep: int = flag(
        3, "Number of newest checkpoints to keep; the best one by --monitor is kept too.", bounds=AT_LEAST_1
    )
    keep_every: int | None = flag(
        None, "Keep every checkpoint whose step is a multiple of this number.", bounds=AT_LEAST_1
    )
    async_checkpoints: bool = flag(False, "Write checkpoints in a thread while training goes on.")
    log_samples: bool = flag(
        False, "Log the samples of every step to samples.jsonl, and the hash of every tensor to the checkpoints."
    )
    restore_from: str | None = flag(
        None,
        "Checkpoint folder, model.h5, .keras or .weights.h5 of the same run, from which a run without checkpoints begins.",
        path=True,
    )
    allow_fresh_start: bool = flag(False, "Begin at step 0 if every checkpoint of the run is damaged.")
    progress: str = flag(
        "auto",
        "What stderr shows: auto (a live view on a terminal, lines elsewhere), plain (lines), or none.",
        choices=("auto", "plain", "none"),
    )
    pictures_every: int | None = flag(
        None,
        "Steps between pictures and class accuracies on TensorBoard (default: a fifth of the run).",
        bounds=AT_LEAST_1,
    )
    histograms_every: int | None = flag(
        None,
        "Steps between histograms of weights and gradients on TensorBoard (default: no histograms).",
        bounds=AT_LEAST_1,
    )
    profile_steps: str | None = flag(
        None, "FIRST:LAST: record TensorFlow's profile of these steps for TensorBoard (the extra 'profile' shows it)."
    )
    overwrite: bool = flag(False, "If --workdir holds another run, move it aside and start afresh; nothing is deleted.")
    json: bool = json_flag()


@dataclass(frozen=True)
class Config:
    """The flags of `loopwright train`, by group."""

    data: Data = Data()
    model: Model = Model()
    optimization: Optimization = Optimization()
    run: Run = Run()
