"""Which features of a dataset are its inputs, its labels and its weight."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import tensorflow_datasets as tfds

from loopwright.data.errors import DataError

#: What the description of a string feature may say of it. Otherwise its values decide.
CATEGORY, LONG_TEXT = "category", "text"
#: The task whose label is the text itself, one token further on.
LANGUAGE_MODEL = "language_model"


@dataclasses.dataclass(frozen=True)
class Keys:
    """Which features make up a sample: one or more inputs, the label (or target), and optionally the weight.

    `label` holds several names, separated by commas, where there are several labels. It is empty where there is none, as for
    a language model.
    """

    inputs: tuple[str, ...]
    label: str
    weight: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return split_names(self.label)

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.inputs, *self.labels, *([self.weight] if self.weight else []))

    def arrange(self, features: dict[str, Any]) -> dict[str, Any]:
        """Arranges features as `x`, `y` and, with a weight, `sample_weight`.

        `x` and `y` are dicts by name where there are several. Without a label there is no `y`.
        """
        arranged = {"x": _several(self.inputs, features)}
        arranged |= {"y": _several(self.labels, features)} if self.labels else {}
        return arranged | ({"sample_weight": features[self.weight]} if self.weight else {})


def split_names(names: str) -> tuple[str, ...]:
    """The names in a text such as `a,b`."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def choose_keys(
    name: str,
    info: tfds.core.DatasetInfo,
    input_key: str | None,
    label_key: str | None,
    weight_key: str | None,
    task: str = "auto",
) -> Keys:
    """The feature names of the inputs, the labels and the weight: those that are given, or otherwise the builder's.

    A language model has a single input and no label. That is also the choice where a text is all that a dataset holds.

    Raises DataError (exit 2) for a name that is no feature, and if the builder doesn't say what its input and label are.
    """
    inputs, labels = _supervised_keys(info)
    text = _only_text(info.features)
    nothing_said = label_key is None and input_key in (None, text) and not labels
    if task == LANGUAGE_MODEL or (task == "auto" and text and nothing_said and len(info.features) == 1):
        parameter = "label_key" if label_key else "weight_key"
        if label_key or weight_key:
            raise DataError(
                f"{parameter}={label_key or weight_key!r}: a language model learns from a text alone; leave it out",
                exit_code=2,
            )
        return _language_keys(name, info, input_key or text or ",".join(inputs))
    labels = labels or ("label",) if label_key is None else split_names(label_key)
    if input_key is not None:
        inputs = split_names(input_key)
    elif len(inputs) > 1:
        inputs = tuple(key for key in inputs if key not in (*labels, weight_key))
    keys = Keys(inputs or ("image",), ",".join(labels), weight_key)
    given = {"input_key": input_key, "label_key": label_key, "weight_key": weight_key}
    parameters = dict.fromkeys(keys.inputs, "input_key") | dict.fromkeys(keys.labels, "label_key")
    parameters |= {weight_key: "weight_key"} if weight_key else {}
    for key, parameter in parameters.items():
        if key in info.features:
            continue
        if given[parameter] is not None:
            raise DataError(
                f"{parameter}={key!r}: no such feature of {name} {nearest(key, info.features)}", exit_code=2
            )
        raise DataError(
            f"{name} doesn't say what its input and its label are; name them with input_key and label_key, out of "
            f"{', '.join(info.features)}",
            exit_code=2,
        )
    both = [key for key in keys.inputs if key in (*keys.labels, weight_key)]
    if both:
        raise DataError(
            f"input_key={','.join(keys.inputs)!r}: {both[0]!r} is the label or the weight, too; name other inputs",
            exit_code=2,
        )
    return keys


def nearest(value: str, choices: Iterable[str]) -> str:
    """The choices, and the one most similar to a mistyped value: "(train, test); did you mean 'test'?"."""
    choices = list(choices)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f"({', '.join(choices)})" + (f"; did you mean {close[0]!r}?" if close else "")


def _language_keys(name: str, info: tfds.core.DatasetInfo, input_key: str) -> Keys:
    """The keys of a language model. Raises DataError (exit 2) unless the input is one text."""
    feature = dict(info.features.items()).get(input_key)
    if not is_text(feature):
        texts = [key for key, feature in info.features.items() if is_text(feature)]
        remedy = f"name one with input_key, out of {', '.join(texts)}" if texts else "choose another task"
        problem = f"and {name} has {len(texts)} of them"
        if feature is not None:
            problem = f"and {input_key!r} of {name} is a {type(feature).__name__}"
        elif input_key:
            problem = f"and {name} has no feature {input_key!r}"
        raise DataError(f"task={LANGUAGE_MODEL!r} learns from one text, {problem}; {remedy}", exit_code=2)
    return Keys((input_key,), "")


def is_text(feature: Any) -> bool:
    """Whether a feature is a single string."""
    return (
        isinstance(feature, tfds.features.Tensor) and feature.shape == () and feature.np_dtype in (object, str, bytes)
    )


def _only_text(features: tfds.features.FeaturesDict) -> str | None:
    texts = [key for key, feature in features.items() if is_text(feature) and feature.doc.desc != CATEGORY]
    return texts[0] if len(texts) == 1 else None


def _supervised_keys(info: tfds.core.DatasetInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The feature names of the inputs and of the labels that the builder declares. Empty where it declares none."""
    keys = info.supervised_keys
    if keys and len(keys) >= 2:
        inputs, labels = _names(keys[0]), _names(keys[1])
        if inputs and labels:
            return inputs, labels
    return (), ()


def _names(part: Any) -> tuple[str, ...]:
    """The names in a part of supervised keys: a name, or several in a tuple or as the values of a dict."""
    if isinstance(part, str):
        return (part,)
    several = tuple(part.values()) if isinstance(part, dict) else tuple(part) if isinstance(part, tuple) else ()
    return several if all(isinstance(key, str) for key in several) else ()


def _several(names: tuple[str, ...], features: dict[str, Any]) -> Any:
    return {name: features[name] for name in names} if len(names) > 1 else features[names[0]]
