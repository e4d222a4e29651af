"""The table of models, and how a name becomes a built Keras model of a given precision."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras


class ModelError(Exception):
    """A model that isn't there or isn't one; the message says what to do."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Entry(NamedTuple):
    """A model: where it is built, what it ends in (`logits` or `probabilities`), and a line about it."""

    build: str
    outputs: str
    summary: str


MODELS = {
    "cnn": Entry("loopwright.models.cnn:cnn", "logits", "Conv 32, 64, 64 and Dense 64, with dropout; Functional."),
    "cnn_sequential": Entry(
        "loopwright.models.cnn_sequential:cnn_sequential", "probabilities", "Conv 32, 32 and softmax; Sequential."
    ),
    "cnn_subclass": Entry(
        "loopwright.models.cnn_subclass:cnn_subclass", "probabilities", "Conv 32, 64 and softmax; subclassed."
    ),
    "mlp": Entry("loopwright.models.mlp:mlp", "logits", "Dense 128; Sequential, no dropout."),
    "resnet20": Entry(
        "loopwright.models.resnet20:resnet20", "logits", "20 layers with batch norm, for CIFAR; Functional."
    ),
}


def check_name(name: str) -> None:
    """Raises ModelError unless `name` is in the table or has the form module:function; imports nothing."""
    if name not in MODELS and ":" not in name:
        close = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(f"--model={name}: no such model; {hint}({', '.join(MODELS)}, or module:function)")


def create(name: str, input_shape: tuple[int, ...], num_classes: int, *, precision: str = "float32") -> keras.Model:
    """A built model for samples of `input_shape` (without the batch), its layers under the policy `precision`.

    Args:
      name: a key of `MODELS`, or `module:function` with a function of (input_shape, num_classes), or of nothing.
      precision: `float32`, `mixed_bfloat16` or `mixed_float16`; the global policy is left as it was.

    Raises:
      ModelError: an unknown name, a function that can't be imported or gives no Keras model.
    """
    import keras

    check_name(name)
    function = _resolve(MODELS[name].build if name in MODELS else name)
    with _policy(precision):
        try:
            model = function(*_arguments(name, function, input_shape, num_classes))
        except ValueError as error:
            raise ModelError(
                f"--model={name}: can't be built for samples of shape {input_shape}: {_reason(error)}"
            ) from error
        if not isinstance(model, keras.Model):
            raise ModelError(f"--model={name}: returned a {type(model).__name__}, not a keras.Model")
        check_fits(f"--model={name}", model, input_shape, num_classes)
    return model


def check_fits(what: str, model: keras.Model, input_shape: Any, num_classes: int) -> None:
    """Calls the model once, which builds it, and raises ModelError unless it gives a number for each class.

    Args:
      what: begins the message, such as `--model=cnn`.
      input_shape: of a sample, without the batch; by name where there are several inputs.
      num_classes: 0 for a regression, whose outputs may have any shape.
    """
    import keras

    def one(shape: Any) -> Any:
        if isinstance(shape, Mapping):
            return {name: one(part) for name, part in shape.items()}
        return keras.ops.zeros((1, *shape))

    try:
        # A call, not `build`: only it gives every layer of a subclassed model its shape.
        outputs = model(one(input_shape), training=False)
    except ValueError as error:
        raise ModelError(f"{what}: can't take samples of shape {input_shape}: {_reason(error)}") from error
    shape = tuple(getattr(outputs, "shape", ()))[1:]
    if num_classes and shape != (num_classes,):
        raise ModelError(
            f"{what}: gives outputs of shape {shape} for a sample; {num_classes} classes need ({num_classes},)"
        )


def ends_in_probabilities(name: str, model: keras.Model) -> bool:
    """Whether the model's outputs are probabilities rather than logits: by the table, or by the operation that makes them.

    That is a layer or a function of `keras.ops`, inside a nested model too. A subclassed model is asked instead: whether
    its outputs for random inputs are those of a softmax, or, where its last layer is a sigmoid, lie between 0 and 1.
    """
    import keras

    if name in MODELS:
        return MODELS[name].outputs == "probabilities"
    last: Any = model
    while isinstance(last, keras.Model) and getattr(last, "outputs", None):
        last = last.outputs[0]._keras_history.operation
    if isinstance(last, keras.Model):
        return _gives_probabilities(last)
    kind = type(last)
    if kind.__module__.startswith("keras.") and kind.__name__ in ("Softmax", "Sigmoid"):
        return True
    return getattr(last, "activation", None) in (keras.activations.softmax, keras.activations.sigmoid)


def _gives_probabilities(model: keras.Model) -> bool:
    """Whether a model's outputs are probabilities, by what it makes of random inputs of the shape that it was built with."""
    import keras
    import numpy as np

    last = getattr(model.layers[-1], "activation", None) if model.layers else None
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        return last in (keras.activations.softmax, keras.activations.sigmoid)
    rng = np.random.default_rng(0)

    def some(shape: Any) -> Any:
        if isinstance(shape, Mapping):
            return {name: some(part) for name, part in shape.items()}
        return rng.random((8, *(size or 1 for size in shape[1:])), np.float32)

    outputs = np.asarray(keras.ops.cast(model(some(shapes), training=False), "float32"))
    whole = np.abs(outputs.sum(axis=-1) - 1).max() < 1e-2  # as near as half precision comes
    return bool(((outputs >= 0) & (outputs <= 1)).all() and (whole or last is keras.activations.sigmoid))


def _reason(error: ValueError) -> str:
    """The line that says what is wrong: Keras puts the name of the layer before it, and colours it."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    return next((line for line in lines if line and not line.startswith("Exception encountered")), "ValueError")


def _resolve(path: str) -> Any:
    try:
        function = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ModelError(f"--model={path}: can't be imported: {error}") from error
    if not callable(function):
        raise ModelError(f"--model={path}: is no function but a {type(function).__name__}")
    return function


def _arguments(name: str, function: Any, *given: Any) -> tuple[Any, ...]:
    """What a function is called with: all that is given, or nothing. Raises ModelError for one that takes neither."""
    takes = inspect.signature(function)
    for arguments in (given, ()):
        with contextlib.suppress(TypeError):
            takes.bind(*arguments)
            return arguments
    raise ModelError(f"--model={name}: takes {takes}, not (input_shape, num_classes) or nothing")


@contextlib.contextmanager
def _policy(precision: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
