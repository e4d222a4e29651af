"""Which parts of a model a pattern leaves out of training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from loopwright.models.catalog import ModelError

if TYPE_CHECKING:
    import keras


def matched(model: keras.Model, pattern: str) -> list[Any]:
    """The layers and variables whose `trainable` is to be False, so that what matches the pattern isn't trained.

    These are the variables with a match in their path, and before them the layers whose weights all match. A layer that is
    frozen as a whole says more than its variables: batch normalisation then uses its moving statistics and leaves them as
    they are, as Keras's guide to transfer learning wants it. Setting all of them to True takes it back.

    Raises ModelError if the pattern matches none of the trainable variables, or all of them.
    """
    variables = model.trainable_variables
    found = [variable for variable in variables if re.search(pattern, variable.path)]
    if not found or len(found) == len(variables):
        some = ", ".join(variable.path for variable in variables[:4]) + (", …" if len(variables) > 4 else "")
        raise ModelError(
            f"freeze={pattern}: matches {'none' if not found else 'all'} of the {len(variables)} variables: {some}"
        )
    leaves = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not layer._layers and layer.trainable and layer.weights
    ]
    return [
        *(layer for layer in leaves if all(re.search(pattern, weight.path) for weight in layer.weights)),
        *found,
    ]
