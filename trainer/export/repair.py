"""Reads an `.h5` that plain `model.save` of Keras 2 or 3 wrote, with the optimizer's variables, which plain Keras loses."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.core.optimizers import inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import safe_load
from loopwright.trainer.export.h5_reader import UNLISTED, compile_model
from loopwright.trainer.export.weight_files import texts

#: What the lists of slots are called in an optimizer of Keras 3, by the name of a slot in a file of Keras 2. The first
#: list that the optimizer has is meant.
_SLOTS = {
    "m": ("_momentums", "momentums", "_m"),
    "v": ("_velocities",),
    "vhat": ("_velocity_hats",),
    "u": ("_u",),
    "momentum": ("_momentums", "momentums"),
    "rms": ("_velocities",),
    "velocity": ("_velocities",),
    "mg": ("_average_gradients",),
    "average_gradient": ("_average_gradients",),
    "accumulator": ("_accumulators",),
    "accumulated_grad": ("_accumulated_grads",),
    "accum_grad": ("_accumulated_grads",),
    "accumulated_delta_var": ("_accumulated_delta_vars",),
    "accum_var": ("_accumulated_delta_vars",),
    "linear": ("_linears",),
    "average": ("_model_variables_moving_average",),
}

#: Arguments that Keras 2 wrote and that Keras 3 doesn't have.
_GONE = ("jit_compile", "is_legacy_optimizer", "fn")


def repair_h5(path: str | os.PathLike[str]) -> TrainState:
    """The state in an `.h5` that plain `model.save` wrote, with the optimizer's variables, which plain Keras loses.

    The step is the optimizer's count of updates. Such a file holds neither the states of seed generators, which begin
    again, nor which variables are left out of weight decay. Files of Keras 2 are read, too, also with its `legacy`
    optimizers; training goes on with Keras 3, whose last bits may differ.

    Raises TrainingError for any other kind of file, for a file without an optimizer, and for one with an optimizer that
    doesn't fit the model.
    """
    if not str(path).endswith((".h5", ".hdf5")):
        raise TrainingError(f"{path}: repair_h5 reads only .h5 files; load any other with keras.models.load_model")
    safe_load.check_file(path)
    with h5py.File(path, "r") as file:
        names, arrays = _keras_slots(path, file)
        config = modern(json.loads(file.attrs["training_config"]))
    model = safe_load.load_model(path, custom_objects=UNLISTED)
    try:
        optimizer = keras.optimizers.deserialize(config["optimizer_config"], custom_objects=UNLISTED)
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{path}: its optimizer can't be loaded ({first_line(error)})") from error
    optimizer.build(model.trainable_variables)
    if all(name.endswith(":0") for name in names):
        _assign_by_slot(path, optimizer, names, arrays)
    else:
        _assign_in_order(path, optimizer, names, arrays)
    compile_model(path, model, optimizer, config, {})
    model.optimizer = optimizer
    state = TrainState.create(model, optimizer)
    state.step.assign(int(inner_optimizer(optimizer)._iterations))
    return state


def modern(config: Any) -> Any:
    """A configuration of losses, metrics and an optimizer as Keras 3 reads it. One of Keras 3 is given back as it is.

    Keras 2 called an optimizer `Custom>Adam`, wrapped the functions of losses and metrics, and let `decay` of its old
    optimizers divide the learning rate by `1 + decay * updates`.
    """
    if isinstance(config, list):
        return [modern(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    found = {
        name: modern(part) for name, part in config.items() if name not in _GONE and (name, part) != ("name", None)
    }
    if found.get("reduction") == "auto":
        found["reduction"] = "sum_over_batch_size"
    if isinstance(found.get("decay"), (int, float)) and "learning_rate" in found:
        decay = found.pop("decay")
        if decay:
            schedule = keras.optimizers.schedules.InverseTimeDecay(found["learning_rate"], 1, decay)
            found["learning_rate"] = keras.optimizers.schedules.serialize(schedule)
    name = found.get("class_name")
    if isinstance(name, str):
        found["class_name"] = name.removeprefix("Custom>")
        home = keras.losses if "reduction" in (found.get("config") or {}) else keras.metrics
        if "module" not in config and hasattr(home, name):
            found |= {
                "module": home.__name__.replace(".api.", ".").replace("._tf_keras.", "."),
                "registered_name": None,
            }
    if name in ("MeanMetricWrapper", "LossFunctionWrapper"):
        return config["config"]["fn"]
    return found


def _assign_by_slot(
    path: str | os.PathLike[str], optimizer: keras.optimizers.Optimizer, names: list[str], arrays: list[np.ndarray]
) -> None:
    """Assigns what Keras 2 wrote: `iteration`, and slots such as `Adam/m/conv/kernel` or, older, `Adam/conv/kernel/m`."""
    slots: dict[str, list[np.ndarray]] = defaultdict(list)
    older = names[0].endswith("/iter:0")
    for name, array in zip(names[1:], arrays[1:], strict=True):
        parts = name.removesuffix(":0").split("/")
        slots[parts[-1] if older else parts[1]].append(array)
    optimizer._iterations.assign(arrays[0])
    filled = {id(optimizer._iterations), id(getattr(optimizer, "_learning_rate", None))}
    for slot, values in slots.items():
        lists = [getattr(optimizer, name) for name in _SLOTS.get(slot, ()) if getattr(optimizer, name, None)]
        variables = [variable for variable in (lists[0] if lists else ()) if variable is not None]
        if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
            raise TrainingError(
                f"{path}: its {len(values)} optimizer variables {slot!r} don't fit {type(optimizer).__name__} for this model"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
            filled.add(id(variable))
    missing = [variable.path for variable in optimizer.variables if id(variable) not in filled]
    if missing:
        raise TrainingError(
            f"{path}: Keras 2 wrote no value of {missing[0]}, which {type(optimizer).__name__} needs; take the weights "
            "alone with keras.models.load_model(path, compile=False)"
        )


def _assign_in_order(
    path: str | os.PathLike[str], optimizer: keras.optimizers.Optimizer, names: list[str], arrays: list[np.ndarray]
) -> None:
    """Assigns what Keras 3 wrote: all variables of the optimizer, in its own order."""
    variables = optimizer.variables
    if [tuple(array.shape) for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise TrainingError(
            f"{path}: its {len(arrays)} optimizer variables ({names[0]} …) don't fit the {len(variables)} variables of "
            f"{type(optimizer).__name__} for this model"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _keras_slots(path: str | os.PathLike[str], file: h5py.File) -> tuple[list[str], list[np.ndarray]]:
    """The names and values in the group `optimizer_weights`, in the order in which Keras wrote them."""
    if "optimizer_weights" not in file or "training_config" not in file.attrs:
        raise TrainingError(f"{path} holds no optimizer; save a compiled model that was trained")
    group = file["optimizer_weights"]
    names = texts(group, "weight_names")
    return names, [group[name][()] for name in names]
