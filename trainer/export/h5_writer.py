"""Exports: a trained model as a file that plain Keras reads, and that training can go on from."""

from __future__ import annotations

import copy
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base import atomic
from loopwright.trainer.core.optimizers import averaged_weights, inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export.functional import RawOperations, functional_twin, own_classes, thawed
from loopwright.trainer.export.h5_reader import Arrays, full_disk_is_told, is_kerass, optimizer_config, write_group
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
    """Writes an `.h5` that `keras.models.load_model` reads and that `load_h5` goes on training from; returns the path.

    Where the optimizer averages weights, plain Keras gets the averages, which evaluation gives numbers of, and `load_h5`
    the trained ones.

    Args:
      source: a state, or a built model: one that `fit` trained is written with its optimizer, another without.
      path: ends in `.h5`; an older file is replaced when the new one is whole.
      input_shape: of one sample, without the batch, for a subclassed model; None is the shape that it was built with.
      loss, metrics: what plain Keras compiles the loaded model with, as `compile` takes them; None is what the model was
        compiled with. Without either it comes back uncompiled.
      step: batches seen; None is the state's step or, of a model, the optimizer's count.
      facts: about the run, as JSON takes them; `h5.read_group` gives them back.

    Raises RawOperations for a subclassed model whose `call` Keras can't trace, ValueError for another suffix.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".h5", ".hdf5") or path.name.endswith(".weights.h5"):
        raise ValueError(f"{path}: the name of a whole model ends in .h5, but not in .weights.h5")
    state = source if isinstance(source, TrainState) else _state_of(source)
    model = source if state is None else state.model
    twin = functional_twin(model, input_shape)

    def write(temporary: pathlib.Path) -> None:
        if state is None:
            _write_keras(twin, model, temporary)
            return
        averages = inner_optimizer(state.optimizer).use_ema
        own: Arrays = {f"trained/{i}": np.array(v) for i, v in enumerate(twin.weights)} if averages else {}
        config = training_config(model, state.optimizer, loss, metrics)
        with averaged_weights(model, state.optimizer):
            _write_keras(twin, model, temporary)
            with h5py.File(temporary, "r+") as file:
                if config is not None:
                    file.attrs["training_config"] = json.dumps(config)
                write_group(file, state, twin, facts or {}, own=own, step=step)

    with full_disk_is_told(path):
        atomic.write_in_place(path, write)
    return path


def export_weights(model: keras.Model, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the weights alone, for `load_weights` of a model of the same class, whose import path is written beside.

    Args:
      path: ends in `.weights.h5`. The attribute `model_class` of the file names the class as `module:Class`.
    """
    path = pathlib.Path(path)

    def write(temporary: pathlib.Path) -> None:
        model.save_weights(temporary)
        with h5py.File(temporary, "r+") as file:
            file.attrs["model_class"] = f"{type(model).__module__}:{type(model).__qualname__}"

    with full_disk_is_told(path):
        atomic.write_in_place(path, write)
    return path


def training_config(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Any, metrics: Sequence[Any]
) -> dict[str, Any] | None:
    """What Keras compiles a loaded model with; None where there is no loss, or where it couldn't rebuild a part.

    Keras fails to load a file that names a class which it doesn't know, so such a part must not stand there.
    """
    if loss is not None:
        parts = {"loss": loss, "metrics": list(metrics)}
        config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
    else:
        config = dict(model.get_compile_config() or {}) if model.compiled else {}
    if not config.get("loss") or not is_kerass(inner_optimizer(optimizer)):
        return None
    keep = ("loss", "metrics", "weighted_metrics", "loss_weights")
    kept = {"weighted_metrics": None, "loss_weights": None} | {name: config[name] for name in keep if name in config}
    of_optimizer = optimizer_config(optimizer)
    rebuilt = keras.optimizers.deserialize(copy.deepcopy(of_optimizer))
    if not _known(kept) or not isinstance(rebuilt, keras.optimizers.Optimizer):  # Keras 3.15 gives Lamb's name for it
        return None
    return kept | {"optimizer_config": of_optimizer}


def _write_keras(twin: keras.Model, model: keras.Model, path: pathlib.Path) -> None:
    """Keras's own part of the file. Raises RawOperations for a twin with operations that Keras writes but can't rebuild."""
    classes = own_classes(twin)
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
            raise RawOperations.of(model, error) from error


def _known(config: Any) -> bool:
    """Whether a serialised structure names classes and functions of Keras alone."""
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
    """The state that `fit` left in a model; None for a model that it didn't train."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return None
    state = TrainState.create(model, optimizer)
    state.step.assign(int(inner_optimizer(optimizer)._iterations))
    return state
