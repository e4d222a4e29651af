"""The table of models, and building a Keras model of a given precision by its name."""

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
    """A model doesn't exist or can't be used. The message says what to do."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Entry(NamedTuple):
    """A model: the function that builds it, its outputs (`logits` or `probabilities`), and a line about it."""

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
    """Raises ModelError unless `name` is in the table or has the form module:function. Imports nothing."""
    if name not in MODELS and ":" not in name:
        close = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(f"model={name!r}: no such model; {hint}({', '.join(MODELS)}, or module:function)")


def create(name: str, input_shape: tuple[int, ...], num_classes: int, *, precision: str = "float32") -> keras.Model:
    """A built model for samples of `input_shape` (without the batch), whose layers have the dtype policy `precision`.

    Args:
      name: a key of `MODELS`, or `module:function`. The function takes (input_shape, num_classes), or nothing.
      precision: `float32`, `mixed_bfloat16` or `mixed_float16`. The global policy doesn't change.

    Raises ModelError for an unknown name, for a function that can't be imported or doesn't return a Keras model, and
    for a model that doesn't fit the samples and classes.
    """
    import keras

    check_name(name)
    function = _resolve(MODELS[name].build if name in MODELS else name)
    with _policy(precision):
        try:
            model = function(*_arguments(name, function, input_shape, num_classes))
        except ValueError as error:
            raise ModelError(
                f"model={name!r}: can't be built for samples of shape {input_shape}: {_reason(error)}"
            ) from error
        if not isinstance(model, keras.Model):
            raise ModelError(f"model={name!r}: returned a {type(model).__name__}, not a keras.Model")
        check_fits(f"model={name!r}", model, input_shape, num_classes)
    return model


def check_fits(what: str, model: keras.Model, input_shape: Any, num_classes: int) -> None:
    """Calls the model once, which builds it. Raises ModelError unless it gives one number for each class.

    Args:
      what: the beginning of the message, such as `model='cnn'`.
      input_shape: the shape of a sample, without the batch; a dict by name if there are several inputs.
      num_classes: the number of classes, or 0 for a regression, whose outputs may have any shape.
    """
    import keras

    def one(shape: Any) -> Any:
        if isinstance(shape, Mapping):
            return {name: one(part) for name, part in shape.items()}
        return keras.ops.zeros((1, *shape))

    try:
        # Only a call gives every layer of a subclassed model its shape; `build` doesn't.
        outputs = model(one(input_shape), training=False)
    except ValueError as error:
        raise ModelError(f"{what}: can't take samples of shape {input_shape}: {_reason(error)}") from error
    shape = tuple(getattr(outputs, "shape", ()))[1:]
    if num_classes and shape != (num_classes,):
        raise ModelError(
            f"{what}: gives outputs of shape {shape} for a sample; {num_classes} classes need ({num_classes},)"
        )


def _reason(error: ValueError) -> str:
    """The line of a Keras error that says what is wrong, without colours and without the line that names the layer."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    return next((line for line in lines if line and not line.startswith("Exception encountered")), "ValueError")


def _resolve(path: str) -> Any:
    try:
        function = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ModelError(f"model={path!r}: can't be imported: {error}") from error
    if not callable(function):
        raise ModelError(
            f"model={path!r}: not a function (type {type(function).__name__}); name one that returns a keras.Model"
        )
    return function


def _arguments(name: str, function: Any, *given: Any) -> tuple[Any, ...]:
    """The arguments for a function: all that are given, or none. Raises ModelError if it takes neither."""
    takes = inspect.signature(function)
    for arguments in (given, ()):
        with contextlib.suppress(TypeError):
            takes.bind(*arguments)
            return arguments
    raise ModelError(f"model={name!r}: takes {takes}; a model function takes (input_shape, num_classes), or nothing")


@contextlib.contextmanager
def _policy(precision: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
