"""Exports in every format. A new process loads each export and compares it with the live model before it gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base import atomic
from loopwright.trainer.base.errors import TrainingError, first_line, reason
from loopwright.trainer.base.lock import in_turn
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.base.say import say
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import new_process, open_export
from loopwright.trainer.export.h5_writer import export_h5, export_keras, export_weights
from loopwright.trainer.export.same_training import check_same_training

#: The formats, and the name of each one's file or folder.
FORMATS = {"h5": "model.h5", "keras": "model.keras", "saved_model": "saved_model", "litert": "model.tflite"}
MANIFEST = "manifest.json"

_EXACT = ("h5", "keras")  # they run the same kernels on the same numbers
_TOLERANCE = {"float32": 1e-5, "mixed": 5e-2}


@dataclasses.dataclass(frozen=True, eq=False)
class Export:
    """What is exported, and how it is served.

    Attributes:
      state: the model and the optimizer. If the optimizer averages weights, the averages are exported.
      samples: real inputs `[N, ...]` float32, on which the exports are compared.
      input_name, output_name: the names in the SavedModel's signature `serving_default`.
      class_names: stored in the manifest, and as an asset of the SavedModel.
      include_preprocessing: SavedModel and LiteRT take uint8 images and scale them, if the model was trained on scaled ones.
      scaled: whether the model was trained on images that were scaled to [0, 1].
      loss, metrics, facts: passed to `export_h5`.
    """

    state: TrainState
    samples: np.ndarray
    input_name: str = "inputs"
    output_name: str = "outputs"
    class_names: Sequence[str] = ()
    include_preprocessing: bool = False
    scaled: bool = True
    loss: Any = None
    metrics: Sequence[Any] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.samples.shape[1:]

    @property
    def images(self) -> np.ndarray:
        """The samples as uint8, as they were before scaling."""
        return np.rint(self.samples * (255 if self.scaled else 1)).astype(np.uint8)


def export_all(export: Export, folder: str | os.PathLike[str], formats: Sequence[str]) -> dict[str, Any]:
    """Writes the formats into `folder`, checks all of them, writes the manifest and returns it.

    Older exports stay whole until every new export has passed its check.

    Raises TrainingError for a format that can't be written or loaded again, or whose outputs differ from the live model's.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with in_turn(folder):
        return _export_all(export, folder, formats)


def _export_all(export: Export, folder: pathlib.Path, formats: Sequence[str]) -> dict[str, Any]:
    atomic.sweep(folder)
    staging = folder / f".tmp-{os.getpid()}-staging"
    staging.mkdir()
    try:
        for name in formats:
            _write(export, name, staging / FORMATS[name])
        differences = _compare(export, staging, formats)
        for name in formats:
            atomic.move_into_place(staging / FORMATS[name], folder / FORMATS[name])
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # the next export sweeps any rest
    manifest = read_exports_manifest(folder) | {"schema": atomic.SCHEMA}
    for name in formats:
        of_outputs = {"inputs": "uint8" if _raw(export, name) else "float32", "outputs": export.output_name}
        checked = {"largest_difference": differences[name], "samples": len(export.samples)}
        entry = _entry(folder / FORMATS[name], name, int(export.state.step), export.class_names)
        of_run = {"identity": export.facts.get("identity", {})}
        manifest["files"][FORMATS[name]] = entry | of_outputs | of_run | checked
    atomic.replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def export_trained(
    state: TrainState,
    folder: str | os.PathLike[str],
    inputs: Any,
    input_shape: Any,
    *,
    output_name: str = "outputs",
    class_names: Sequence[str] = (),
    say: Callable[[str], None] = say,
    **options: Any,
) -> pathlib.Path:
    """Writes the file from which training goes on, and returns its path: the first kind that holds the model.

    That is `model.h5`, otherwise `model.keras`, otherwise `model.weights.h5`. A new process loads each of the first two and
    compares outputs and gradients before the file gets its name. `say` is given a line about a kind that isn't written.

    Args:
      inputs: a few real inputs of the model, a tensor or a dict of tensors by name.
      options: `loss`, `metrics` and `facts`, passed to `export_h5`.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(tf.nest.flatten(inputs)[0])
    with in_turn(folder):
        atomic.sweep(folder)
        staging = folder / f".tmp-{os.getpid()}-staging"
        staging.mkdir()
        try:
            for name, write in (("h5", export_h5), ("keras", export_keras)):
                path = staging / FORMATS[name]
                try:
                    write(state, path, input_shape, **options)
                    difference: float | None = check_same_training(state, path, inputs, input_shape)
                except TrainingError as error:
                    say(" ".join(str(error).split()))
                else:
                    break
            else:
                name, difference, rows = "weights", None, 0
                path = export_weights(state, staging / "model.weights.h5", facts=options.get("facts"))
            atomic.move_into_place(path, folder / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # the next export sweeps any rest
        manifest = read_exports_manifest(folder) | {"schema": atomic.SCHEMA}
        entry = _entry(folder / path.name, name, int(state.step), class_names)
        checked = {
            "largest_difference": difference,
            "samples": rows,
            "identity": options.get("facts", {}).get("identity", {}),
        }
        manifest["files"][path.name] = entry | {"inputs": "float32", "outputs": output_name} | checked
        atomic.replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder / path.name


def _entry(path: pathlib.Path, name: str, step: int, class_names: Sequence[str]) -> dict[str, Any]:
    """What the manifest says about every file."""
    facts = {"format": name, "step": step, **_fingerprint(path), "class_names": list(class_names)}
    return facts | {"tensorflow": tf.__version__, "keras": keras.__version__}


def _write(export: Export, name: str, path: pathlib.Path) -> None:
    state = export.state
    if name in _EXACT:
        export_one = {"h5": export_h5, "keras": export_keras}[name]
        export_one(state, path, export.input_shape, loss=export.loss, metrics=export.metrics, facts=export.facts)
        return
    with averaged_weights(state.model, state.optimizer), tempfile.TemporaryDirectory() as scratch:
        served = _Served(export, pathlib.Path(scratch))
        if name == "saved_model":
            _write_saved_model(served, path)
        else:
            with _computing_in_float32(state.model):
                _write_litert(served, path)


class _Served(tf.Module):
    """The model with one named input and one named output, for a batch of any size."""

    def __init__(self, export: Export, scratch: pathlib.Path) -> None:
        super().__init__()
        model = export.state.model
        self.of_model = [variable.value for variable in model.variables]
        if export.class_names:
            names = scratch / "class_names.txt"
            names.write_text("".join(f"{name}\n" for name in export.class_names), encoding="utf-8")
            self.class_names = tf.saved_model.Asset(str(names))
        dtype = tf.uint8 if export.include_preprocessing else tf.float32
        spec = tf.TensorSpec([None, *export.input_shape], dtype, name=export.input_name)

        def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            factor = np.float32(1 / 255 if export.scaled else 1)
            scaled = tf.cast(inputs, tf.float32) * factor if dtype == tf.uint8 else inputs
            return {export.output_name: tf.cast(model(scaled, training=False), tf.float32)}

        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


@contextlib.contextmanager
def _computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Inside the block, the model computes in float32, because LiteRT has no convolutions in half precision.

    The variables are float32 under mixed precision, too.
    """
    policies = [(layer, layer.dtype_policy) for layer in model._flatten_layers(include_self=True)]
    for layer, _ in policies:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


def _write_saved_model(served: _Served, path: pathlib.Path) -> None:
    try:
        tf.saved_model.save(served, str(path), signatures={"serving_default": served.serve})
    except tf.errors.OpError as error:  # a full disk
        raise TrainingError(f"{path} can't be written ({reason(error)})") from error


def _write_litert(served: _Served, path: pathlib.Path) -> None:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([served.serve.get_concrete_function()], served)
    try:
        path.write_bytes(converter.convert())
    except Exception as error:  # the converter raises many kinds of errors
        raise TrainingError(f"format litert: the model can't be converted ({first_line(error)})") from error


def _compare(export: Export, staging: pathlib.Path, formats: Sequence[str]) -> dict[str, float]:
    """The largest difference between each format's outputs in a new process and the live model's outputs."""
    np.save(staging / "samples.npy", export.samples)
    np.save(staging / "images.npy", export.images if export.include_preprocessing else export.samples)
    request = {FORMATS[name]: "images.npy" if _raw(export, name) else "samples.npy" for name in formats}
    (staging / open_export.REQUEST).write_text(json.dumps(request), encoding="utf-8")
    model = export.state.model
    with averaged_weights(model, export.state.optimizer):
        live = {part: np.asarray(model(x, training=False)) for part, x in _parts(export.samples)}
    with new_process.started(open_export.__name__, str(staging)) as process:
        failure = new_process.failure(process)
    if failure is not None:
        raise TrainingError(f"an export can't be loaded again, so no file is replaced: {failure}")
    differences = {}
    for name in formats:
        with np.load(staging / f"{FORMATS[name]}.outputs.npz") as found:
            differences[name] = max(float(np.abs(found[part] - live[part]).max()) for part in ("all", "one"))
        largest = max(1.0, float(np.abs(live["all"]).max()))
        mixed = model.dtype_policy.compute_dtype != "float32" or any(
            getattr(layer, "compute_dtype", "float32") != "float32" for layer in model.layers
        )
        allowed = 0.0 if name in _EXACT else largest * _TOLERANCE["mixed" if mixed else "float32"]
        if not differences[name] <= allowed:
            raise TrainingError(
                f"format {name}: its outputs differ by {differences[name]:.3g} from the live model's outputs, and at most "
                f"{allowed:.3g} is allowed, so no file is replaced"
            )
    return differences


def _parts(samples: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [("all", samples), ("one", samples[:1])]


def _raw(export: Export, name: str) -> bool:
    return export.include_preprocessing and name not in _EXACT


def read_exports_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an exports folder so far, without entries whose files are gone. It is empty if it can't be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest["files"] = {name: entry for name, entry in manifest["files"].items() if (folder / name).exists()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"files": {}}
    return manifest


def _fingerprint(path: pathlib.Path) -> dict[str, Any]:
    """The bytes and SHA-256 of a file, or of all files in a folder in order, with their names."""
    files = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        digest.update(file.read_bytes())
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": digest.hexdigest()}
