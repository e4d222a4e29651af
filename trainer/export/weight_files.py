"""Weights in `.h5`, `.weights.h5` and `.keras` files of Keras 2 and 3. No model is built from such a file."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.saving import saving_lib  # which variable has which place in a file isn't public

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.named_weights import Found
from loopwright.trainer.export import safe_load


def file_weights(path: str | os.PathLike[str], model: keras.Model) -> list[Found]:
    """What a file of Keras holds for a model: an `.h5`, `.weights.h5` or `.keras` file.

    An `.h5` names its arrays by the paths of their variables. The other two have the places of layers, and those of
    Keras 3 also the layers' names, which count if the places aren't those of the model.

    Raises TrainingError for an unsafe or damaged file, and for one without weights.
    """
    with safe_load.opened_weights(path) as file:
        if "model_weights" in file or "layer_names" in file.attrs or "layer_names0" in file.attrs:
            found = _by_path(file.get("model_weights", file))
        else:
            found = _by_place(file, model)
    if not found:
        raise TrainingError(f"{path} holds no weights of a model")
    return found


def unstored(model: keras.Model, path: pathlib.Path) -> list[int]:
    """The numbers of the weights that Keras merges in a `.keras` or `.weights.h5` file, or leaves out, such as LoRA's."""
    if path.suffix != ".keras" and not path.name.endswith(".weights.h5"):
        return []
    stored = {id(variable) for variable, _ in _layout(model).variables.values()}
    return [number for number, variable in enumerate(model.weights) if id(variable) not in stored]


def texts(group: h5py.Group, name: str) -> list[str]:
    """A list of names in a group's attributes, which Keras splits into `name0`, `name1`, … if it is long."""
    chunks = [key for key in group.attrs if key.removeprefix(name).isdigit() or key == name]
    chunks.sort(key=lambda key: int(key.removeprefix(name) or 0))
    return [text if isinstance(text, str) else text.decode() for chunk in chunks for text in group.attrs[chunk]]


def _by_path(group: h5py.Group) -> list[Found]:
    found = []
    for layer in group.values():
        for name in texts(layer, "weight_names"):
            values = layer[name][()]
            found.append(Found(name.removesuffix(":0"), values.shape, functools.partial(np.asarray, values)))
    return found


def _by_place(file: h5py.File, model: keras.Model) -> list[Found]:
    layout = _layout(model)
    places: dict[str, h5py.Dataset] = {}
    names: dict[str, tuple[str, str]] = {}

    def visit(path: str, item: Any) -> None:
        place, _, number = path.rpartition("/")
        inside = place.rpartition("/")[2] == "vars" and path.partition("/")[0] not in ("optimizer", "metrics")
        if inside and isinstance(item, h5py.Dataset):
            # Keras 2.12 had another name for the list of layers.
            place = place.replace("_layer_checkpoint_dependencies", "layers")
            places[f"{place}/{number}"] = item
            names[f"{place}/{number}"] = (str(item.parent.attrs.get("name", "")), number)

    file.visititems(visit)
    weights = {id(variable) for variable in model.weights}
    ours = {place: v for place, (v, _) in layout.variables.items() if id(v) in weights}
    alike = all(place in places and places[place].shape == tuple(v.shape) for place, v in ours.items())
    by_name = {(name, place.rpartition("/")[2]): v for place, (v, name) in layout.variables.items()}
    found = []
    for place, item in places.items():
        named = by_name.get(names[place]) if names[place][0] else ours.get(place)
        variable = ours.get(place) if alike else named
        if place in layout.variables and place not in ours:
            continue  # the state of a seed generator
        layer, number = names[place]
        values = item[()]
        called = f"{layer or place.partition('/vars')[0]}/vars/{number}"
        found.append(Found(called, values.shape, functools.partial(np.asarray, values), variable))
    return found


def _layout(model: keras.Model) -> _Layout:
    layout = _Layout()
    saving_lib._save_state(model, weights_store=layout, assets_store=None, inner_path="", visited_saveables=set())
    return layout


class _Layout(saving_lib.H5IOStore):
    """Takes the place of a file when Keras writes a model, and keeps which variable would go where."""

    def __init__(self) -> None:
        self.variables: dict[str, tuple[Any, str]] = {}
        self._at, self._name = "", ""

    def make(self, path: str, metadata: Any = None) -> _Layout:
        self._at, self._name = f"{path}/vars".lstrip("/"), (metadata or {}).get("name", "")
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.variables[f"{self._at}/{key}"] = (value, self._name)

    def __bool__(self) -> bool:
        return True

    def __del__(self) -> None:
        """Closes nothing, because there is no file."""
