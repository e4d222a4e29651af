"""Fingerprints: what they see change, and what leaves them as they are."""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import pytest

from loopwright.trainer.base.fingerprint import fingerprint

SCALE = 1.0
SETTINGS = types.ModuleType("settings_of_a_user")
SETTINGS.scale = 1.0  # type: ignore[attr-defined]


class Settings:
    """Settings of a user, which code reads from the class itself."""

    scale = 1.0
    table: ClassVar[dict[str, float]] = {"a": 1.0}


def of_class(x: float) -> float:
    return x * Settings.scale * Settings.table["a"]


def of_function(x: float) -> float:
    return x * of_function.scale  # type: ignore[attr-defined]


of_function.scale = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("of", "place", "name"),
    [(of_class, Settings, "scale"), (of_class, Settings.table, "a"), (of_function, of_function, "scale")],
)
def test_what_classes_and_functions_hold_is_seen(
    of: Any, place: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(of=of)
    assert fingerprint(of=of) == before
    change = monkeypatch.setitem if isinstance(place, dict) else monkeypatch.setattr
    change(place, name, 2.0)
    assert fingerprint(of=of) != before


def test_array_that_is_changed_in_place_is_seen() -> None:
    array = np.zeros(300_000)
    before = fingerprint(array=array)
    array[7] = 1
    assert fingerprint(array=array) != before


def test_too_much_to_look_at_is_equal_to_nothing() -> None:
    many = [float(number) for number in range(60_000)]
    assert fingerprint(many=many, last=object()) != fingerprint(many=many, last=object())


def of_global(x: float) -> float:
    return x * SCALE


def of_inner_global() -> Callable[[float], float]:
    return lambda x: of_global(x)


def of_module(x: float) -> float:
    return x * SETTINGS.scale


class OfUser:
    """A class whose methods read a global."""

    limit = 3

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"a": [1, 2], "b": np.zeros(3)}
        self.kept = {1, 2}

    def __call__(self, x: float) -> float:
        return of_global(x)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    scale: float

    @functools.cached_property
    def worked_out(self) -> float:
        return self.scale * 2


class OfKeras(keras.layers.Layer):
    """A layer with attributes of its own, private ones too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._scale, self.options = 1.0, {"power": 2}

    def call(self, x: Any) -> Any:
        return x * self._scale


def changed(name: str) -> tuple[Any, Callable[[], Any]]:
    """An object, and a function that changes what it depends on."""
    user, slotted, options = OfUser(), Slotted(), {"rate": 0.5}
    layer, loss = OfKeras(), keras.losses.CategoricalCrossentropy()
    dense = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.1))

    def closed(x: float) -> float:
        return x * options["rate"]

    cases: dict[str, tuple[Any, Callable[[], Any]]] = {
        "list in a dict": (user, lambda: user.values["a"].append(3)),
        "array": (user, lambda: user.values["b"].__setitem__(0, 1.0)),
        "set": (user, lambda: user.kept.add(3)),
        "new attribute": (user, lambda: setattr(user, "more", None)),
        "type of a number": (user, lambda: user.values.update(a=[True, 2])),
        "attribute of a class": (user, lambda: setattr(OfUser, "limit", OfUser.limit + 1)),
        "slot": (slotted, lambda: setattr(slotted, "scale", 2.0)),
        "closure": (closed, lambda: options.update(rate=0.1)),
        "method": (user.__call__, lambda: user.kept.add(3)),
        "partial": (functools.partial(of_global, options), lambda: options.update(rate=0.1)),
        "private attribute of a layer": (layer, lambda: setattr(layer, "_scale", 2.0)),
        "dict of a layer": (layer, lambda: layer.options.update({"power": 3})),
        "method of a layer": (layer, lambda: setattr(layer, "call", of_global)),
        "regularizer": (dense, lambda: setattr(dense.kernel_regularizer, "l2", 0.2)),
        "policy": (dense, lambda: setattr(dense, "dtype_policy", "mixed_bfloat16")),
        "loss": (loss, lambda: setattr(loss, "label_smoothing", 0.1)),
    }
    return cases[name] if name else (list(cases), lambda: None)


@pytest.mark.parametrize("name", changed("")[0])
def test_change_is_seen(name: str) -> None:
    value, change = changed(name)
    before = fingerprint(value=value)
    assert fingerprint(value=value) == before
    change()
    assert fingerprint(value=value) != before


@pytest.mark.parametrize("value", [of_global, of_inner_global(), OfUser()], ids=["function", "lambda", "method"])
def test_global_that_a_users_function_names_is_seen(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(value=value)
    monkeypatch.setattr(f"{__name__}.SCALE", 2.0)
    assert fingerprint(value=value) != before


def test_attribute_of_a_users_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(value=of_module)
    monkeypatch.setattr(SETTINGS, "scale", 2.0)
    assert fingerprint(value=of_module) != before


def test_equal_frozen_objects_and_functions_are_equal() -> None:
    one, other = Frozen(1.0), Frozen(1.0)
    assert one.worked_out == 2.0
    assert fingerprint(value=one) == fingerprint(value=other)
    assert fingerprint(value=one) != fingerprint(value=Frozen(2.0))
    assert fingerprint(value=of_inner_global()) == fingerprint(value=of_inner_global())
    assert fingerprint(value=OfUser()) != fingerprint(value=OfUser())


def test_each_of_two_layers_of_one_name_is_seen() -> None:
    model = keras.Sequential(
        [keras.Input((2,)), *(keras.Sequential([keras.layers.Dropout(0.5, name="part")]) for _ in "ab")]
    )
    for part in [layer for layer in model._flatten_layers() if layer.name == "part"]:
        before = fingerprint(value=model)
        part.rate = 0.25
        assert fingerprint(value=model) != before


def test_object_that_holds_itself_and_an_empty_cell_end() -> None:
    user = OfUser()
    user.values["me"] = user

    def early() -> Any:
        return late

    assert fingerprint(value=user) == fingerprint(value=user)
    assert fingerprint(value=early)
    late = 1


def test_fit_evaluate_predict_and_save_change_nothing(tiny_model: Any, tmp_path: Any) -> None:
    model = tiny_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, np.int64)
    model.fit(x, y, verbose=0)
    before = fingerprint(model=model, optimizer=model.optimizer)
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    model.set_weights(model.get_weights())
    model.optimizer.learning_rate = 0.5
    assert fingerprint(model=model, optimizer=model.optimizer) == before
