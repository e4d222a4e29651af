"""Exports that serve: SavedModel and LiteRT, with named inputs and outputs, for a batch of any size."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loopwright.trainer.base.errors import TrainingError, first_line, reason
from loopwright.trainer.export.open_export import FACTS_ASSET, FACTS_MEMBER, PREPROCESSED, signature_names


class Unwritable(TrainingError):
    """A format that can't hold a model. The message is one line with the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Serving:
    """How a model is served.

    Attributes:
      model: with the weights that are served.
      specs: of a batch of its inputs: a TensorSpec, or a dict by name.
      input_name, output_name: the names in the signature of a single input, and of a single output.
      pixels: None, or the factor by which uint8 images are multiplied; the signature takes those then.
      preprocessing: None, or a `tf.Module` that makes the inputs out of raw ones, with `raw_specs`.
      class_names: stored as an asset of the SavedModel.
      facts: about the run, in types that JSON can hold, stored in the export.
    """

    model: keras.Model
    specs: Any
    input_name: str
    output_name: str
    pixels: np.float32 | None = None
    preprocessing: Any = None
    class_names: Sequence[str] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The specs by name, also of a single input."""
        return dict(self.specs) if isinstance(self.specs, Mapping) else {self.input_name: self.specs}

    @property
    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        specs = self.preprocessing.raw_specs
        return dict(specs) if isinstance(specs, Mapping) else {self.input_name: specs}

    @property
    def names(self) -> dict[str, str]:
        """The names of inputs and outputs in the signatures, by their own names."""
        raw = {} if self.preprocessing is None else self.raw_inputs
        outputs = getattr(self.model, "output_names", None) if _has_names(self.model) else None
        return signature_names(dict.fromkeys([*self.inputs, *raw, *(outputs or ()), self.output_name]))


def write_saved_model(serving: Serving, path: pathlib.Path, scratch: pathlib.Path) -> None:
    """Writes a SavedModel folder. `scratch` is a folder for the assets, which are copied.

    With a preprocessing, `serving_default` takes raw inputs, and a second signature what the preprocessing gives.
    """
    served = _Served(serving, scratch)
    signatures = {"serving_default": served.serve}
    if serving.preprocessing is not None:
        signatures = {"serving_default": served.serve_raw, PREPROCESSED: served.serve}
    try:
        tf.saved_model.save(served, str(path), signatures=signatures)
    except tf.errors.OpError as error:  # a full disk
        raise TrainingError(f"{path} can't be written ({reason(error)})") from error


def write_litert(serving: Serving, path: pathlib.Path, scratch: pathlib.Path) -> None:
    """Writes a LiteRT file, which takes no strings: its inputs are those of the model. Raises Unwritable."""
    with _computing_in_float32(serving.model):
        served = _Served(dataclasses.replace(serving, preprocessing=None), scratch)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([served.serve.get_concrete_function()], served)
        try:
            path.write_bytes(converter.convert())
        except OSError:
            raise
        except Exception as error:  # the converter raises many kinds of errors
            problem = re.sub(r"^\S+:\d+:\d+: error: ", "", first_line(error))  # without a place in Python's code
            raise Unwritable(f"format litert: the model can't be converted ({problem})") from error
    with zipfile.ZipFile(path, "a") as archive:  # LiteRT's own way to add files to a model
        archive.writestr(zipfile.ZipInfo(FACTS_MEMBER), _facts(serving))


class _Served(tf.Module):
    """The model as functions with named inputs and outputs."""

    def __init__(self, serving: Serving, scratch: pathlib.Path) -> None:
        super().__init__()
        self.of_model = [variable.value for variable in serving.model.variables]
        self.preprocessing = serving.preprocessing
        if serving.class_names:
            self.class_names = _asset(scratch / "class_names.txt", "".join(f"{name}\n" for name in serving.class_names))
        self.facts = _asset(scratch / FACTS_ASSET, _facts(serving))
        inputs = serving.inputs
        if serving.pixels is not None:
            inputs = {name: tf.TensorSpec(spec.shape, tf.uint8) for name, spec in inputs.items()}
        self.serve = _function(serving, inputs, lambda parts: _scaled(_one(serving.specs, parts), serving.pixels))
        if self.preprocessing is not None:
            raw, specs = serving.raw_inputs, serving.preprocessing.raw_specs
            self.serve_raw = _function(serving, raw, lambda parts: serving.preprocessing(_one(specs, parts)))


def _function(
    serving: Serving, specs: Mapping[str, tf.TensorSpec], prepare: Callable[[dict[str, tf.Tensor]], Any]
) -> Any:
    """The compiled function of a signature: the model on what `prepare` makes of the inputs by their own names."""
    names = serving.names

    def serve(given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = serving.model(prepare({name: given[names[name]] for name in specs}), training=False)
        if not isinstance(outputs, Mapping):
            outputs = {serving.output_name: tf.nest.flatten(outputs)[0]}
        named = signature_names(outputs)
        return {names.get(name, named[name]): tf.cast(part, tf.float32) for name, part in outputs.items()}

    signature = {names[name]: tf.TensorSpec(spec.shape, spec.dtype, names[name]) for name, spec in specs.items()}
    return tf.function(serve, input_signature=[signature], autograph=False)


def _has_names(model: keras.Model) -> bool:
    return isinstance(getattr(model, "_outputs_struct", None), dict)


def _one(structure: Any, parts: dict[str, tf.Tensor]) -> Any:
    """The parts as the structure has them: a dict, or a single one."""
    return parts if isinstance(structure, Mapping) else next(iter(parts.values()))


def _scaled(x: Any, factor: np.float32 | None) -> Any:
    if factor is None:
        return x
    return tf.nest.map_structure(lambda part: tf.cast(part, tf.float32) * factor, x)


def _facts(serving: Serving) -> str:
    return json.dumps({**serving.facts, "signature_names": serving.names}) + "\n"


def _asset(path: pathlib.Path, text: str) -> tf.saved_model.Asset:
    path.write_text(text, encoding="utf-8")
    return tf.saved_model.Asset(str(path))


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
