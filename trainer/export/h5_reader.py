"""Files from which training goes on: Keras's own layout, and one more group with everything else that training needs.

Plain Keras reads the architecture, the weights and `training_config`. The group `loopwright` (in a `.keras` archive, the
member `loopwright.h5`) holds the optimizer's variables, the step, the states of the seed generators, and other facts that
Keras doesn't write. Each slot is stored under the place of its variable among the model's weights. So neither names nor the
order in which an optimizer was built matter.

    state = load_h5("model.h5")
    state.model.fit(...)          # or train(state, feed, step, ...)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from loopwright.trainer.base.errors import TrainingError, first_line
from loopwright.trainer.base.finalize import finalize_layers
from loopwright.trainer.core.optimizers import SCHEDULES, inner_optimizer
from loopwright.trainer.core.state import TrainState
from loopwright.trainer.export import safe_load
from loopwright.trainer.export.functional import frozen_variables, functional_twin, thawed

GROUP = "loopwright"
SCHEMA = 1

#: Variables that may be missing in the file or in the state. They keep their initial values then.
_OPTIONAL = ("metrics/", "extras/")

#: Keras's own optimizers that its `deserialize` doesn't know.
UNLISTED = {"Lamb": keras.optimizers.Lamb}

Arrays = dict[str, np.ndarray]


def load_h5(
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[Any] = (),
    extras: Callable[[keras.Model, keras.optimizers.Optimizer], dict[str, Any]] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> TrainState:
    """The state in a file of `export_h5` or `export_keras`: model, optimizer, step and seeds. Training goes on exactly.

    If the file names a loss, `state.model` is compiled and `fit` goes on with it. If the optimizer averages weights, the
    model gets the trained weights, and the optimizer gets the averages.

    Args:
      metrics: as for `TrainState.create`. Metrics that aren't given are not restored.
      extras: the step's `extras` function (`extras=step.extras`). Extras that aren't given are not restored.
      custom_objects: classes by name that come neither from Keras nor from this package, such as a learning rate schedule.
      trust: the file may hold code and name any class, which is imported from the place that the file names.

    Raises TrainingError for a damaged file, and for one that `model.save` wrote. `repair_h5` reads an `.h5` of that kind.
    """
    known = dict(custom_objects or {})
    model = safe_load.load_model(path, custom_objects=known, trust=trust)
    facts, arrays = read_group(path)
    optimizer = _optimizer(facts, known)
    places = model.weights
    for place in facts["frozen"]:
        places[place].trainable = False
    inner = inner_optimizer(optimizer)
    inner.exclude_from_weight_decay(var_list=[places[place] for place in facts["no_weight_decay"]])
    optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    made = extras(model, optimizer) if extras else {}
    state = TrainState.create(model, optimizer, metrics=metrics, extras=made)
    _assign(path, state, model, facts, arrays)
    compile_model(path, model, optimizer, _training_config(path), known)
    return state


def restore_h5(path: str | os.PathLike[str], state: TrainState, input_shape: Any = None) -> dict[str, Any]:
    """Restores a file of `export_h5`, `export_keras` or `export_weights` into a state that was built like the saved one.

    Returns what the file says about the saved state, such as `step` and `facts`. Raises TrainingError for a file that is
    damaged or doesn't fit.
    """
    only_weights = str(path).endswith(".weights.h5")
    if only_weights:
        with safe_load.opened_weights(path):
            pass  # It is checked.
    else:
        safe_load.check_file(path, trust=True)  # No model is built from it.
    facts, arrays = read_group(path)
    twin = state.model if only_weights else functional_twin(state.model, input_shape)
    _check_fits(path, _assignable(state, twin), arrays)  # before the first weight changes
    try:
        with thawed(twin):
            twin.load_weights(path)
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{path} doesn't fit the model: {first_line(error)}") from error
    _assign(path, state, twin, facts, arrays)
    return facts


def compile_model(
    path: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any],
) -> None:
    """Compiles a loaded model with the loss and metrics of a file's configuration, if there are any."""
    names = ("loss", "loss_weights", "metrics", "weighted_metrics")
    parts = {name: config[name] for name in names if config.get(name)}
    if "loss" not in parts:
        return
    try:
        model.compile(
            optimizer=optimizer, **keras.saving.deserialize_keras_object(parts, custom_objects=custom_objects)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(f"{path}: the loss and metrics in it can't be loaded ({first_line(error)})") from error


def write_group(
    file: h5py.File,
    state: TrainState,
    twin: keras.Model,
    facts: Mapping[str, Any],
    *,
    more: Arrays,
    step: int | None = None,
) -> None:
    """Adds the group `loopwright` to a file.

    Args:
      facts: about the run, in types that JSON can hold. `load_h5` doesn't need them.
      more: arrays by name: the trained weights, if Keras wrote their averages, and weights that Keras doesn't write.
      step: written in place of the state's step.
    """
    place = {id(variable): number for number, variable in enumerate(twin.weights)}
    inner = inner_optimizer(state.optimizer)
    arrays = {name: np.array(variable) for name, variable in _variables(state, twin).items()} | more
    if step is not None:
        arrays["step"] = np.array(step, arrays["step"].dtype)
    schedule = inner._learning_rate
    unknown = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) and not is_from_keras(schedule)
    record = {
        "schema": SCHEMA,
        "step": int(arrays["step"]),
        "optimizer": optimizer_config(state.optimizer),
        "schedule": {"class_name": type(schedule).__name__, "config": schedule.get_config()} if unknown else None,
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
    """The record and the arrays that `write_group` wrote. Raises TrainingError if an array doesn't match its hash."""
    try:
        with _training_part(path) as file:
            if file is None or GROUP not in file:
                raise TrainingError(f"{path} holds no training state; {_remedy(path)}")
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


def _remedy(path: str | os.PathLike[str]) -> str:
    """What to do with a file of plain Keras, from which no run goes on."""
    if str(path).endswith((".keras", ".weights.h5")):
        return (
            "take its weights alone (init_from), or write the file with trainer.export_keras or trainer.export_weights"
        )
    return "if model.save wrote it, trainer.repair_h5 reads it"


@contextlib.contextmanager
def _training_part(path: str | os.PathLike[str]) -> Iterator[h5py.File | None]:
    """The HDF5 file with training's own group: the file itself, or a member of a `.keras` archive, if that has one."""
    if not str(path).endswith(".keras"):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        content = archive.read(safe_load.TRAINING) if safe_load.TRAINING in archive.namelist() else None
    if content is None:
        yield None
        return
    with h5py.File(io.BytesIO(content), "r") as file:
        yield file


def _training_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    with _training_part(path) as file:
        return {} if file is None else json.loads(file.attrs.get("training_config", "{}"))


@contextlib.contextmanager
def naming_disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises a proper OSError if HDF5 can't write. HDF5's own error has the error number only in its message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts about the run that were passed to `export_h5`. Raises TrainingError for an unsafe or damaged file."""
    if str(path).endswith(".weights.h5"):
        with safe_load.opened_weights(path):
            pass
    else:
        safe_load.check_file(path, trust=True)  # No model is built from it.
    return read_group(path)[0]["facts"]


def optimizer_slots(optimizer: keras.optimizers.Optimizer, place: Mapping[int, int]) -> dict[str, keras.Variable]:
    """The optimizer's variables by name: `attribute`, or `attribute/place` for the slot of a variable of the model.

    `place` maps the id of a variable to its number among the model's weights. Raises TrainingError for an optimizer that
    keeps variables in any other way.
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
            f"the variables of the optimizer {type(optimizer).__name__} ({missing[0]} …) can't be written to .h5: they are "
            "neither single nor one for each variable of the model; save a checkpoint, which can hold them"
        )
    if inner_optimizer(optimizer) is not optimizer:
        inner = optimizer_slots(optimizer.inner_optimizer, place)
        named |= {f"inner_optimizer/{name}": variable for name, variable in inner.items()}
    return named


def optimizer_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The optimizer's configuration for plain Keras. A schedule that Keras doesn't know is replaced by a number."""
    config = keras.optimizers.serialize(optimizer)
    inner = config["config"].get("inner_optimizer", config)
    schedule = inner_optimizer(optimizer)._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) and not is_from_keras(schedule):
        rate = getattr(schedule, "peak", None)
        inner["config"]["learning_rate"] = float(inner_optimizer(optimizer).learning_rate if rate is None else rate)
    return config


def is_from_keras(thing: Any) -> bool:
    """Whether the class of an object belongs to Keras itself, so that every Keras can rebuild it."""
    return type(thing).__module__.partition(".")[0] == "keras"


def _variables(state: TrainState, twin: keras.Model) -> dict[str, Any]:
    """All variables of the state except the model's weights, by their names in the file."""
    place = {id(variable): number for number, variable in enumerate(twin.weights)}
    named: dict[str, Any] = {f"optimizer/{name}": v for name, v in optimizer_slots(state.optimizer, place).items()}
    weights = {id(variable) for variable in twin.weights}
    seeds = [variable for variable in twin.variables if id(variable) not in weights]
    named |= {f"seeds/{number}": variable for number, variable in enumerate(seeds)}
    rest = {name: v for name, v in state.variables().items() if name.startswith(_OPTIONAL)}
    return named | rest | {"step": state.step, "window": state.window}


def _assignable(state: TrainState, twin: keras.Model) -> dict[str, Any]:
    """All variables to which an array in a file may be assigned, by their names in the file."""
    return _variables(state, twin) | {
        f"{kind}/{i}": v for kind in ("trained", "weights") for i, v in enumerate(twin.weights)
    }


def _assign(
    path: str | os.PathLike[str], state: TrainState, twin: keras.Model, facts: Mapping[str, Any], arrays: Arrays
) -> None:
    """Assigns the arrays of a file to a state whose model already has the weights that Keras reads."""
    variables = _assignable(state, twin)
    _check_fits(path, variables, arrays)
    for name in sorted(name for name in arrays if name.startswith("weights/")):
        variables[name].assign(arrays[name])
    if [_sha256(np.array(variable)) for variable in twin.weights] != facts["weights_sha256"]:
        raise TrainingError(f"{path} is damaged: its weights don't match their SHA-256")
    for name in sorted(name for name in set(arrays) & set(variables) if not name.startswith("weights/")):
        variables[name].assign(arrays[name])
    finalize_layers(state.model, *state.extras.values())


def _check_fits(path: str | os.PathLike[str], variables: Mapping[str, Any], arrays: Arrays) -> None:
    """Raises TrainingError unless the arrays of a file are those of a state's variables."""
    needed = {name for name in variables if not name.startswith((*_OPTIONAL, "trained/", "weights/"))}
    missing = sorted(needed - set(arrays))
    unknown = sorted(name for name in set(arrays) - set(variables) if not name.startswith(_OPTIONAL))
    if missing or unknown:
        problem = f"it lacks {missing[0]}" if missing else f"the state has no {unknown[0]}"
        raise TrainingError(f"{path} doesn't fit this model and optimizer: {problem}")
    for name in sorted(set(arrays) & set(variables)):
        if name != "window" and tuple(variables[name].shape) != arrays[name].shape:
            raise TrainingError(
                f"{path} doesn't fit: {name} has shape {arrays[name].shape}, not {tuple(variables[name].shape)}"
            )


def _optimizer(facts: Mapping[str, Any], custom_objects: dict[str, Any]) -> keras.optimizers.Optimizer:
    """The unbuilt optimizer of the file."""
    optimizer = keras.optimizers.deserialize(facts["optimizer"], custom_objects=UNLISTED | custom_objects)
    saved = facts["schedule"]
    if saved is not None:
        schedules = {**SCHEDULES, **custom_objects}
        if saved["class_name"] not in schedules:
            raise TrainingError(
                f"the learning rate schedule {saved['class_name']} is unknown; give "
                f"custom_objects={{{saved['class_name']!r}: …}}"
            )
        optimizer.learning_rate = schedules[saved["class_name"]].from_config(saved["config"])
    return optimizer


def _all_slots(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, keras.Variable) for value in values) and any(
        value is not None for value in values
    )


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
