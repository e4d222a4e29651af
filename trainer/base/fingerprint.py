"""What a trace depends on besides its arguments: the Python values that the traced code reads.

A `tf.function` looks at them while it is traced, and never again. So a trace may be used again only while they are equal.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import functools
import hashlib
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

#: Values that are compared by what they print.
_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    enum.Enum,
    np.generic,
    tf.DType,
    tf.TensorShape,
    tf.TypeSpec,
)
#: Types that hold nothing a trace depends on, or are compared by identity.
_WHOLE = (tf.Tensor, tf.Variable, keras.KerasTensor, keras.Initializer)
#: Standard types whose attributes belong to the user.
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
#: What `train` itself writes to a state.
_OF_STATE = frozenset({"compiled_calls", "window_names", "_empty"})
#: What `fit` and `compile` write to a model, and no step reads.
_OF_FIT = frozenset({"stop_training", "stop_evaluating", "stop_predicting", "history", "optimizer"})
#: Attributes of Keras's base classes that do matter to a trace.
_OF_KERAS = frozenset({"_trainable", "_dtype_policy", "_remat_mode", "autocast", "activity_regularizer"}) | {
    "_compile_loss",
    "_compile_metrics",
}
#: Larger arrays are compared by identity.
_MOST_BYTES = 1 << 26
#: Attributes of attributes are followed to this depth, and no further after this number of values.
_MOST_DEPTH, _MOST_VALUES = 12, 50_000


class Same:
    """Stands for a value that is compared by identity. It keeps the value alive, because an id may be used again."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return f"{type(self.value).__name__} {id(self.value):#x}"


def fingerprint(**parts: Any) -> dict[str, Any]:
    """The values that code reads from these objects, by the names of their places. Equal ones give equal traces.

    It follows attributes, containers, closures, defaults, and the globals that a user's functions name. Layers and
    optimizers are looked through, variables count by identity. It doesn't see the values inside large arrays that are
    changed in place, nor what code reads from files or from the environment.
    """
    walk = _Walk()
    for name, part in parts.items():
        walk.add(name, part, 0)
    return walk.found


class _Walk:
    """One walk over objects. Each object is entered once, at the first of its places."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._seen: dict[Any, tuple[str, Any]] = {}

    def add(self, path: str, value: Any, depth: int) -> None:
        """Notes a value and what it holds."""
        while path in self.found:  # names of layers and classes may repeat
            path += "'"
        if isinstance(value, _PLAIN):
            self.found[path] = repr(value)
            return
        if isinstance(value, type):  # its attributes may be settings
            self.found[path] = Same(value)
            self._enter_class(value, depth + 1)
            return
        if id(value) in self._seen:
            self.found[path] = f"the same as {self._seen[id(value)][0]}"
            return
        self._seen[id(value)] = path, value  # kept alive, so that no other object gets its id
        if depth > _MOST_DEPTH or len(self.found) > _MOST_VALUES:
            self.found[path] = Same(object())  # equal to nothing: rather traced again than stale
        elif isinstance(value, _WHOLE):
            self.found[path] = Same(value)
        elif isinstance(value, np.ndarray):
            self.found[path] = _of_array(value)
        else:
            self._enter(path, value, depth + 1)

    def _enter(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self.found[path] = f"{len(value)} items"
            for place, (key, part) in enumerate(value.items()):
                name = repr(key) if isinstance(key, _PLAIN) else f"key {place}"
                if not isinstance(key, _PLAIN):
                    self.found[f"{path}[{name}] key"] = Same(key)
                self.add(f"{path}[{name}]", part, depth)
        elif isinstance(value, (list, tuple, collections.deque)):
            self.found[path] = f"{len(value)} items"
            for place, part in enumerate(value):
                self.add(f"{path}[{place}]", part, depth)
        elif isinstance(value, (set, frozenset)):
            self.found[path] = frozenset(repr(part) if isinstance(part, _PLAIN) else Same(part) for part in value)
        elif isinstance(value, types.MethodType):
            self.add(f"{path}.__self__", value.__self__, depth)
            self.add(path, value.__func__, depth)
        elif isinstance(value, functools.partial):
            self.add(path, (value.func, value.args, value.keywords), depth)
        elif isinstance(value, types.FunctionType):
            self._enter_function(path, value, depth)
        elif isinstance(value, keras.Variable):
            self.found[path] = Same(value), value.trainable
        elif isinstance(value, keras.Layer):
            self._enter_layers(path, value, depth)
        else:
            self._enter_object(path, value, depth)

    def _enter_layers(self, path: str, model: keras.Layer, depth: int) -> None:
        """Notes the layers of a model and their variables. The one list holds the nested layers, too."""
        for place, layer in enumerate(model._flatten_layers()):
            name = f"{path}.{layer.name}#{place}" if layer is not model else path
            self._seen[id(layer)] = name, layer
            self.found[name] = Same(layer)
            self._enter_attributes(name, layer, depth)
        self.found[f"{path}.trainable_variables"] = [Same(variable) for variable in model.trainable_variables]
        self.found[f"{path}.variables"] = [Same(variable) for variable in model.variables]

    def _enter_object(self, path: str, value: Any, depth: int) -> None:
        kind = type(value)
        frozen = getattr(kind.__dict__.get("__dataclass_params__"), "frozen", False)
        if frozen:  # equal fields make them equal; what is computed from these and kept beside them is left out
            self.found[path] = kind
            for field in dataclasses.fields(value):
                self.add(f"{path}.{field.name}", getattr(value, field.name), depth)
            return self._enter_class(kind, depth)
        self.found[path] = Same(value)
        package = _package(kind.__module__)
        if package == "tensorflow" or (package in sys.stdlib_module_names and kind not in _NAMESPACES):
            return None
        return self._enter_attributes(path, value, depth)

    def _enter_attributes(self, path: str, value: Any, depth: int) -> None:
        ours = isinstance(value, (keras.Layer, keras.optimizers.Optimizer))
        left_out = _keras_attributes() if ours else _OF_STATE
        library = _package(type(value).__module__) == "keras"
        for name, part in _attributes(value):
            if name in left_out or name.startswith("_self_") or name == "_tracker":
                continue
            if library and isinstance(value, keras.Layer) and name[0] == "_" and name not in _OF_KERAS:
                continue
            self.add(f"{path}.{name}", part, depth)
        self._enter_class(type(value), depth)

    def _enter_class(self, kind: type, depth: int) -> None:
        """Notes what the methods of a user's class and of its bases read."""
        for base in kind.__mro__:
            if id(base) in self._seen or _is_library(_package(base.__module__)):
                continue
            self._seen[id(base)] = base.__qualname__, base
            for name, given in list(vars(base).items()):
                part = getattr(given, "__func__", getattr(given, "fget", given))
                if isinstance(part, types.FunctionType) or not name.startswith("__"):
                    self.add(f"{base.__qualname__}.{name}", part, depth)

    def _enter_function(self, path: str, function: types.FunctionType, depth: int) -> None:
        self.found[path] = Same(function.__code__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.add(f"{path}:{name}", _content(cell), depth)
        if function.__defaults__ or function.__kwdefaults__:
            self.add(f"{path}()", (function.__defaults__, function.__kwdefaults__), depth)
        if _is_library(_package(function.__module__)):
            return
        if vars(function):
            self.add(f"{path}.__dict__", vars(function), depth)
        names = _names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            self._enter_global(f"{function.__module__}.{name}", function.__globals__[name], names, depth)

    def _enter_global(self, path: str, value: Any, names: frozenset[str], depth: int) -> None:
        """Notes a global that a user's function names. Of a user's module, those attributes that it names, too."""
        if path in self.found:
            return
        if not isinstance(value, types.ModuleType):
            self.add(path, value, depth)
        elif not _is_library(_package(value.__name__)) and (id(value), names) not in self._seen:
            self._seen[id(value), names] = path, value
            for name in sorted(names & vars(value).keys()):
                self._enter_global(f"{path}.{name}", vars(value)[name], names, depth)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, without those that its class computes."""
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


@functools.cache
def _keras_attributes() -> frozenset[str]:
    """What Keras itself keeps in every layer and model, apart from what matters to a trace. It is named, so that no count
    of Keras's names for layers goes up."""
    inputs = keras.Input((1,), name="fingerprint_input")
    functional = keras.Model(inputs, keras.layers.Identity(name="fingerprint_identity")(inputs), name="fingerprint")
    own = {*vars(functional), *vars(keras.Model(name="fingerprint_subclass"))} - _OF_KERAS
    return frozenset(own | _OF_FIT)


@functools.cache
def _names(code: types.CodeType) -> frozenset[str]:
    """The names of globals and attributes in a function and in those inside it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _of_array(array: np.ndarray) -> Any:
    if array.nbytes > _MOST_BYTES or array.dtype.hasobject:
        return Same(array)
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
    return f"{array.dtype} {array.shape} {digest}"


@functools.cache
def _is_library(package: str) -> bool:
    """Whether a package is installed, so that its functions don't read the globals of a user."""
    if package in ("keras", "tensorflow", "numpy", "loopwright") or package in sys.stdlib_module_names:
        return package != "__main__"
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return not {"site-packages", "dist-packages"}.isdisjoint(pathlib.PurePath(file).parts)


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]
