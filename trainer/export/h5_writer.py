"""Writes a trained model to a file that plain Keras reads and from which training can go on."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base import atomic
from loopwright.trainer.base.paths import local_path
from loopwright.trainer.core.optimizers import averaged_weights, inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export.functional import NotRebuildable, custom_classes, functional_twin, thawed
from loopwright.trainer.export.h5_reader import Arrays, is_from_keras, naming_disk_errors, optimizer_config, write_group
from loopwright.trainer.export.safe_load import CLASSES, TRAINING
from loopwright.trainer.export.weight_files import unstored

_ONLY_WEIGHTS = ".weights.h5"


def export_h5(
    source: TrainState | keras.Model,
    path: str | os.PathLike[str],
    input_shape: Any = None,
    *,
    loss: Any = None,
    metrics: Sequence[Any] = (),
    step: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes an `.h5` that `keras.models.load_model` reads and from which `load_h5` goes on; returns the path.

    If the optimizer averages weights, plain Keras gets the averages, which evaluation also uses, and `load_h5` gets the
    trained weights.

    Args:
      source: a state, or a built model. A model that `fit` trained is written with its optimizer.
      path: ends in `.h5`. An older file is replaced when the new file is whole.
      input_shape: for a subclassed model, the shape of one sample without the batch; None means the shape that the model
        was built with.
      loss, metrics: plain Keras compiles the loaded model with these, as `compile` takes them; None means those that the
        model was compiled with. A model without a loss is loaded uncompiled.
      step: the number of batches so far; None means the state's step or, for a model, the optimizer's count.
      facts: about the run, in types that JSON can hold. `h5_reader.read_facts` returns them.

    Raises ValueError for a different suffix, and NotRebuildable for a model that doesn't come back from the file as it is:
    a subclassed model whose `call` Keras can't trace, or one with an operation, an argument or a weight that this old kind
    of file loses. `export_keras` holds most of those.
    """
    path = local_path(path)
    if path.suffix not in (".h5", ".hdf5") or path.name.endswith(_ONLY_WEIGHTS):
        raise ValueError(f"path={path}: the name of a whole model must end in .h5, and not in .weights.h5")
    options = {"loss": loss, "metrics": metrics, "step": step, "facts": facts}
    return _export(source, path, lambda model: functional_twin(model, input_shape), **options)


def export_keras(
    source: TrainState | keras.Model,
    path: str | os.PathLike[str],
    input_shape: Any = None,
    *,
    loss: Any = None,
    metrics: Sequence[Any] = (),
    step: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a `.keras` that `keras.models.load_model` reads and from which `load_h5` goes on; returns the path.

    It holds models that `.h5` can't. Plain Keras loads the model of a state uncompiled. The arguments are those of
    `export_h5`. Raises ValueError for a different suffix, and NotRebuildable for a model that doesn't come back as it is.
    """
    path = local_path(path)
    if path.suffix != ".keras":
        raise ValueError(f"path={path}: the name must end in .keras")
    options = {"loss": loss, "metrics": metrics, "step": step, "facts": facts}
    return _export(source, path, lambda model: functional_twin(model, input_shape), **options)


def export_weights(
    source: TrainState | keras.Model,
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes only the weights, for `load_weights` of a model of the same class; returns the path.

    With a state, or a model that `fit` trained, `restore_h5` goes on from the file. If the optimizer averages weights,
    `load_weights` gets the averages.

    Args:
      path: ends in `.weights.h5`. The file's attribute `model_class` names the model's class as `module:Class`.
      step, facts: as for `export_h5`.

    Raises ValueError for a different suffix.
    """
    path = local_path(path)
    if not path.name.endswith(_ONLY_WEIGHTS):
        raise ValueError(f"path={path}: the name of a file of weights must end in {_ONLY_WEIGHTS}")
    return _export(source, path, lambda model: model, loss=None, metrics=(), step=step, facts=facts)


def _export(
    source: TrainState | keras.Model,
    path: pathlib.Path,
    twin_of: Callable[[keras.Model], keras.Model],
    *,
    loss: Any,
    metrics: Sequence[Any],
    step: int | None,
    facts: Mapping[str, Any] | None,
) -> pathlib.Path:
    """Writes Keras's own part of a file, and what training goes on with if the source has an optimizer."""
    state = source if isinstance(source, TrainState) else _state_of(source)
    model = source if state is None else state.model
    twin = twin_of(model)

    def write(temporary: pathlib.Path) -> None:
        if state is None:
            _write_keras(twin, model, temporary)
            return
        averages = inner_optimizer(state.optimizer).use_ema
        more: Arrays = {f"trained/{i}": np.array(v) for i, v in enumerate(twin.weights)} if averages else {}
        config = (
            None if temporary.name.endswith(_ONLY_WEIGHTS) else training_config(model, state.optimizer, loss, metrics)
        )
        with averaged_weights(model, state.optimizer):
            _write_keras(twin, model, temporary)
            more |= {f"weights/{i}": np.array(twin.weights[i]) for i in unstored(twin, temporary)}
            with _training_part(temporary) as file:
                if config is not None:
                    file.attrs["training_config"] = json.dumps(config)
                write_group(file, state, twin, facts or {}, more=more, step=step)

    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_disk_errors(path):
        atomic.replace_path(path, write)
    return path


@contextlib.contextmanager
def _training_part(path: pathlib.Path) -> Iterator[h5py.File]:
    """The HDF5 file in which training's own group belongs: the file itself, or a new member of a `.keras` archive."""
    if path.suffix != ".keras":
        with h5py.File(path, "r+") as file:
            yield file
        return
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(TRAINING, buffer.getvalue())


def training_config(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Any, metrics: Sequence[Any]
) -> dict[str, Any] | None:
    """The configuration with which Keras compiles a loaded model; None without a loss, or if Keras can't rebuild a part.

    Keras fails to load a file that names a class unknown to it, so no such name may stand in the file.
    """
    if loss is not None:
        parts = {"loss": loss, "metrics": list(metrics)}
        config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
    else:
        config = dict(model.get_compile_config() or {}) if model.compiled else {}
    if not config.get("loss") or not is_from_keras(inner_optimizer(optimizer)):
        return None
    keep = ("loss", "metrics", "weighted_metrics", "loss_weights")
    kept = {"weighted_metrics": None, "loss_weights": None} | {name: config[name] for name in keep if name in config}
    of_optimizer = optimizer_config(optimizer)
    rebuilt = keras.optimizers.deserialize(copy.deepcopy(of_optimizer))
    if not _known(kept) or not isinstance(rebuilt, keras.optimizers.Optimizer):  # Keras 3.15 returns a string for Lamb
        return None
    return kept | {"optimizer_config": of_optimizer}


def _write_keras(twin: keras.Model, model: keras.Model, path: pathlib.Path) -> None:
    """Writes Keras's own part of a file. Raises NotRebuildable if Keras can't write it or builds another model from it."""
    if path.name.endswith(_ONLY_WEIGHTS):
        twin.save_weights(path)
        with h5py.File(path, "r+") as file:
            file.attrs["model_class"] = f"{type(model).__module__}:{type(model).__qualname__}"
        return
    classes = custom_classes(twin)
    try:
        if path.suffix == ".keras":
            twin.save(path)
        else:
            with thawed(twin):
                twin.save(path, include_optimizer=False)
            with h5py.File(path, "r+") as file:
                places = {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in classes.items()}
                file.attrs[CLASSES] = json.dumps(places)
        _check_comes_back(twin, keras.models.load_model(path, custom_objects=classes, compile=False, safe_mode=False))
    except Exception as error:  # Keras raises many kinds of errors here, and so may the layers of a user
        if isinstance(error, OSError) or "errno = " in str(error):  # of the disk, by way of HDF5
            raise
        raise NotRebuildable.of(model, error, path.suffix) from error


def _check_comes_back(twin: keras.Model, loaded: keras.Model) -> None:
    """Raises ValueError if a loaded model isn't the one that was written."""
    before, after = ({layer.name: layer for layer in model._flatten_layers()} for model in (twin, loaded))
    for name, layer in before.items():
        known = not isinstance(layer, keras.Model) and name in after
        if known and _description(layer) != _description(after[name]):
            raise ValueError(f"the layer {name} comes back with other arguments")
    if [tuple(v.shape) for v in twin.weights] != [tuple(v.shape) for v in loaded.weights]:
        raise ValueError("its weights come back in another order or number")


def _description(layer: keras.layers.Layer) -> str:
    return json.dumps(keras.saving.serialize_keras_object(layer.get_config()), sort_keys=True, default=str)


def _known(config: Any) -> bool:
    """Whether a serialized structure names only classes and functions of Keras."""
    if isinstance(config, Mapping):
        if "class_name" in config:
            module = str(config.get("module"))
            if module.partition(".")[0] != "keras" and (module, config["class_name"]) != ("builtins", "function"):
                return False
            if config["class_name"] == "function" and not hasattr(keras.losses, str(config["config"])):
                return hasattr(keras.metrics, str(config["config"]))
        return all(_known(part) for part in config.values())
    return all(_known(part) for part in config) if isinstance(config, (list, tuple)) else True


def _state_of(model: keras.Model) -> TrainState | None:
    """The state of a model that `fit` trained; None for a model without a built optimizer."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return None
    state = TrainState.create(model, optimizer)
    state.step.assign(int(inner_optimizer(optimizer)._iterations))
    return state
