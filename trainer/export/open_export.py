"""Opens exported models as functions of a batch.

As a program, this module is the new process in which `formats.export_all` loads its exports to compare them:

    python -m loopwright.trainer.export.open_export FOLDER
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.export import h5_reader, new_process, safe_load

REQUEST = "request.json"
#: Where a SavedModel and a LiteRT file hold the facts about the run: a file among the assets, and a member of the archive
#: that follows the model.
FACTS_ASSET, FACTS_MEMBER = "facts.json", "loopwright.json"
#: The signature of a SavedModel that takes what the preprocessing gives. `serving_default` takes raw inputs then.
PREPROCESSED = "preprocessed"

_MOST_BYTES_OF_FACTS = 64 << 20


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model from a file. Several inputs or outputs are dicts by name.

    Attributes:
      call: computes outputs `[N, ...]` float32 from inputs `[N, ...]` of `dtype`.
      input_shape: the shape of one sample, without the batch.
      dtype: `float32` for scaled samples, `uint8` for images before scaling, `int32` for token ids.
      class_names: empty if the file doesn't have them.
      probabilities: whether the outputs are probabilities; False for logits, None if the file doesn't say.
      model: the Keras model of an `.h5` or `.keras` file.
      facts: what the file says of its run; empty if it says nothing.
      call_raw: computes outputs from strings, or from columns by name. None if the file holds no preprocessing.
    """

    call: Callable[[Any], Any]
    input_shape: Any
    dtype: Any = "float32"
    class_names: tuple[str, ...] = ()
    probabilities: bool | None = None
    model: Any = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call_raw: Callable[[Any], Any] | None = None


def open_export(path: str | os.PathLike[str], *, trust: bool = False) -> OpenedModel:
    """Opens the model in an `.h5`, `.keras` or `.tflite` file or a SavedModel folder.

    A SavedModel is a program that can read and write files, so it is opened with `trust=True` only.

    Raises TrainingError for any other file, a refused file, and a file that can't be loaded.
    """
    path = local_path(path)
    if path.is_dir():
        return _saved_model(path, trust)
    return _litert(path) if path.suffix == ".tflite" else _keras(path, trust)


def read_facts(path: pathlib.Path) -> dict[str, Any]:
    """What an export itself says of its run; empty if it says nothing. No model is loaded."""
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, TrainingError):
        if path.is_dir():
            return dict(json.loads((path / "assets" / FACTS_ASSET).read_text(encoding="utf-8")))
        if path.suffix != ".tflite":
            return h5_reader.read_facts(path)
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(FACTS_MEMBER).file_size <= _MOST_BYTES_OF_FACTS:
                return dict(json.loads(archive.read(FACTS_MEMBER)))
    return {}


def signature_names(names: Iterable[str]) -> dict[str, str]:
    """The names under which a signature holds inputs or outputs: ASCII letters, digits and underscores alone."""
    found: dict[str, str] = {}
    for name in names:
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
        wanted = plain if plain[:1].isalpha() else f"x{plain}"
        while wanted in found.values():
            wanted += "_"
        found[name] = wanted
    return found


def _keras(path: pathlib.Path, trust: bool) -> OpenedModel:
    model = safe_load.load_model(path, trust=trust)
    given, made = (_parts(model, name) for name in ("inputs", "outputs"))
    if (not isinstance(given, dict) and len(given) != 1) or (not isinstance(made, dict) and len(made) != 1):
        raise TrainingError(
            f"{path} has {len(given)} inputs and {len(made)} outputs without names; a model with one input and one output, "
            "or with dicts of them, is needed"
        )
    shapes = {name: tuple(part.shape[1:]) for name, part in given.items()} if isinstance(given, dict) else {}

    def call(x: Any) -> Any:
        if isinstance(given, dict) and not isinstance(x, Mapping):
            x = {next(iter(given)): x}
        outputs = model(x, training=False)
        if isinstance(outputs, Mapping) and len(outputs) > 1:
            return {name: np.asarray(part) for name, part in outputs.items()}
        return np.asarray(tf.nest.flatten(outputs)[0])

    if len(shapes) > 1:
        return OpenedModel(call, shapes, dict.fromkeys(shapes, "float32"), model=model, facts=read_facts(path))
    shape = next(iter(shapes.values())) if shapes else tuple(given[0].shape[1:])
    return OpenedModel(call, shape, model=model, facts=read_facts(path))


def _parts(model: Any, kind: str) -> Any:
    """The inputs or outputs of a Functional or Sequential model: a dict by name, or a list."""
    struct = getattr(model, f"_{kind}_struct", None)
    return struct if isinstance(struct, dict) else list(getattr(model, kind, None) or [])


def _saved_model(path: pathlib.Path, trust: bool) -> OpenedModel:
    if not (path / "saved_model.pb").is_file():
        raise TrainingError(f"{path} isn't a SavedModel: saved_model.pb is missing")
    if not trust:
        raise safe_load.Refused(
            f"{path}: a SavedModel is a program that may read and write files; if you know who made it, give trust=True"
        )
    facts = read_facts(path)
    names = {**facts.get("signature_names", {})}
    try:
        loaded = tf.saved_model.load(str(path))
        raw = loaded.signatures["serving_default"] if PREPROCESSED in loaded.signatures else None
        signature = loaded.signatures["serving_default" if raw is None else PREPROCESSED]
        specs = {_own_name(name, names): spec for name, spec in signature.structured_input_signature[1].items()}
        outputs = list(signature.structured_outputs)
        if not specs or not outputs:
            raise ValueError("its signature has no inputs or no outputs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, tf.errors.OpError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error
    asset = getattr(loaded, "class_names", None)
    classes = pathlib.Path(asset.asset_path.numpy().decode()).read_text(encoding="utf-8").splitlines() if asset else ()
    return OpenedModel(
        _of_signature(signature, names),
        _one({name: tuple(spec.shape[1:]) for name, spec in specs.items()}),
        _one({name: spec.dtype.name for name, spec in specs.items()}),
        tuple(classes),
        {"probabilities": True, "logits": False}.get(outputs[0]),
        facts=facts,
        call_raw=None if raw is None else _of_signature(raw, names),
    )


def _of_signature(signature: Any, names: Mapping[str, str]) -> Callable[[Any], Any]:
    """A signature as a function of a batch: a tensor, or a dict of tensors by name."""
    ((*inputs,), outputs) = signature.structured_input_signature[1], signature.structured_outputs

    def call(x: Any) -> Any:
        by_name = {names.get(name, name): part for name, part in x.items()} if isinstance(x, Mapping) else {}
        given = by_name or {inputs[0]: x}
        found = signature(**{name: tf.convert_to_tensor(part) for name, part in given.items()})
        return _one({_own_name(name, names): found[name].numpy() for name in outputs})

    return call


def _own_name(name: str, names: Mapping[str, str]) -> str:
    """The name that an input or an output has in the model, by its name in a signature."""
    return next((own for own, given in names.items() if given == name), name)


def _one(parts: dict[str, Any]) -> Any:
    """The only part, or all parts by name."""
    return parts if len(parts) > 1 else next(iter(parts.values()))


def _litert(path: pathlib.Path) -> OpenedModel:
    facts = read_facts(path)
    names = {**facts.get("signature_names", {})}
    try:
        with warnings.catch_warnings(action="ignore"):  # the interpreter will move to another package
            interpreter = tf.lite.Interpreter(str(path))
        signatures = interpreter.get_signature_list()
        if len(signatures) == 1:
            return _of_runner(interpreter.get_signature_runner(next(iter(signatures))), names, facts)
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path} can't be loaded ({first_line(error)})") from error

    def call(x: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    return OpenedModel(call, _shape(given), np.dtype(given["dtype"]).name, facts=facts)


def _of_runner(runner: Any, names: Mapping[str, str], facts: Mapping[str, Any]) -> OpenedModel:
    """The model behind the signature of a LiteRT file."""
    details = runner.get_input_details()

    def call(x: Any) -> Any:
        given = {names.get(name, name): part for name, part in x.items()} if isinstance(x, Mapping) else None
        found = runner(**(given or {next(iter(details)): x}))
        return _one({_own_name(name, names): part for name, part in found.items()})

    return OpenedModel(
        call,
        _one({_own_name(name, names): _shape(detail) for name, detail in details.items()}),
        _one({_own_name(name, names): np.dtype(detail["dtype"]).name for name, detail in details.items()}),
        facts=facts,
    )


def _shape(detail: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(detail["shape_signature"][1:].tolist())


def _answer(folder: pathlib.Path) -> None:
    """Runs each export in the request on all its samples at once and on the first sample alone; writes the outputs."""
    for asked in json.loads((folder / REQUEST).read_text(encoding="utf-8")):
        opened, x = open_export(folder / asked["file"], trust=True), new_process.taken(folder, asked["samples"])
        call = opened.call_raw if asked["raw"] and opened.call_raw else opened.call
        first = tf.nest.map_structure(lambda part: part[:1], x)
        for part, given in (("all", x), ("one", first)):
            plain = given if asked["raw"] else tf.nest.map_structure(lambda tensor: tensor.numpy(), given)
            new_process.give(folder, f"{asked['answer']}.{part}", call(plain))


def main(argv: list[str]) -> Any:
    """Returns None, or one line about the failure."""
    try:
        return _answer(pathlib.Path(argv[0]))
    except TrainingError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
