"""What every command needs first: TensorFlow, set up as the flags say, and the dataset that they name."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import absl.logging

from loopwright import flags
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.say import say

if TYPE_CHECKING:
    from loopwright.data import Dataset


def start_tensorflow(
    *, deterministic: bool = False, intra_op_threads: int = 0, inter_op_threads: int = 0, onednn: str = "auto"
) -> None:
    """Imports TensorFlow and Keras quietly, lets GPU memory grow, and sets kernels, threads and deterministic ops.

    Raises TrainingError (exit 2) if KERAS_BACKEND names another backend.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise TrainingError(f"KERAS_BACKEND={backend}: this program needs tensorflow; unset it", exit_code=2)
    if onednn != "auto":
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn == "on"))  # TensorFlow reads it when it is imported
    with _quiet_start():
        import tensorflow as tf

        _set_threads(intra_op_threads, inter_op_threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.constant(0)  # Starts the runtime, so that the rest of its messages comes inside the block.
    absl.logging.set_verbosity(absl.logging.ERROR)  # without the deprecation warnings of TFDS and Keras
    if deterministic:
        tf.config.experimental.enable_op_determinism()


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
            assign(wanted)


def load_dataset(config: flags.Data, progress: str = "auto") -> Dataset:
    """The dataset that the flags name. Its progress, its remarks and what TFDS prints go to stderr.

    `progress` is `--progress`. Bars are shown only for `auto`, and only on a terminal.
    """
    from loopwright import data
    from loopwright.trainer.commands.data_progress import DataProgress

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
