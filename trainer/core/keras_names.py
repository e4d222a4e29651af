"""Keras's losses and metrics by name, with arguments: `huber`, `huber:delta=2`, `module:function`.

A name may have any of the spellings that Keras knows: `mse`, `MeanSquaredError`, `mean_squared_error`. Arguments follow it,
each as `:key=value`. A value is a number, `true`, `false`, `none`, a text, or a comma separated list of such values.
Instead of a name of Keras, `module:function` names a loss or metric of the user's own.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from loopwright.trainer.base.errors import first_line, what
from loopwright.trainer.core.prepared import OF_ONE_CLASS_EACH, OF_SCORES, OwnMetric, PreparedLoss, PreparedMetric

#: The short names that Keras has for some losses and metrics, in lower case.
SHORT = {
    "bce": "BinaryCrossentropy",
    "kld": "KLDivergence",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "mse": "MeanSquaredError",
    "msle": "MeanSquaredLogarithmicError",
}
#: Classes of Keras that can't be named, because they are bases or need objects.
UNNAMED = ("Loss", "Metric", "Mean", "Sum", "MeanMetricWrapper", "Optimizer", "LossScaleOptimizer", "MultiOptimizer")
#: Names of this package for metrics of Keras.
OWN_METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "top_5": ("TopKCategoricalAccuracy", {"k": 5}),
    "f1": ("F1Score", {"average": "macro"}),
}
#: Metrics that compare classes, and say nothing about numbers.
_OF_CLASSES = re.compile(r".*(Accuracy|IoU|F1Score|FBetaScore|AUC|Precision|Recall|tives|Sensitivity|Specificity)")
#: Metrics that depend only on the order of the outputs, which no activation changes.
_OF_ORDER = ("CategoricalAccuracy", "TopKCategoricalAccuracy", "IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU")
#: Losses and metrics of one class out of several, which outputs that stand alone don't give.
_OF_ONE_CLASS = re.compile(r"Sparse.*|CategoricalGeneralized.*|(TopK)?CategoricalAccuracy|(OneHot)?(Mean)?IoU")
#: Arguments that Keras takes as lists only.
_LISTS = ("target_class_ids", "boundaries", "values", "exclude_layers")


class Named(NamedTuple):
    """A text such as `huber:delta=2`, taken apart: a name of Keras or `module:function`, and arguments."""

    name: str
    options: dict[str, Any]

    @property
    def is_own(self) -> bool:
        """Whether it is `module:function`."""
        return ":" in self.name


def parse(parameter: str, text: str) -> Named:
    """Takes a name with arguments apart. Raises ValueError, naming the parameter, for arguments that aren't `key=value`."""
    name, *parts = (part.strip() for part in text.strip().strip(",").split(":"))
    if parts and "=" not in parts[0]:
        name = f"{name}:{parts.pop(0)}"
    options = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(
                f"{parameter}={text}: {part!r} is no argument; write NAME:key=value, such as huber:delta=2"
            )
        options[key] = _value(value, listed=key in _LISTS)
    return Named(name, options)


def split(text: str) -> list[str]:
    """Comma separated names, each with its arguments. A comma before anything but a letter is part of a list."""
    return [part.strip() for part in re.split(r",(?=\s*[A-Za-z_])", text) if part.strip(" ,")]


def _value(text: str, *, listed: bool = False) -> Any:
    """The value of an argument: int, float, bool, None, str, or a list of these."""
    if listed or "," in text:
        return [_value(part.strip()) for part in text.split(",") if part.strip()]
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def make_loss(text: str, *, from_logits: bool = False, activation: str | None = None, **defaults: Any) -> Any:
    """A loss by name, as `compile` takes it.

    Args:
      from_logits: whether the model's outputs are logits. It is given to a loss that takes it, unless the text says it.
      activation: what makes probabilities of logits: `softmax`, `sigmoid`, or an empty text for outputs that are numbers.
        It tells what the labels are, so that they are brought into the form that the loss compares: classes become one-hot
        labels, and logits become probabilities for a loss that has no `from_logits`. None leaves both as they are.
      defaults: arguments that the text may override, such as `label_smoothing`.

    Raises ValueError for an unknown name, and for arguments that the loss doesn't take.
    """
    named = parse("loss", text)
    if named.is_own:
        own = _own("loss", text, named, {"from_logits": from_logits, **defaults}, keras.losses.Loss)
        if activation is None or not isinstance(own, keras.losses.Loss):
            return own  # Keras itself gives a function labels of the rank of the outputs
        return PreparedLoss(own, type(own).__name__, "", one_hot=False)
    kind = keras_class("loss", text, named.name)
    takes = inspect.signature(kind).parameters
    _check_kind("loss", text, kind, activation)
    for key in set(defaults) - set(takes):
        raise ValueError(f"loss={text}: takes no {key}; leave out {key}={defaults[key]}")
    options, logits = {**defaults, **named.options}, from_logits
    if "from_logits" in takes:
        options, logits = {"from_logits": from_logits, **options}, False
    made = build("loss", text, kind, options)
    if activation is None:
        return made
    activate = activation if logits and kind.__name__ not in OF_SCORES else ""
    return PreparedLoss(made, kind.__name__, activate, one_hot=activation == "softmax")


def make_metrics(
    texts: str | Iterable[str], *, from_logits: bool = False, activation: str | None = None, num_classes: int = 0
) -> list[Any]:
    """Metrics by name, as `compile` takes them. Each is recorded under its name as typed, or under its argument `name`.

    `accuracy` is that of the outputs' kind. `top_5`, `f1` (macro) and, for `softmax`, `auc` (macro, one class against the
    others) are as in `trainer.classification`.

    Args:
      from_logits, activation: see `make_loss`. A metric of probabilities is given probabilities.
      num_classes: for the metrics that must be told, unless their text says it.

    Raises ValueError for an unknown name, for arguments that a metric doesn't take, for metrics of classes where the outputs
    are numbers, and for two metrics that would be recorded under one name.
    """
    texts = split(texts) if isinstance(texts, str) else texts
    found: dict[str, Any] = {}
    for text in dict.fromkeys(texts):
        metric = _metric(text, from_logits, activation, num_classes)
        name = metric if isinstance(metric, str) else getattr(metric, "name", getattr(metric, "__name__", text))
        if name in found:
            raise ValueError(
                f"metrics={text}: another metric is recorded as {name}, too; give this one a name: {text}:name={name}_2"
            )
        found[name] = metric
    return list(found.values())


def _metric(text: str, from_logits: bool, activation: str | None, num_classes: int) -> Any:
    named = parse("metrics", text)
    if named.is_own:
        own = _own("metrics", text, named, {"from_logits": from_logits}, keras.metrics.Metric)
        if activation is None or not isinstance(own, keras.metrics.Metric):
            return own
        return OwnMetric(own, "", one_hot=False)
    by_kind = named.name.lower() in ("accuracy", "acc")
    if by_kind and activation in (None, "softmax"):
        if named.options:
            raise ValueError(
                f"metrics={text}: accuracy takes no arguments; name binary_accuracy or categorical_accuracy"
            )
        return named.name  # `compile` finds the one of these shapes
    known, preset = OWN_METRICS.get(named.name, ("BinaryAccuracy" if by_kind else named.name, {}))
    kind = keras_class("metrics", text, known)
    _check_kind("metrics", text, kind, activation)
    takes = inspect.signature(kind).parameters
    by_task = _by_task(kind.__name__, activation, num_classes)
    options = {"name": named.name, **preset, **{k: v for k, v in by_task.items() if k in takes}, **named.options}
    if "k" in takes and 0 < num_classes <= options.get("k", takes["k"].default):
        raise ValueError(
            f"metrics={text}: the best {options.get('k', 5)} of {num_classes} classes say nothing; give fewer: k"
        )
    logits = from_logits and "from_logits" not in named.options
    if logits and "from_logits" in takes and not (kind is keras.metrics.AUC and activation == "softmax"):
        options["from_logits"], logits = True, False
    made = build("metrics", text, kind, options)
    activate = logits and kind.__name__ not in (*OF_SCORES, *OF_ONE_CLASS_EACH, *_OF_ORDER)
    if activation is None:
        if activate:
            raise ValueError(f"metrics={text}: needs probabilities of logits; give activation='softmax' or 'sigmoid'")
        return made
    return PreparedMetric(made, activation if activate else "", one_hot=activation == "softmax")


def _check_kind(parameter: str, text: str, kind: type, activation: str | None) -> None:
    """Raises ValueError for a loss or metric that says nothing about outputs with an activation."""
    of_one = bool(_OF_ONE_CLASS.fullmatch(kind.__name__))
    if activation == "" and (of_one or _OF_CLASSES.fullmatch(kind.__name__)):
        raise ValueError(f"{parameter}={text}: compares classes, but the outputs are numbers; mae is one of numbers")
    if activation == "sigmoid" and of_one:
        raise ValueError(
            f"{parameter}={text}: compares one class out of several, but each output stands alone; binary_crossentropy, "
            "binary_accuracy, auc and f1 are for these"
        )


def _by_task(kind: str, activation: str | None, num_classes: int) -> dict[str, Any]:
    """Arguments that a metric gets for outputs with an activation, unless its text says otherwise."""
    options: dict[str, Any] = {"num_classes": num_classes} if num_classes else {}
    if activation == "sigmoid" and kind in ("F1Score", "FBetaScore"):
        options["threshold"] = 0.5  # without one, Keras takes the greatest output for the label
    if activation == "softmax":
        options |= {"multi_label": True, "sparse_y_pred": False}
    return options


#: Where Keras keeps what a parameter names, and the class that all of it has.
_PLACES: dict[str, tuple[Any, type]] = {
    "loss": (keras.losses, keras.losses.Loss),
    "metrics": (keras.metrics, keras.metrics.Metric),
    "optimizer": (keras.optimizers, keras.optimizers.Optimizer),
    "learning_rate": (keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
}


@functools.cache
def keras_classes(parameter: str) -> dict[str, type]:
    """The classes that a parameter may name, by their names in Keras."""
    module, base = _PLACES[parameter]
    found = {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, base)}
    return {name: kind for name, kind in found.items() if name not in UNNAMED and kind is not base}


def keras_class(parameter: str, text: str, name: str) -> type:
    """A class of Keras by any spelling of its name. Raises ValueError with the nearest name for any other."""
    classes = {simple(known): kind for known, kind in keras_classes(parameter).items()}
    own = OWN_METRICS if parameter == "metrics" else {}
    found = classes.get(simple(SHORT.get(name.lower(), name)))
    if found is None:
        known = {simple(known): spelled(parameter, known) for known in keras_classes(parameter)} | {
            name: name for name in own
        }
        near = difflib.get_close_matches(simple(name), known, 1, 0.5)
        hint = f"did you mean {known[near[0]]!r}?" if near else f"Keras has {', '.join(sorted(known.values()))}"
        raise ValueError(f"{parameter}={text}: {name!r} is unknown; {hint}")
    return found


def simple(name: str) -> str:
    """A name without what distinguishes its spellings: `MeanSquaredError` and `mean_squared_error` are one."""
    return name.replace("_", "").lower()


def spelled(parameter: str, name: str) -> str:
    """The name of a class in lower case, as messages write it: `mean_squared_error`, `rmsprop`."""
    if parameter == "optimizer":
        return name.lower()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().replace("io_u", "iou")


def build(parameter: str, text: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Calls a class or a function with arguments by name.

    A whole number becomes a float where the default is one: Keras computes some of these in the type that it is given.
    Raises ValueError for arguments that it doesn't take, that are missing, or whose values it refuses.
    """
    takes = {key: known for key, known in inspect.signature(kind).parameters.items() if known.kind != known.VAR_KEYWORD}
    for key, value in options.items():
        if key not in takes:
            near = difflib.get_close_matches(key, takes, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(takes) or 'no arguments'}"
            raise ValueError(f"{parameter}={text}: takes no argument {key!r}; {hint}")
        _check_type(f"{parameter}={text}", key, value, takes[key].default)
    missing = _missing(kind, options)
    if missing:
        raise ValueError(f"{parameter}={text}: needs {missing[0]}; write {text}:{missing[0]}=VALUE")
    typed = {
        key: float(value) if type(value) is int and isinstance(takes[key].default, float) else value
        for key, value in options.items()
    }
    try:
        return kind(**typed)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{parameter}={text}: {first_line(error)}") from error


def _missing(function: Callable[..., Any], given: Iterable[str]) -> list[str]:
    """The arguments that a function needs beside those that are given."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = inspect.signature(function).parameters.values()
    return [
        one.name for one in known if one.default is one.empty and one.kind not in variable and one.name not in given
    ]


def _check_type(said: str, key: str, value: Any, default: Any) -> None:
    """Raises ValueError for a value whose type differs from that of the default. Keras itself often fails only later."""
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ValueError(f"{said}: {key} is true or false, not {value}")
    if isinstance(default, int | float) and not isinstance(default, bool) and isinstance(value, str | bool):
        raise ValueError(f"{said}: {key} is a number, not {value}")


def resolve(parameter: str, text: str, name: str) -> Any:
    """What `module:function` names. Raises ValueError where it can't be imported."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{parameter}={text}: can't be imported: {first_line(error)}") from error


def _own(parameter: str, text: str, named: Named, given: Mapping[str, Any], base: type) -> Any:
    """A user's loss or metric: a function of (y_true, y_pred) as it is, or an object, or what makes one.

    A class, or a function without (y_true, y_pred), is called. It gets those of the `given` arguments that it takes.
    """
    found = resolve(parameter, text, named.name)
    if isinstance(found, base):
        return fresh(parameter, text, found) if issubclass(base, keras.metrics.Metric) else found
    if not callable(found):
        raise ValueError(f"{parameter}={text}: names {what(found)}; name a function, a class or an object")
    takes = inspect.signature(found).parameters
    options = {**{key: value for key, value in given.items() if key in takes}, **named.options}
    if isinstance(found, type) or len(_missing(found, options)) != 2:
        made = build(parameter, text, found, options)
        if not isinstance(made, base) and not callable(made):
            raise ValueError(f"{parameter}={text}: gives {what(made)}; let it return an object of Keras")
        return made
    if not options:
        return found

    @functools.wraps(found)
    def with_options(y_true: Any, y_pred: Any) -> Any:
        return found(y_true, y_pred, **options)

    return with_options


def fresh(parameter: str, text: str, given: Any) -> Any:
    """A copy of a metric or an optimizer, which belongs to one model. Raises ValueError for one that can't be copied."""
    try:
        return type(given).from_config(given.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{parameter}={text}: the object can't be copied for a model ({first_line(error)}); name its class, or a "
            "function that makes it"
        ) from error


def parse_class_weight(text: str, names: Sequence[str], counts: Callable[[], Sequence[int]]) -> dict[int, float]:
    """The weight of each class by its number, from `balanced`, `0:1,1:6.5` or `spam:6.5,ham:1`.

    Args:
      names: of the classes. A number that is the name of a class means that class.
      counts: gives the samples of each class in the training split. It is called for `balanced` alone, where the weight of
        a class is samples / (classes * samples of the class), as in scikit-learn.

    Raises ValueError for unknown classes, for weights that aren't positive numbers, and for `balanced` where a class has no
    sample.
    """
    if text == "balanced":
        found = [int(count) for count in counts()]
        empty = [name for name, count in zip(names, found, strict=True) if count == 0]
        if empty:
            raise ValueError(
                f"class_weight=balanced: the class {empty[0]!r} has no sample; give weights: {empty[0]}:1,…"
            )
        return {label: sum(found) / (len(found) * count) for label, count in enumerate(found)}
    weights: dict[int, float] = {}
    for word in text.split(","):
        name, _, number = word.strip().rpartition(":")
        label = _label(name, names, text)
        try:
            weights[label] = float(number)
        except ValueError:
            weights[label] = 0.0
        if not 0 < weights[label] < float("inf"):
            raise ValueError(
                f"class_weight={text}: {word!r} gives no positive number; write CLASS:WEIGHT,… or balanced"
            )
    return weights


def _label(name: str, names: Sequence[str], text: str) -> int:
    """The number of a class by its name or number."""
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    if not name:
        raise ValueError(f"class_weight={text}: write balanced, or CLASS:WEIGHT for each class, such as 0:1,1:6.5")
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(names[:20])}"
    raise ValueError(f"class_weight={text}: there is no class {name!r}; {hint}")
