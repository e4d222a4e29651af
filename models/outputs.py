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
    """Whether the outputs of the model are probabilities rather than logits.

    For a model in the table, the table says so. Any other model is called with random inputs. Its outputs are
    probabilities if those of every sample lie between 0 and 1 and add up to 1, and logits if some lie outside. The
    model's last operation must not contradict that. It decides alone only if it is a linear layer whose outputs happen
    to lie between 0 and 1, or if the model can't be called.

    Args:
      name: the name that `create` was given, or an empty text.
      outputs: `logits` or `probabilities` overrules all that; `auto` asks the model.

    Raises ModelError if the answer isn't sure, such as for one sigmoid a class.
    """
    if outputs != "auto":
        return outputs == "probabilities"
    if name in MODELS:
        return MODELS[name].outputs == "probabilities"
    shown, said = _shown(model), _last_operation(model)
    if shown == said is not None:
        return shown == "probabilities"
    if shown in ("logits", "probabilities") and said is None:
        return shown == "probabilities"
    if said == "logits" and shown in ("between 0 and 1", None):
        return False
    if said == "probabilities" and shown is None:
        return True
    raise ModelError(f"{_subject(name)}: {_doubt(shown, said)}; give outputs=logits or outputs=probabilities")


def _subject(name: str) -> str:
    return f"model={name!r}" if name else "the model"


def _doubt(shown: str | None, said: str | None) -> str:
    if shown == "between 0 and 1":
        return "its outputs lie between 0 and 1 but don't add up to 1, as one sigmoid for each class gives them"
    if shown is None:
        return "its outputs may be logits or probabilities, and it can't be called with random inputs to see"
    return f"its last operation says that it gives {said}, but its outputs for random inputs look like {shown}"


def _shown(model: keras.Model) -> str | None:
    """What random inputs show: `probabilities`, `logits` or `between 0 and 1`; None if they show nothing."""
    found = [outputs for _, outputs in probe.calls(model, _SCALES) if outputs.ndim and np.isfinite(outputs).all()]
    if not found:
        return None
    if any((outputs < -_TOLERANCE).any() or (outputs > 1 + _TOLERANCE).any() for outputs in found):
        return "logits"
    whole = all(np.abs(outputs.sum(axis=-1) - 1).max() < _TOLERANCE for outputs in found)
    return "probabilities" if whole else "between 0 and 1"


def _last_operation(model: keras.Model) -> str | None:
    """What the last operation of a Functional or Sequential model says: a softmax, or a linear layer; None otherwise."""
    import keras

    last: Any = model
    while isinstance(last, keras.Model) and getattr(last, "outputs", None):
        last = last.outputs[0]._keras_history.operation
    kind = type(last)
    if kind.__module__.startswith("keras.") and kind.__name__ == "Softmax":
        return "probabilities"
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax:
        return "probabilities"
    linear = activation is keras.activations.linear and isinstance(last, keras.layers.Dense)
    return "logits" if linear else None
