"""The table of models, and building a Keras model of a given precision by its name."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from loopwright.models import applications

if TYPE_CHECKING:
    import keras


class ModelError(Exception):
    """A model doesn't exist or can't be used. The message says what to do."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Entry(NamedTuple):
    """A model of the table.

    Attributes:
      build: the function that builds it, as `module:function`.
      outputs: `logits` (numbers, for a regression) or `probabilities`.
      summary: a line about it.
      takes: the kinds of inputs that it takes, out of `KINDS`.
    """

    build: str
    outputs: str
    summary: str
    takes: tuple[str, ...] = ("images",)


#: The kinds of inputs, and their words in a message. `several` is a dict of inputs by name.
KINDS = {
    "images": "images",
    "tokens": "text",
    "table": "tables",
    "numbers": "arrays of numbers",
    "several": "several inputs",
}
#: Facts that a model may need, and which data have them.
FACTS = {"vocabulary_size": "only text has"}
MODELS = {
    "cnn": Entry("loopwright.models.cnn:cnn", "logits", "Conv 32, 64, 64 and Dense 64, with dropout; Functional."),
    "cnn_sequential": Entry(
        "loopwright.models.cnn_sequential:cnn_sequential", "probabilities", "Conv 32, 32 and softmax; Sequential."
    ),
    "cnn_subclass": Entry(
        "loopwright.models.cnn_subclass:cnn_subclass", "probabilities", "Conv 32, 64 and softmax; subclassed."
    ),
    "mlp": Entry("loopwright.models.mlp:mlp", "logits", "Dense 128; Sequential, no dropout.", ("images", "numbers")),
    "resnet20": Entry(
        "loopwright.models.resnet20:resnet20", "logits", "20 layers with batch norm, for CIFAR; Functional."
    ),
    "tabular": Entry(
        "loopwright.models.tabular:tabular",
        "logits",
        "3 residual blocks of Dense 256, for tables and vectors.",
        ("table", "numbers", "several"),
    ),
    "lstm": Entry(
        "loopwright.models.lstm:lstm", "logits", "Bidirectional LSTM 64, for text and sequences.", ("tokens", "numbers")
    ),
    "transformer": Entry(
        "loopwright.models.transformer:transformer", "logits", "Encoder, 2 blocks of width 64, for text.", ("tokens",)
    ),
    "gpt": Entry("loopwright.models.gpt:gpt", "logits", "Causal decoder, 4 blocks of width 128.", ("tokens",)),
}


def default(input_kind: str, task: str) -> str:
    """The name of the model for a kind of inputs and a task. Raises ModelError for an unknown kind."""
    if task == "language_model":
        return "gpt"
    names = {"images": "cnn", "tokens": "transformer", "table": "tabular", "numbers": "tabular", "several": "tabular"}
    if input_kind not in names:
        raise ModelError(
            f"model='auto': there is no model for inputs of the kind {input_kind!r}; name your own as module:function"
        )
    return names[input_kind]


def example(name: str) -> dict[str, Any]:
    """Arguments after the name with which `create` builds a model of the table where there are no data."""
    kind = MODELS[name].takes[0]
    shape = {"images": (28, 28, 1), "tokens": (64,), "table": (16,)}[kind]
    given: dict[str, Any] = {"input_shape": shape, "num_classes": 10, "input_kind": kind}
    if kind == "tokens":
        given["facts"] = {"vocabulary_size": 1000}
    return given | ({"num_classes": 1000, "output_shape": (64, 1000)} if name == "gpt" else {})


def check_name(name: str) -> None:
    """Raises ModelError unless `name` is `auto`, is in the table, or has the form module:function. Imports nothing."""
    if name == "auto":
        return
    if name.startswith(applications.PREFIX):
        function = name.removeprefix(applications.PREFIX)
        if function not in applications.NAMES:
            raise ModelError(f"model={name!r}: no such model; {_nearest(function, applications.NAMES)}")
    elif name not in MODELS and ":" not in name:
        hint = _nearest(name, MODELS)
        others = f"({', '.join(MODELS)}, {applications.PREFIX}NAME, or module:function)"
        raise ModelError(f"model={name!r}: no such model; {hint}{others}")


def create(
    name: str,
    input_shape: Any,
    num_classes: Any,
    *,
    precision: str = "float32",
    facts: Mapping[str, Any] | None = None,
    input_kind: str | None = None,
    output_shape: Any = None,
    check: bool = True,
) -> keras.Model:
    """A built model for samples of `input_shape` (without the batch), whose layers have the dtype policy `precision`.

    Args:
      name: a key of `MODELS`, `keras.applications:NAME`, or `module:function`. The function takes
        (input_shape, num_classes), or nothing.
      input_shape: of one sample, without the batch; a dict by name for several inputs.
      num_classes: the numbers in the last axis of the outputs; a dict by name for several targets.
      precision: `float32`, `mixed_bfloat16` or `mixed_float16`. The global policy doesn't change.
      facts: more about the data by name, such as `vocabulary_size`. The function gets those that it names as parameters.
      input_kind: one of `KINDS`. A model of the table that doesn't take it is refused. Samples are int32 for `tokens`, and
        float32 otherwise.
      output_shape: of the outputs for a sample; a dict by name for several targets. None means `(num_classes,)`. It is one
        of the facts.
      check: whether `check_fits` builds and checks the model. The caller does it otherwise.

    Raises ModelError for an unknown name, for a function that can't be imported or doesn't return a Keras model, and
    for a model that doesn't fit the samples and classes.
    """
    import keras

    check_name(name)
    if input_kind is not None:
        _check_kind(name, input_kind)
    function = _function(name)
    facts = {**(facts or {}), **({} if output_shape is None else {"output_shape": output_shape})}
    positional, named = _arguments(name, function, (input_shape, num_classes), facts)
    with _policy(precision):
        try:
            model = function(*positional, **named)
        except ValueError as error:
            raise ModelError(
                f"model={name!r}: can't be built for samples of shape {input_shape}: {_reason(error)}"
            ) from error
        if not isinstance(model, keras.Model):
            raise ModelError(f"model={name!r}: returned a {type(model).__name__}, not a keras.Model")
        if check:
            of_target = {"output_shape": output_shape, "dtype": dtype_of(input_kind)}
            check_fits(f"model={name!r}", model, input_shape, num_classes, **of_target)
    return model


def dtype_of(input_kind: str | None) -> str:
    """The dtype of inputs of a kind."""
    return "int32" if input_kind == "tokens" else "float32"


def check_fits(
    what: str,
    model: keras.Model,
    input_shape: Any,
    num_classes: Any,
    *,
    output_shape: Any = None,
    dtype: Any = "float32",
) -> Any:
    """Calls the model once, which builds it, and returns the shape of its outputs for a sample; a dict by name for several.

    Raises ModelError unless the outputs have the shape that the target needs.

    Args:
      what: the beginning of the message, such as `model='cnn'`.
      input_shape: the shape of a sample, without the batch; a dict by name if there are several inputs.
      num_classes: the number of classes, or 0 for a regression, whose outputs may have any shape.
      output_shape: of the outputs for a sample; a dict by name for a model that gives one. None means `(num_classes,)`.
      dtype: of a sample; a dict by name if the inputs have different dtypes.
    """
    import keras

    def one(shape: Any, dtype: Any) -> Any:
        if isinstance(shape, Mapping):
            return {key: one(part, dtype[key] if isinstance(dtype, Mapping) else dtype) for key, part in shape.items()}
        return keras.ops.zeros((1, *shape), dtype)

    try:
        # Only a call gives every layer of a subclassed model its shape; `build` doesn't.
        outputs = model(one(input_shape, dtype), training=False)
    except ValueError as error:
        raise ModelError(f"{what}: can't take samples of shape {input_shape}: {_reason(error)}") from error
    shapes = keras.tree.map_structure(lambda part: tuple(part.shape)[1:], outputs)
    if output_shape is None and isinstance(num_classes, Mapping):
        output_shape = {key: (size,) for key, size in num_classes.items()}
    if output_shape is not None:
        check_outputs(what, shapes, output_shape)
    elif num_classes:
        check_outputs(what, shapes, (num_classes,), classes=num_classes)
    return shapes


def check_outputs(what: str, shapes: Any, expected: Any, *, classes: int = 0) -> None:
    """Raises ModelError unless the shapes of the outputs for a sample are those that the target needs.

    Both are a tuple of sizes, or a dict of them by name. The message names the number of classes if there is one.
    """
    if isinstance(expected, Mapping):
        if not isinstance(shapes, Mapping) or set(shapes) != set(expected):
            given = (
                f"outputs named {', '.join(sorted(shapes))}" if isinstance(shapes, Mapping) else "no dict of outputs"
            )
            raise ModelError(f"{what}: gives {given}; the targets need a dict with {', '.join(sorted(expected))}")
        for name, part in expected.items():
            check_outputs(f"{what}: output {name!r}", shapes[name], part)
    elif shapes != tuple(expected) and (shapes, tuple(expected)) != ((), (1,)):
        needs = f"{classes} classes need" if classes else "the target needs"
        raise ModelError(f"{what}: gives outputs of shape {shapes} for a sample; {needs} {tuple(expected)}")


def _check_kind(name: str, kind: str) -> None:
    """Raises ModelError for a model of the table or of `keras.applications` that doesn't take a kind of inputs."""
    takes = ("images",) if name.startswith(applications.PREFIX) else MODELS[name].takes if name in MODELS else (kind,)
    if kind not in takes:
        others = [other for other, entry in MODELS.items() if kind in entry.takes]
        raise ModelError(
            f"model={name!r}: takes {' or '.join(KINDS[part] for part in takes)}, and the data are {KINDS[kind]}; "
            f"give model={', '.join(others)}, or module:function"
        )


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}? " if close else ""


def _function(name: str) -> Any:
    if name.startswith(applications.PREFIX):
        return functools.partial(applications.build, name.removeprefix(applications.PREFIX))
    return _resolve(MODELS[name].build if name in MODELS else name)


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


def _arguments(
    name: str, function: Any, given: tuple[Any, ...], facts: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a function: all that are given, or none, and the facts that it names.

    Raises ModelError if it takes neither, and if it needs a fact that the data don't have.
    """
    takes = inspect.signature(function)
    named = {key: value for key, value in facts.items() if key in takes.parameters}
    for arguments in (given, ()):
        with contextlib.suppress(TypeError):
            takes.bind(*arguments, **named)
            return arguments, named
    with contextlib.suppress(TypeError):
        takes.bind_partial(*given)
        lacking = [
            key
            for key, part in takes.parameters.items()
            if part.kind is part.KEYWORD_ONLY and part.default is part.empty and key not in named
        ]
        if lacking and set(lacking) <= set(FACTS):
            raise ModelError(f"model={name!r}: needs {lacking[0]}, which {FACTS[lacking[0]]}")
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
