"""Whether a model scales its inputs itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from loopwright.models import probe

if TYPE_CHECKING:
    import keras

#: The largest spread of inputs that are fit for training. That of pixels from 0 to 255 is 74, and that of [0, 1] is 0.3.
_FIT = 10.0
#: Larger inputs are fit, too, if their mean is less than this share of their spread: Caffe's networks take centred pixels.
_CENTRED = 0.5
#: Operations of `keras.ops` by which a model scales its inputs, such as `x / 255`.
_ARITHMETIC = ("Divide", "TrueDivide", "Multiply", "Subtract", "Add")


def scales_itself(model: keras.Model, largest: float = 255.0) -> str | None:
    """What makes the model take pixels from 0 to `largest` rather than inputs in [0, 1]; None if nothing does.

    That is one of:

    - an input of an integer dtype;
    - a `Rescaling` or `Normalization` layer, anywhere in the model, that gets the pixels as they came in. Layers before
      it may crop, resize or move them. It must make them small or centre them: `Rescaling(2, offset=-1)` takes inputs in
      [0, 1];
    - arithmetic with a constant as the first operation of a Functional model, such as `x / 255`.

    Arithmetic inside a subclassed model or a `Lambda` isn't seen.
    """
    for tensor in getattr(model, "inputs", None) or ():
        if "int" in tensor.dtype and len(tensor.shape) > 3:
            return f"its input of dtype {tensor.dtype}"
    return _scaling_layer(model, largest) or _scaling_operation(model, largest)


def _scaling_layer(model: keras.Model, largest: float) -> str | None:
    import keras

    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    layers = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kinds)]
    seen: list[tuple[str, float, bool]] = []

    def record(layer: Any, inputs: Any, outputs: Any) -> None:
        values, results = (np.asarray(keras.ops.cast(part, "float32")) for part in (inputs, outputs))
        fit = results.std() < _FIT or abs(results.mean()) < _CENTRED * results.std()
        seen.append((f"{type(layer).__name__} ({layer.name!r})", float(values.mean()), bool(fit)))

    if not layers:
        return None
    with probe.recorded(layers, record):
        for inputs, _ in probe.calls(model, (largest,)):
            means = [float(np.mean(part)) for part in keras.tree.flatten(inputs)]
            for what, mean, fit in seen:
                if fit and any(abs(mean - given) < 0.1 * given for given in means):
                    return what
    return None


def _scaling_operation(model: keras.Model, largest: float) -> str | None:
    """The first operation of a Functional model, or of a model nested at its entrance, if it scales by a constant."""
    import keras

    graph = getattr(model, "_functional", None) or model  # a Sequential model keeps its graph in there
    entrance = {id(tensor) for tensor in getattr(graph, "inputs", None) or ()}
    for operation in getattr(graph, "operations", ()):
        for node in operation._inbound_nodes:
            if not entrance & {id(tensor) for tensor in node.input_tensors}:
                continue
            if isinstance(operation, keras.Model) and (found := _scaling_operation(operation, largest)):
                return found
            constant = [part for part in keras.tree.flatten(node.arguments.args) if isinstance(part, int | float)]
            if type(operation).__name__ in _ARITHMETIC and len(node.input_tensors) == 1 and constant:
                spread = float(np.std(operation(np.linspace(0, largest, 256, dtype=np.float32), *constant)))
                if spread < _FIT:
                    return f"the operation {operation.name!r} with {constant[0]:g}"
    return None
