"""What a model must do after its variables were assigned: some layers compute with copies of their variables."""

from __future__ import annotations

from typing import Any

import keras


def finalize_layers(*owners: Any) -> None:
    """Calls `finalize_state` of every layer that has it, such as `Normalization`, whose mean is a copy of a variable.

    Call it after every assignment of weights that Keras itself doesn't make, and before a step is traced. Owners that
    aren't models are passed over.
    """
    layers = [layer for model in owners if isinstance(model, keras.Model) for layer in model._flatten_layers()]
    for layer in layers:
        # The boundaries of Discretization come from no variable, so there is nothing to renew.
        if hasattr(layer, "finalize_state") and not isinstance(layer, keras.layers.Discretization):
            layer.finalize_state()
