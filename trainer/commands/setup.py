"""What every command needs first: TensorFlow, set up as the flags say, and the dataset that they name."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import absl.logging

from loopwright import flags
from loopwright.trainer.base import private_tf
from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import machine

if TYPE_CHECKING:
    from loopwright.data import Dataset

#: What Keras does by itself, unless `keras.json` says something else.
_KERAS: dict[str, Any] = {
    "backend": "tensorflow",
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
}
#: With these, `fit` would end early in `parity` and `benchmark`.
KERAS_LIMITS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
_RUNS_ALREADY = "{}: TensorFlow already runs in this process with another value; give it in a new process"


def start_tensorflow(
    *, deterministic: bool = False, intra_op_threads: int = 0, inter_op_threads: int = 0, onednn: str = "auto"
) -> None:
    """Imports TensorFlow and Keras quietly, lets GPU memory grow, and sets kernels, threads and deterministic ops.

    What `keras.json` says doesn't count, nor what an earlier command in this process has set: a run depends on its flags
    alone.

    Raises TrainingError (exit 2) if KERAS_BACKEND names another backend, and for a setting that a TensorFlow that already
    runs in this process can't take.
    """
    choose_keras(os.environ)
    if onednn != "auto" and "tensorflow" in sys.modules and machine.onednn() not in (onednn, "unknown"):
        raise TrainingError(_RUNS_ALREADY.format(f"onednn={onednn}"), exit_code=2)
    if onednn != "auto":
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn == "on"))  # TensorFlow reads it when it is imported
    with _quiet_start():
        import tensorflow as tf

        _set_threads(intra_op_threads, inter_op_threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.constant(0)  # Starts the runtime, so that the rest of its messages comes inside the block.
    _set_keras_defaults()
    absl.logging.set_verbosity(absl.logging.ERROR)  # without the deprecation warnings of TFDS and Keras
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    elif private_tf.determinism_is_on():  # an earlier command in this process wanted it
        private_tf.end_determinism()


def choose_keras(environ: MutableMapping[str, str]) -> None:
    """Sets the variables with which Keras 3 runs on TensorFlow, whatever `keras.json` and other variables say.

    Raises TrainingError (exit 2) where KERAS_BACKEND, or a Keras that is imported already, names another backend.
    """
    backend = environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise TrainingError(f"KERAS_BACKEND={backend}: this program needs tensorflow; unset it", exit_code=2)
    if "keras" in sys.modules and sys.modules["keras"].config.backend() != "tensorflow":
        raise TrainingError("Keras already runs on another backend in this process; start a new process", exit_code=2)
    if "TF_USE_LEGACY_KERAS" in environ:
        environ["TF_USE_LEGACY_KERAS"] = "0"
    if not has_home():
        environ.setdefault("KERAS_HOME", str(pathlib.Path(tempfile.gettempdir()) / ".keras"))  # not a folder named `~`
    for name in KERAS_LIMITS:
        environ.pop(name, None)


def has_home() -> bool:
    """Whether HOME is set, or the user has an entry with a home folder."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111 - Path.home would raise


def keras_settings() -> dict[str, Any]:
    """What `keras.json` sets and Keras doesn't set by itself; empty where it sets nothing. Imports no Keras."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path(os.path.expanduser("~")) / ".keras")  # noqa: PTH111
    try:
        settings = json.loads((home / "keras.json").read_text(encoding="utf-8"))
        return {name: settings[name] for name, usual in _KERAS.items() if settings.get(name, usual) != usual}
    except (OSError, ValueError, AttributeError, TypeError):  # Keras goes on without a file that it can't read.
        return {}


def _set_keras_defaults() -> None:
    """Gives Keras its own defaults where `keras.json` has changed them."""
    try:
        import keras
    except ValueError as error:
        raise TrainingError(f"keras.json is refused by Keras: {first_line(error)}; mend or delete it") from None
    keras.config.set_floatx(_KERAS["floatx"])
    keras.config.set_epsilon(_KERAS["epsilon"])
    keras.config.set_image_data_format(_KERAS["image_data_format"])


def _set_threads(intra_op: int, inter_op: int) -> None:
    """Sets the numbers of threads; TensorFlow takes them only before its runtime starts."""
    import tensorflow as tf

    for wanted, now, assign in (
        (
            intra_op,
            tf.config.threading.get_intra_op_parallelism_threads,
            tf.config.threading.set_intra_op_parallelism_threads,
        ),
        (
            inter_op,
            tf.config.threading.get_inter_op_parallelism_threads,
            tf.config.threading.set_inter_op_parallelism_threads,
        ),
    ):
        if wanted and wanted != now():
            try:
                assign(wanted)
            except RuntimeError:
                name = assign.__name__.removeprefix("set_").removesuffix("_parallelism_threads")
                raise TrainingError(_RUNS_ALREADY.format(f"{name}_threads={wanted}"), exit_code=2) from None


def load_dataset(
    config: flags.Data, progress: str = "auto", *, task: str = "auto", preprocessing: dict[str, Any] | None = None
) -> Dataset:
    """The dataset that the flags name. Its progress, its remarks and what TFDS prints go to stderr.

    Args:
      progress: `--progress`. Bars are shown only for `auto`, and only on a terminal.
      task: `--task`, which tells how labels are read.
      preprocessing: what a run has learned of its texts or tables; None to learn it from the training split.
    """
    from loopwright import data
    from loopwright.trainer.commands.data_progress import DataProgress

    if config.data_dir is None and "TFDS_DATA_DIR" not in os.environ and not has_home():
        raise flags.UsageError(
            "--data_dir: no home folder is known for ~/tensorflow_datasets; set HOME, or give --data_dir"
        )

    with contextlib.redirect_stdout(sys.stderr):
        return data.load(
            config.dataset,
            data_dir=config.data_dir,
            manual_dir=config.manual_dir,
            download=config.download,
            train_split=config.train_split,
            eval_split=config.eval_split,
            feed=config.feed,
            memory_budget=None if config.memory_budget is None else int(config.memory_budget * 1e9),
            prepare_array_record=config.prepare_array_record,
            input_key=config.input_key,
            label_key=config.label_key,
            weight_key=config.weight_key,
            image_size=flags.checks.image_size(config.image_size),
            task="auto" if ":" in task else task,
            vocabulary=config.vocabulary,
            sequence_length=config.sequence_length,
            tokens=config.tokens,
            columns=config.columns,
            preprocessing=preprocessing,
            max_bad_records=config.max_bad_records,
            progress=DataProgress(moves=progress == "auto"),
            say=lambda line: say(flags.as_flags(line)),
        )


@contextlib.contextmanager
def bad_samples_named(dataset: Dataset, feed: object, step: Callable[[], int], *, ahead: int = 0) -> Iterator[None]:
    """Turns TensorFlow's error about a sample of a feed into an error that names the sample.

    The sample belongs to a step near `step()`, or to one of the `ahead` steps after it.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        steps = range(step(), step() + ahead + 1, 100)
        found = next(filter(None, (dataset.explain(feed, step) for step in steps)), None)
        if found is None:
            raise
        raise found from error


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Hides what TensorFlow's C++ side prints while it starts, unless the start fails.

    If the user has set TF_CPP_MIN_LOG_LEVEL, everything is shown.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
