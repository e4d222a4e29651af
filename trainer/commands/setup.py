"""What every command needs first: a TensorFlow that is set up, and the parts that the flags name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import absl.logging

from loopwright import flags
from loopwright.trainer.errors import TrainingError

if TYPE_CHECKING:
    import keras

    from loopwright.data import Dataset
    from loopwright.trainer.execution import Execution
    from loopwright.trainer.objective import Objective
    from loopwright.trainer.state import TrainState
    from loopwright.trainer.step import GradientStep


def start_tensorflow(*, deterministic: bool = False, intra_op_threads: int = 0, inter_op_threads: int = 0) -> None:
    """Imports TensorFlow and Keras quietly, lets GPU memory grow, and sets threads and deterministic ops where asked.

    Raises TrainingError (exit 2) if KERAS_BACKEND names another backend.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise TrainingError(f"KERAS_BACKEND={backend}: this is for TensorFlow; unset it", exit_code=2)
    with _quiet_start():
        import tensorflow as tf

        _set_threads(intra_op_threads, inter_op_threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.constant(0)  # Starts the runtime, and with it the rest of its messages.
    absl.logging.set_verbosity(absl.logging.ERROR)  # TFDS and Keras warn of their own deprecations
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


def load_dataset(config: flags.Data) -> Dataset:
    """The dataset that the flags name; what TFDS prints on the way goes to stderr."""
    from loopwright import data

    with contextlib.redirect_stdout(sys.stderr):
        return data.load(
            config.dataset,
            data_dir=config.data_dir,
            manual_dir=config.manual_dir,
            download=config.download,
            train_split=config.train_split,
            eval_split=config.eval_split,
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What a command trains or evaluates: a fresh state, and the functions that go with it."""

    state: TrainState
    objective: Objective
    step: GradientStep


def build_job(
    model: flags.Model,
    optimization: flags.Optimization,
    dataset: Dataset,
    *,
    seed: int,
    total_steps: int,
    norms: bool = False,
) -> Job:
    """A fresh state, its objective and its step: the same seed gives the same weights.

    `total_steps` are batches. Raises UsageError for flags that contradict each other.
    """
    import keras

    from loopwright import models, trainer
    from loopwright.trainer.objective import make_metrics

    keras.utils.set_random_seed(seed)
    network = models.create(model.model, dataset.input_shape, dataset.num_classes, precision=model.precision)
    if model.freeze is not None:
        _freeze(network, model.freeze)
    try:
        schedule = trainer.make_schedule(
            optimization.schedule,
            optimization.learning_rate,
            warmup_steps=optimization.warmup_steps,
            total_steps=total_steps // optimization.gradient_accumulation,
            boundaries=[int(part) for part in (optimization.boundaries or "").split(",") if part],
            factor=optimization.decay_factor,
        )
        optimizer = trainer.make_optimizer(
            optimization.optimizer,
            schedule,
            momentum=optimization.momentum,
            weight_decay=optimization.weight_decay,
            clip_norm=optimization.clip_norm,
            clip_value=optimization.clip_value,
            ema_decay=optimization.ema_decay,
            precision=model.precision,
            model=network,
        )
        metrics = make_metrics([name.strip() for name in model.metrics.split(",")], dataset.num_classes)
    except ValueError as error:
        raise flags.UsageError(str(error)) from None
    objective = trainer.classification(
        from_logits=not models.ends_in_probabilities(model.model, network),
        label_smoothing=optimization.label_smoothing,
        metrics=metrics,
    )
    step = trainer.gradient_step(
        objective,
        accumulation=optimization.gradient_accumulation,
        norms=norms,
        scale_floor=optimization.loss_scale_floor,
    )
    state = trainer.TrainState.create(network, optimizer, metrics=metrics, extras=step.extras(network, optimizer))
    return Job(state, objective, step)


def make_execution(name: str, steps_per_call: int) -> Execution:
    """An execution by the name that --execution gives it."""
    from loopwright import trainer

    if name == "eager":
        return trainer.eager()
    return {"graph": trainer.graph, "xla": trainer.xla}[name](steps_per_call)


def _freeze(network: keras.Model, pattern: str) -> None:
    try:
        frozen = [v for v in network.trainable_variables if re.search(pattern, v.path)]
    except re.error as error:
        raise flags.UsageError(f"--freeze={pattern}: no regular expression ({error})") from None
    if not frozen or len(frozen) == len(network.trainable_variables):
        paths = ", ".join(v.path for v in network.trainable_variables)
        raise flags.UsageError(f"--freeze={pattern}: matches {len(frozen)} of these variables: {paths}")
    for variable in frozen:
        variable.trainable = False


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keeps what TensorFlow's C++ side says while it starts off the terminal, unless the start fails.

    TF_CPP_MIN_LOG_LEVEL, where the user has set it, lets everything through.
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
