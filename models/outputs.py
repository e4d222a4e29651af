"""Whether a model gives probabilities or logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from loopwright.models import probe
from loopwright.models.catalog import MODELS, ModelError

if TYPE_CHECKING:
    import keras

OUTPUTS = ("auto", "logits", "probabilities")

#: Inputs are drawn between 0 and each of these: scaled samples, and pixels that the model scales itself.
_SCALES = (1.0, 16.0, 256.0)
#: How far the sum of probabilities may be from 1. Half precision comes no nearer.
_TOLERANCE = 1e-2


def ends_in_probabilities(name: str, model: keras.Model, outputs: str = "auto") -> bool:
    """Whether the outputs of a classifier are probabilities rather than logits. See `is_activated`."""
    return is_activated(name, model, "softmax", outputs)


def is_activated(name: str, model: keras.Model, activation: str, outputs: str = "auto", head: str = "") -> bool:
    """Whether the model gives probabilities rather than logits.

    For a model in the table, the table says so. Any other model is called with random inputs. Probabilities lie between 0
    and 1, and those of a softmax add up to 1; logits lie outside for some inputs. The model's last operation must not
    contradict that. It decides alone only if it is a linear layer whose outputs happen to lie between 0 and 1, or if the
    model can't be called.

    Args:
      name: the name that `create` was given, or an empty text.
      activation: what makes probabilities of logits: `softmax`, `sigmoid`, or an empty text for outputs that are numbers,
        which are never probabilities.
      outputs: `logits` or `probabilities` overrules all that; `auto` asks the model.
      head: the name of the output, for a model that gives a dict.

    Raises ModelError if the answer isn't sure, such as for one sigmoid for each of several classes that exclude each other.
    """
    if not activation:
        return False
    if outputs != "auto":
        return outputs == "probabilities"
    if name in MODELS and (activation == "softmax" or MODELS[name].outputs == "logits"):
        return MODELS[name].outputs == "probabilities"
    shown, said = _shown(model, head), _last_operation(model, head)
    sure = _sure(shown, said, activation)
    if sure is None:
        doubt = _doubt(shown, said, activation)
        raise ModelError(f"{_subject(name)}: {doubt}; give outputs=logits or outputs=probabilities")
    return sure


def _sure(shown: str | None, said: str | None, activation: str) -> bool | None:
    """Whether outputs are probabilities, by what random inputs show and what the last operation says; None if unsure."""
    if said == "linear":
        return None if shown == "add up to 1" else False
    if said is None and shown == "logits":
        return False
    agrees = shown == ("add up to 1" if activation == "softmax" else "between 0 and 1")
    return True if (agrees and said in (activation, None)) or (shown is None and said == activation) else None


def _subject(name: str) -> str:
    return f"model={name!r}" if name else "the model"


def _doubt(shown: str | None, said: str | None, activation: str) -> str:
    if shown is None and said is None:
        return "its outputs may be logits or probabilities, and it can't be called with random inputs to see"
    if activation == "softmax" and shown == "between 0 and 1":
        return "its outputs lie between 0 and 1 but don't add up to 1, as one sigmoid for each class gives them"
    if activation == "sigmoid" and "softmax" in (_SHOWS.get(shown or ""), said):
        return "its outputs add up to 1, as a softmax gives them, and each label needs a probability for itself"
    says = {"linear": "logits", "softmax": "probabilities", "sigmoid": "probabilities"}.get(
        said or "", "something else"
    )
    return f"its last operation says that it gives {says}, but its outputs for random inputs {_WORDS[shown]}"


#: What each finding looks like, and which activation it points to.
_WORDS = {
    "logits": "look like logits",
    "add up to 1": "look like probabilities",
    "between 0 and 1": "lie between 0 and 1",
    None: "say nothing",
}
_SHOWS = {"add up to 1": "softmax", "between 0 and 1": "sigmoid"}


def _shown(model: keras.Model, head: str) -> str | None:
    """What random inputs show: `add up to 1`, `logits` or `between 0 and 1`; None if they show nothing."""
    found = [_of_head(outputs, head) for _, outputs in probe.calls(model, _SCALES)]
    found = [outputs for outputs in found if outputs.ndim and np.isfinite(outputs).all()]
    if not found:
        return None
    if any((outputs < -_TOLERANCE).any() or (outputs > 1 + _TOLERANCE).any() for outputs in found):
        return "logits"
    whole = all(np.abs(outputs.sum(axis=-1) - 1).max() < _TOLERANCE for outputs in found)
    return "add up to 1" if whole else "between 0 and 1"


def _last_operation(model: keras.Model, head: str) -> str | None:
    """The activation of the last layer of a Functional or Sequential model: `softmax`, `sigmoid`, `linear`, or None."""
    import keras

    last: Any = model
    place: int | None = None  # of the output in a nested model
    while isinstance(last, keras.Model) and getattr(last, "outputs", None):
        struct: Any = getattr(last, "_outputs_struct", None)
        named = place is None and isinstance(struct, dict) and head in struct
        output = struct[head] if named else last.outputs[place or 0]
        last, _, place = output._keras_history
    kind = type(last)
    if kind.__module__.startswith("keras.") and kind.__name__ in ("Softmax", "Sigmoid"):
        return kind.__name__.lower()
    activation = getattr(last, "activation", None)
    if activation in (keras.activations.softmax, keras.activations.sigmoid):
        return activation.__name__
    linear = activation is keras.activations.linear and isinstance(last, keras.layers.Dense)
    return "linear" if linear else None


def _of_head(outputs: Any, head: str) -> Any:
    """The outputs of a head, or the first of several outputs without names."""
    import keras

    return outputs[head] if isinstance(outputs, dict) and head in outputs else keras.tree.flatten(outputs)[0]
