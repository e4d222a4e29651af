"""Opens exported models as functions of a batch.

As a program, this module is the new process in which `formats.export_all` loads its exports to compare them:

    python -m loopwright.trainer.export.open_export FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.export import safe_load

REQUEST = "request.json"


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model from a file.

    Attributes:
      call: computes outputs `[N, classes]` float32 from inputs `[N, ...]` of `dtype`.
      input_shape: the shape of one sample, without the batch.
      dtype: `float32` for scaled samples, `uint8` for images before scaling.
      class_names: empty if the file doesn't have them.
      probabilities: whether the outputs are probabilities; False for logits, None if the file doesn't say.
      model: the Keras model of an `.h5` or `.keras` file.
    """

    call: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int, ...]
    dtype: str = "float32"
    class_names: tuple[str, ...] = ()
    probabilities: bool | None = None
    model: Any = None


def open_export(path: str | os.PathLike[str], *, trust: bool = False) -> OpenedModel:
    """Opens the model in an `.h5`, `.keras` or `.tflite` file or a SavedModel folder.

    A SavedModel is a program that can read and write files, so it is opened with `trust=True` only.

    Raises TrainingError for any other file, a refused file, and a file that can't be loaded.
    """
    path = local_path(path)
    if path.is_dir():
        return _saved_model(path, trust)
    return _litert(path) if path.suffix == ".tflite" else _keras(path, trust)


def _keras(path: pathlib.Path, trust: bool) -> OpenedModel:
    model = safe_load.load_model(path, trust=trust)
    given, made = (list(getattr(model, name, None) or []) for name in ("inputs", "outputs"))
    if len(given) != 1 or len(made) != 1:
        raise TrainingError(
            f"{path} has {len(given)} inputs and {len(made)} outputs; a model with one input and one output is needed"
        )

    def call(x: np.ndarray) -> np.ndarray:
        outputs = tf.nest.flatten(model(x, training=False))[0]
        return np.asarray(outputs)

    return OpenedModel(call, tuple(given[0].shape[1:]), model=model)


def _saved_model(path: pathlib.Path, trust: bool) -> OpenedModel:
    if not (path / "saved_model.pb").is_file():
        raise TrainingError(f"{path} isn't a SavedModel: saved_model.pb is missing")
    if not trust:
        raise safe_load.Refused(
            f"{path}: a SavedModel is a program that may read and write files; if you know who made it, give trust=True"
        )
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
        ((name, spec),) = signature.structured_input_signature[1].items()
        ((output, _),) = signature.structured_outputs.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, tf.errors.OpError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error
    asset = getattr(loaded, "class_names", None)
    names = pathlib.Path(asset.asset_path.numpy().decode()).read_text(encoding="utf-8").splitlines() if asset else ()
    return OpenedModel(
        lambda x: signature(**{name: tf.constant(x)})[output].numpy(),
        tuple(spec.shape[1:]),
        spec.dtype.name,
        tuple(names),
        {"probabilities": True, "logits": False}.get(output),
    )


def _litert(path: pathlib.Path) -> OpenedModel:
    try:
        with warnings.catch_warnings(action="ignore"):  # the interpreter will move to another package
            interpreter = tf.lite.Interpreter(str(path))
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error

    def call(x: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return OpenedModel(call, tuple(given["shape_signature"][1:].tolist()), np.dtype(given["dtype"]).name)


def _answer(folder: pathlib.Path) -> None:
    """Runs each export in the request on all its samples at once and on the first sample alone; writes the outputs."""
    for name, samples in json.loads((folder / REQUEST).read_text(encoding="utf-8")).items():
        predictor, x = open_export(folder / name, trust=True), np.load(folder / samples)
        np.savez(folder / f"{name}.outputs.npz", all=predictor.call(x), one=predictor.call(x[:1]))


def main(argv: list[str]) -> Any:
    """Returns None, or one line about the failure."""
    try:
        return _answer(pathlib.Path(argv[0]))
    except TrainingError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
