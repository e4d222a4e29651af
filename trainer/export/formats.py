"""Exports in every format. A new process loads each export and compares it with the live model before it gets its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base import atomic
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.lock import in_turn
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.base.say import say
from loopwright.trainer.core.optimizers import averaged_weights
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import new_process, open_export
from loopwright.trainer.export.functional import NotRebuildable
from loopwright.trainer.export.h5_writer import export_h5, export_keras, export_weights
from loopwright.trainer.export.same_training import check_same_training
from loopwright.trainer.export.serving import Serving, Unwritable, write_litert, write_saved_model

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
      samples: real inputs `[N, ...]`, on which the exports are compared; a dict of arrays by name for several inputs.
      input_name, output_name: the names of a single input, and of a single output, in the SavedModel's signatures.
      class_names: stored in the manifest, and as an asset of the SavedModel.
      include_preprocessing: SavedModel and LiteRT take uint8 images and scale them, if the model was trained on scaled ones.
      scaled: whether the model was trained on images that were scaled to [0, 1].
      preprocessing: None, or what made the samples out of `raw`, strings `[N]` or a dict of columns. The SavedModel then
        takes raw inputs.
      loss, metrics, facts: passed to `export_h5`. SavedModel and LiteRT hold the facts, too.
    """

    state: TrainState
    samples: Any
    input_name: str = "inputs"
    output_name: str = "outputs"
    class_names: Sequence[str] = ()
    include_preprocessing: bool = False
    scaled: bool = True
    preprocessing: Any = None
    raw: Any = None
    loss: Any = None
    metrics: Sequence[Any] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def pixels(self) -> bool:
        """Whether SavedModel and LiteRT take uint8 images."""
        return self.include_preprocessing and self.preprocessing is None

    @property
    def images(self) -> Any:
        """The samples as uint8, as they were before scaling."""
        factor = 255 if self.scaled else 1
        return tf.nest.map_structure(lambda part: np.rint(part * factor).astype(np.uint8), self.samples)

    @property
    def input_specs(self) -> Any:
        """What a sample of the model's inputs is."""
        return tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape[1:], part.dtype), self.samples)

    @property
    def rows(self) -> int:
        return len(tf.nest.flatten(self.samples)[0])

    def serving(self) -> Serving:
        factor = np.float32(1 / 255 if self.scaled else 1)
        return Serving(
            self.state.model,
            tf.nest.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), self.input_specs),
            self.input_name,
            self.output_name,
            factor if self.pixels else None,
            self.preprocessing,
            self.class_names,
            self.facts,
        )


def export_all(
    export: Export,
    folder: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    say: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Writes the formats into `folder`, checks all of them, writes the manifest and returns it.

    Older exports stay whole until every new export has passed its check. `say` is given a line about a format that can't
    hold the model; the others are written.

    Raises TrainingError if no format can hold the model, and for an export that can't be loaded again, or whose outputs
    differ from the live model's.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with in_turn(folder):
        return _export_all(export, folder, formats, say)


def _export_all(
    export: Export, folder: pathlib.Path, formats: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    atomic.sweep(folder)
    staging = folder / f".tmp-{os.getpid()}-staging"
    staging.mkdir()
    try:
        written = _write_all(export, staging, formats, say)
        differences = _compare(export, staging, written)
        for name in written:
            atomic.move_into_place(staging / FORMATS[name], folder / FORMATS[name])
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # the next export sweeps any rest
    manifest = read_exports_manifest(folder) | {"schema": atomic.SCHEMA}
    for name in written:
        of_outputs = {"inputs": _takes(export, name), "outputs": export.output_name}
        checked = {"largest_difference": differences[name], "samples": export.rows}
        entry = _entry(folder / FORMATS[name], name, int(export.state.step), export.class_names)
        of_run = {"identity": export.facts.get("identity", {})}
        manifest["files"][FORMATS[name]] = entry | of_outputs | of_run | checked
    atomic.replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_all(export: Export, staging: pathlib.Path, formats: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Writes the formats that can hold the model, and returns them. Raises TrainingError if there are none."""
    refusals: list[str] = []
    written = []
    for name in formats:
        try:
            _write(export, name, staging / FORMATS[name])
        except (NotRebuildable, Unwritable) as error:
            refusals.append(" ".join(str(error).split()))
        else:
            written.append(name)
    if not written:
        raise TrainingError("; ".join(refusals))
    for line in refusals:
        say(line)
    return written


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
    rows, dtypes = len(tf.nest.flatten(inputs)[0]), tf.nest.map_structure(lambda part: part.dtype.name, inputs)
    input_shape = _with_dtypes(input_shape, inputs)
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
        manifest["files"][path.name] = entry | {"inputs": dtypes, "outputs": output_name} | checked
        atomic.replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder / path.name


def _with_dtypes(shape: Any, inputs: Any) -> Any:
    """The specs of samples of these shapes, with the types of real inputs. None stays None."""
    if shape is None:
        return None
    if isinstance(shape, Mapping):
        return {name: _with_dtypes(part, inputs[name]) for name, part in shape.items()}
    return tf.TensorSpec(shape, inputs.dtype)


def _entry(path: pathlib.Path, name: str, step: int, class_names: Sequence[str]) -> dict[str, Any]:
    """What the manifest says about every file."""
    facts = {"format": name, "step": step, **_fingerprint(path), "class_names": list(class_names)}
    return facts | {"tensorflow": tf.__version__, "keras": keras.__version__}


def _write(export: Export, name: str, path: pathlib.Path) -> None:
    state = export.state
    if name in _EXACT:
        export_one = {"h5": export_h5, "keras": export_keras}[name]
        export_one(state, path, export.input_specs, loss=export.loss, metrics=export.metrics, facts=export.facts)
        return
    write = {"saved_model": write_saved_model, "litert": write_litert}[name]
    with averaged_weights(state.model, state.optimizer), tempfile.TemporaryDirectory() as scratch:
        write(export.serving(), path, pathlib.Path(scratch))


def _takes(export: Export, name: str) -> Any:
    """What a format takes: the type of its input, or the types of its inputs by name."""
    if name == "saved_model" and export.preprocessing is not None:
        return tf.nest.map_structure(lambda spec: spec.dtype.name, export.preprocessing.raw_specs)
    if export.pixels and name not in _EXACT:
        return tf.nest.map_structure(lambda part: "uint8", export.samples)
    return tf.nest.map_structure(lambda part: np.dtype(part.dtype).name, export.samples)


def _compare(export: Export, staging: pathlib.Path, formats: Sequence[str]) -> dict[str, float]:
    """The largest difference between each format's outputs in a new process and the live model's outputs."""
    new_process.give(staging, "samples", export.samples)
    if export.pixels:
        new_process.give(staging, "images", export.images)
    if export.preprocessing is not None:
        new_process.give(staging, "raw", export.raw)
    asked = [question for name in formats for question in _questions(export, name)]
    (staging / open_export.REQUEST).write_text(json.dumps(asked), encoding="utf-8")
    model = export.state.model
    first = tf.nest.map_structure(lambda part: part[:1], export.samples)
    with averaged_weights(model, export.state.optimizer):
        live = {part: _flat(model(x, training=False)) for part, x in (("all", export.samples), ("one", first))}
    with new_process.started(open_export.__name__, str(staging)) as process:
        failure = new_process.failure(process)
    if failure is not None:
        raise TrainingError(f"an export can't be loaded again, so no file is replaced: {failure}")
    scales = np.array([max(1.0, float(np.abs(part).max())) for part in live["all"]])
    mixed = model.dtype_policy.compute_dtype != "float32" or any(
        getattr(layer, "compute_dtype", "float32") != "float32" for layer in model.layers
    )
    differences = {}
    for name in formats:
        answers = [question["answer"] for question in _questions(export, name)]
        found = [
            _differences(name, _flat(new_process.taken(staging, f"{answer}.{part}")), expected)
            for answer in answers
            for part, expected in live.items()
        ]
        by_output = np.max(found, axis=0)  # a NaN stays a NaN
        differences[name] = float(np.max(by_output))
        allowed = scales * (0.0 if name in _EXACT else _TOLERANCE["mixed" if mixed else "float32"])
        wrong = ~(by_output <= allowed)
        if wrong.any():
            worst = int(wrong.argmax())
            raise TrainingError(
                f"format {name}: its outputs differ by {by_output[worst]:.3g} from the live model's outputs, and at most "
                f"{allowed[worst]:.3g} is allowed, so no file is replaced"
            )
    return differences


def _questions(export: Export, name: str) -> list[dict[str, Any]]:
    """What the new process is asked about a format: the file, what it is run on, and the name of the answer."""
    samples = "images" if export.pixels and name not in _EXACT else "samples"
    found = [{"file": FORMATS[name], "samples": samples, "raw": False, "answer": f"{name}.{samples}"}]
    if name == "saved_model" and export.preprocessing is not None:
        found.append({"file": FORMATS[name], "samples": "raw", "raw": True, "answer": f"{name}.raw"})
    return found


def _flat(outputs: Any) -> list[np.ndarray]:
    """Outputs as arrays: the only one, or those of a dict in the order of their names."""
    return [np.asarray(part) for part in tf.nest.flatten(outputs)]


def _differences(name: str, found: list[np.ndarray], live: list[np.ndarray]) -> list[float]:
    """The largest difference of each output."""
    if [part.shape for part in found] != [part.shape for part in live]:
        raise TrainingError(
            f"format {name}: it gives outputs of other shapes than the live model, so no file is replaced"
        )
    return [float(np.abs(one - other).max()) for one, other in zip(found, live, strict=True)]


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
