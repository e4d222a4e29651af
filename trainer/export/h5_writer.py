"""Writes a trained model to a file that plain Keras reads and from which training can go on."""

from __future__ import annotations

import copy
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base import atomic
from loopwright.trainer.core.optimizers import averaged_weights, inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export.functional import NotRebuildable, custom_classes, functional_twin, thawed
from loopwright.trainer.export.h5_reader import Arrays, is_from_keras, naming_disk_errors, optimizer_config, write_group
from loopwright.trainer.export.safe_load import CLASSES


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

    Raises NotRebuildable for a subclassed model whose `call` Keras can't trace, and ValueError for a different suffix.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".h5", ".hdf5") or path.name.endswith(".weights.h5"):
        raise ValueError(f"path={path}: the name of a whole model must end in .h5, and not in .weights.h5")
    state = source if isinstance(source, TrainState) else _state_of(source)
    model = source if state is None else state.model
    twin = functional_twin(model, input_shape)

    def write(temporary: pathlib.Path) -> None:
        if state is None:
            _write_keras(twin, model, temporary)
            return
        averages = inner_optimizer(state.optimizer).use_ema
        trained: Arrays = {f"trained/{i}": np.array(v) for i, v in enumerate(twin.weights)} if averages else {}
        config = training_config(model, state.optimizer, loss, metrics)
        with averaged_weights(model, state.optimizer):
            _write_keras(twin, model, temporary)
            with h5py.File(temporary, "r+") as file:
                if config is not None:
                    file.attrs["training_config"] = json.dumps(config)
                write_group(file, state, twin, facts or {}, trained=trained, step=step)

    _write_file(path, write)
    return path


def export_weights(model: keras.Model, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes only the weights, for `load_weights` of a model of the same class; returns the path.

    Args:
      path: ends in `.weights.h5`. The file's attribute `model_class` names the model's class as `module:Class`.
    """
    path = pathlib.Path(path)

    def write(temporary: pathlib.Path) -> None:
        model.save_weights(temporary)
        with h5py.File(temporary, "r+") as file:
            file.attrs["model_class"] = f"{type(model).__module__}:{type(model).__qualname__}"

    _write_file(path, write)
    return path


def _write_file(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Writes an HDF5 file atomically, and makes its folder if that is missing. Raises OSError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_disk_errors(path):
        atomic.replace_path(path, write)


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
    """Writes Keras's own part of the file. Raises NotRebuildable if Keras can write an operation but can't rebuild it."""
    classes = custom_classes(twin)
    with thawed(twin):
        twin.save(path, include_optimizer=False)
    with h5py.File(path, "r+") as file:
        file.attrs[CLASSES] = json.dumps(
            {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in classes.items()}
        )
    if twin is not model:
        try:
            keras.models.load_model(path, custom_objects=classes, compile=False)
        except (ValueError, TypeError) as error:
            raise NotRebuildable.of(model, error) from error


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
