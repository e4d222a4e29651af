"""The `.h5` that trains on: Keras's own layout, and beside it a group of ours with all that training needs.

Plain Keras reads architecture, weights and `training_config`. The group `loopwright` holds the optimizer's variables, the
step, the states of the seed generators, and what Keras doesn't write down. Slots lie under the place of their variable
among the model's weights, so that neither names nor the order in which an optimizer was built matter.

    state = load_h5("model.h5")
    state.model.fit(...)          # or train(state, feed, step, ...)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.core.optimizers import SCHEDULES, inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import safe_load
from loopwright.trainer.export.functional import frozen_variables, functional_twin, thawed

GROUP = "loopwright"
SCHEMA = 1

#: What may be missing, in the file or in the state: it begins afresh then.
_OPTIONAL = ("metrics/", "extras/")

#: Optimizers of Keras's that its `deserialize` doesn't know.
_UNLISTED = {"Lamb": keras.optimizers.Lamb}

Arrays = dict[str, np.ndarray]


def load_h5(
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[Any] = (),
    extras: Callable[[keras.Model, keras.optimizers.Optimizer], dict[str, Any]] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state in a file of `export_h5`: model, optimizer, step and seeds, to go on from the exact point.

    `state.model` is compiled where the file says with which loss, and `fit` goes on with it. Where the optimizer averages
    weights, the model has the trained ones, and the averages are the optimizer's.

    Args:
      metrics, extras: as for `TrainState.create` and of the step (`extras=step.extras`); what isn't given begins afresh.
      custom_objects: classes by name that aren't Keras's or ours, such as a learning rate schedule.

    Raises TrainingError for a file without our group (`repair_h5` reads what `model.save` wrote), and for a damaged one.
    """
    model = safe_load.load_model(path, custom_objects=custom_objects, compile=True)
    facts, arrays = read_group(path)
    optimizer = _optimizer(model, facts, dict(custom_objects or {}))
    places = model.weights
    for place in facts["frozen"]:
        places[place].trainable = False
    inner = inner_optimizer(optimizer)
    inner.exclude_from_weight_decay(var_list=[places[place] for place in facts["no_weight_decay"]])
    optimizer.build(model.trainable_variables)
    made = extras(model, optimizer) if extras else {}
    state = TrainState.create(model, optimizer, metrics=metrics, extras=made)
    _assign(path, state, model, facts, arrays)
    return state


def restore_h5(path: str | os.PathLike[str], state: TrainState, input_shape: Any = None) -> dict[str, Any]:
    """Restores a file of `export_h5` into a state that was built like the saved one; returns the facts in the file.

    Raises TrainingError for a file that doesn't fit, or is damaged.
    """
    safe_load.check(path)
    facts, arrays = read_group(path)
    twin = functional_twin(state.model, input_shape)
    try:
        with thawed(twin):
            twin.load_weights(path)
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{path} doesn't fit the model: {first_line(error)}") from error
    _assign(path, state, twin, facts, arrays)
    return facts


def repair_h5(path: str | os.PathLike[str]) -> TrainState:
    """The state in an `.h5` that plain `model.save` wrote, with the optimizer that plain Keras loses.

    The step is the optimizer's count of updates. Seeds aren't in such a file and begin afresh, nor is what was left out
    of weight decay.

    Raises TrainingError for a file that holds no optimizer, or one that doesn't fit the model.
    """
    safe_load.check(path)
    with h5py.File(path, "r") as file:
        names, arrays = _kerass_slots(path, file)
        config = json.loads(file.attrs["training_config"])["optimizer_config"]
    model = safe_load.load_model(path, custom_objects=_UNLISTED, compile=True)
    # The loaded one was built for no variables at all, so it is of no use.
    optimizer = keras.optimizers.deserialize(config, custom_objects=_UNLISTED)
    optimizer.build(model.trainable_variables)
    variables = optimizer.variables
    shapes = [tuple(array.shape) for array in arrays]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise TrainingError(
            f"{path}: its optimizer has {len(arrays)} variables ({names[0]} …) that don't fit the {len(variables)} of a "
            f"{type(optimizer).__name__} for this model"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    model.optimizer = optimizer
    state = TrainState.create(model, optimizer)
    state.step.assign(int(inner_optimizer(optimizer)._iterations))
    return state


def write_group(
    file: h5py.File,
    state: TrainState,
    twin: keras.Model,
    facts: Mapping[str, Any],
    *,
    own: Arrays,
    step: int | None = None,
) -> None:
    """Adds our group to a file that Keras wrote.

    Args:
      facts: of the run, as JSON takes them; `load_h5` doesn't need them.
      own: the trained weights by name, where those that Keras wrote are their averages.
      step: stands in the file in place of the state's.
    """
    place = {id(variable): number for number, variable in enumerate(twin.weights)}
    inner = inner_optimizer(state.optimizer)
    arrays = {name: np.array(variable) for name, variable in _variables(state, twin).items()} | own
    if step is not None:
        arrays["step"] = np.array(step, arrays["step"].dtype)
    schedule = inner._learning_rate
    ours = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) and not is_kerass(schedule)
    record = {
        "schema": SCHEMA,
        "step": int(arrays["step"]),
        "optimizer": optimizer_config(state.optimizer),
        "schedule": {"class_name": type(schedule).__name__, "config": schedule.get_config()} if ours else None,
        "frozen": [place[id(v)] for v in frozen_variables(twin)],
        "no_weight_decay": [place[id(v)] for v in inner._trainable_variables if not inner._use_weight_decay(v)],
        "facts": dict(facts),
        "sha256": {name: _sha256(array) for name, array in arrays.items()},
        "weights_sha256": [_sha256(np.array(variable)) for variable in twin.weights],
    }
    group = file.create_group(GROUP)
    group.attrs["state"] = json.dumps(record)
    for name, array in arrays.items():
        group[name] = array


def read_group(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """What `write_group` wrote, every array checked against its hash. Raises TrainingError."""
    try:
        with h5py.File(path, "r") as file:
            if GROUP not in file:
                raise TrainingError(f"{path} holds no state of training; trainer.repair_h5 reads what model.save wrote")
            record = json.loads(file[GROUP].attrs["state"])
            if record["schema"] != SCHEMA:
                raise TrainingError(f"{path} has schema {record['schema']!r}; this version reads {SCHEMA}")
            arrays = {name: file[GROUP][name][()] for name in record["sha256"]}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} is damaged ({first_line(error)})") from error
    for name, digest in record["sha256"].items():
        if _sha256(arrays[name]) != digest:
            raise TrainingError(f"{path} is damaged: {name} doesn't match its SHA-256")
    return record, arrays


@contextlib.contextmanager
def full_disk_is_told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises OSError for what HDF5 can't write, of which it says no more than a number in its message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts about the run that `export_h5` was given. The file is checked first. Raises TrainingError."""
    safe_load.check(path)
    return read_group(path)[0]["facts"]


def slots(optimizer: keras.optimizers.Optimizer, place: Mapping[int, int]) -> dict[str, keras.Variable]:
    """The optimizer's variables by attribute, and those that go with a variable of the model by its place, too.

    `place` is from the id of a variable to its number among the model's weights. Raises TrainingError for an optimizer
    that keeps variables in other ways.
    """
    named: dict[str, keras.Variable] = {}
    trained = optimizer._trainable_variables
    for attribute, value in vars(optimizer).items():
        if attribute in ("_variables", "_trainable_variables"):
            continue
        if isinstance(value, keras.Variable):
            named[attribute] = value
        elif isinstance(value, list) and len(value) == len(trained) and _all_slots(value):
            named |= {f"{attribute}/{place[id(v)]}": s for v, s in zip(trained, value, strict=True) if s is not None}
    known = {id(variable) for variable in named.values()}
    missing = [variable.path for variable in optimizer._variables if id(variable) not in known]
    if missing:
        raise TrainingError(
            f"the optimizer {type(optimizer).__name__} keeps variables ({missing[0]} …) neither one for each of the "
            "model's nor alone, so they can't be written to .h5; a checkpoint can hold them"
        )
    if inner_optimizer(optimizer) is not optimizer:
        inner = slots(optimizer.inner_optimizer, place)
        named |= {f"inner_optimizer/{name}": variable for name, variable in inner.items()}
    return named


def optimizer_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The optimizer as Keras rebuilds it alone: a schedule that it doesn't know stands there as a number."""
    config = keras.optimizers.serialize(optimizer)
    inner = config["config"].get("inner_optimizer", config)
    schedule = inner_optimizer(optimizer)._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) and not is_kerass(schedule):
        rate = getattr(schedule, "peak", None)
        inner["config"]["learning_rate"] = float(inner_optimizer(optimizer).learning_rate if rate is None else rate)
    return config


def is_kerass(thing: Any) -> bool:
    """Whether an object is of a class of Keras itself, which every Keras can rebuild."""
    return type(thing).__module__.partition(".")[0] == "keras"


def _variables(state: TrainState, twin: keras.Model) -> dict[str, Any]:
    """Every variable of the state but the model's weights, by its name in the file."""
    place = {id(variable): number for number, variable in enumerate(twin.weights)}
    named: dict[str, Any] = {f"optimizer/{name}": v for name, v in slots(state.optimizer, place).items()}
    weights = {id(variable) for variable in twin.weights}
    seeds = [variable for variable in twin.variables if id(variable) not in weights]
    named |= {f"seeds/{number}": variable for number, variable in enumerate(seeds)}
    rest = {name: v for name, v in state.variables().items() if name.startswith(_OPTIONAL)}
    return named | rest | {"step": state.step, "window": state.window}


def _assign(
    path: str | os.PathLike[str], state: TrainState, twin: keras.Model, facts: Mapping[str, Any], arrays: Arrays
) -> None:
    """Puts the arrays of a file into a state whose model has the weights that Keras wrote."""
    if [_sha256(np.array(variable)) for variable in twin.weights] != facts["weights_sha256"]:
        raise TrainingError(f"{path} is damaged: its weights don't match their SHA-256")
    variables = _variables(state, twin) | {f"trained/{i}": v for i, v in enumerate(twin.weights)}
    needed = {name for name in variables if not name.startswith((*_OPTIONAL, "trained/"))}
    missing = sorted(needed - set(arrays))
    unknown = sorted(name for name in set(arrays) - set(variables) if not name.startswith(_OPTIONAL))
    if missing or unknown:
        name, where = (missing[0], "lacks") if missing else (unknown[0], "has more than the state:")
        raise TrainingError(f"{path} doesn't fit this model and optimizer: it {where} {name}")
    for name in sorted(set(arrays) & set(variables)):
        if name != "window" and tuple(variables[name].shape) != arrays[name].shape:
            raise TrainingError(
                f"{path} doesn't fit: {name} has shape {arrays[name].shape}, not {tuple(variables[name].shape)}"
            )
        variables[name].assign(arrays[name])


def _optimizer(
    model: keras.Model, facts: Mapping[str, Any], custom_objects: dict[str, Any]
) -> keras.optimizers.Optimizer:
    """The unbuilt optimizer of the file, which is the model's own where that is compiled."""
    if not model.compiled:
        model.optimizer = keras.optimizers.deserialize(facts["optimizer"], custom_objects=_UNLISTED | custom_objects)
    optimizer = model.optimizer
    saved = facts["schedule"]
    if saved is not None:
        schedules = {**SCHEDULES, **custom_objects}
        if saved["class_name"] not in schedules:
            raise TrainingError(
                f"the learning rate schedule {saved['class_name']} is not known; give "
                f"custom_objects={{{saved['class_name']!r}: …}}"
            )
        optimizer.learning_rate = schedules[saved["class_name"]].from_config(saved["config"])
    return optimizer


def _kerass_slots(path: str | os.PathLike[str], file: h5py.File) -> tuple[list[str], list[np.ndarray]]:
    """Names and values in the group `optimizer_weights`, in the order in which Keras wrote them."""
    if "optimizer_weights" not in file or "training_config" not in file.attrs:
        raise TrainingError(f"{path} holds no optimizer: save a compiled model that was trained")
    group = file["optimizer_weights"]
    chunks = [name for name in group.attrs if name.startswith("weight_names")]
    chunks.sort(key=lambda name: int(name.removeprefix("weight_names") or 0))
    names = [name if isinstance(name, str) else name.decode() for chunk in chunks for name in group.attrs[chunk]]
    return names, [group[name][()] for name in names]


def _all_slots(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, keras.Variable) for value in values) and any(
        value is not None for value in values
    )


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
