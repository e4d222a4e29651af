"""Fixtures: tiny data and models that train in milliseconds, and mnist_5k prepared once for all workers."""

import fcntl
import gc
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_runtest_setup() -> None:
    """Frees what the test before left, and keeps what is left then out of the next collections.

    TensorFlow frees graphs in a time that grows with the square of their number: left to themselves, they'd make one
    collection in hundreds of tests take minutes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nondeterministic_again() -> Iterator[None]:
    """Some commands make ops deterministic, which has no public way back: kernels then give other bits than in a new
    process, and Keras leaves XLA out of `fit`."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config

        config.disable_op_determinism()


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the sources."""
    return pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[..., pathlib.Path]:
    """`once(name, fill)`: a folder that one of pytest-xdist's workers fills while the others wait for it."""

    def make(name: str, fill: Callable[[pathlib.Path], None]) -> pathlib.Path:
        base = tmp_path_factory.getbasetemp()
        shared = base if worker_id == "master" else base.parent
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                filling = shared / f"{name}.filling"
                shutil.rmtree(filling, ignore_errors=True)  # of a test that failed to fill it, and says so
                filling.mkdir()
                fill(filling)
                filling.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def installed() -> tuple[str, dict[str, str]]:
    """The console script, and an environment in which it keeps what TensorFlow says to itself."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return str(pathlib.Path(sys.executable).with_name("loopwright")), environment


@pytest.fixture(scope="session")
def mnist_dir(once: Callable[..., pathlib.Path]) -> pathlib.Path:
    """A data_dir with mnist_5k, prepared once for all tests."""
    from loopwright import data

    return once("tfds", lambda folder: data.load("mnist_5k", data_dir=str(folder)))


@pytest.fixture(scope="session")
def make_feed() -> Callable[..., Any]:
    """`make_feed(samples=70, batch_size=16)`: random uint8 images 8x8 of three classes; the last batch of 70 is ragged."""
    import numpy as np

    from loopwright.data.feed import array_feed

    def make(samples: int = 70, batch_size: int = 16, side: int = 8, **options: Any) -> Any:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (samples, side, side, 1), np.uint8)
        return array_feed(x, rng.integers(0, 3, samples), batch_size=batch_size, **options)

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(dropout=True)`: a convolution, batch norm and dropout, giving logits for 8x8 images of three classes."""
    import keras
    from keras import layers

    def make(dropout: bool = True) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, activation="relu", name="conv"),
                layers.BatchNormalization(name="norm"),
                layers.Dropout(0.5 if dropout else 0.0, name="dropout"),
                layers.Flatten(name="flatten"),
                layers.Dense(3, dtype="float32", name="dense"),
            ],
            name="tiny",
        )

    return make


@pytest.fixture(scope="session")
def make_state(tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """`make_state()`: the tiny model with Adam, always from the same seed; `model` is a function that builds another."""
    import keras

    from loopwright import trainer

    def make(
        model: Callable[[], Any] = tiny_model,
        optimizer: str = "adam",
        learning_rate: Any = 1e-3,
        precision: str = "float32",
        **options: Any,
    ) -> trainer.TrainState:
        keras.utils.clear_session(free_memory=False)  # names as in a new process
        keras.utils.set_random_seed(0)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            network = model()
        finally:
            keras.config.set_dtype_policy(before)
        return trainer.TrainState.create(
            network,
            trainer.make_optimizer(optimizer, learning_rate, weight_decay=0.01, precision=precision),
            **options,
        )

    return make


@pytest.fixture(scope="session")
def objective() -> Any:
    """Cross-entropy and accuracy over the tiny model's logits."""
    from loopwright import trainer

    return trainer.classification(from_logits=True)
