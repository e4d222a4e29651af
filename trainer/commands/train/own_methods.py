"""Models that bring their own way of training, which a command must not replace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopwright import flags

if TYPE_CHECKING:
    import keras

#: The methods with which a Keras model says how it is trained.
_METHODS = ("train_step", "compute_loss", "compute_metrics", "compile")


def check(name: str, model: keras.Model) -> None:
    """Raises UsageError for a model that overrides how it is trained, and for one that is compiled.

    A command trains as its flags say, and would pass over what such a model says.
    """
    import keras

    own = [method for method in _METHODS if getattr(type(model), method) is not _of_keras(keras.Model, method, model)]
    remedy = "train it from Python with trainer.step_from_keras"
    if own:
        raise flags.UsageError(
            f"--model={name}: has its own {', '.join(own)}, which this command doesn't run; {remedy}"
        )
    if model.compiled:
        raise flags.UsageError(
            f"--model={name}: is compiled with an optimizer and a loss, but this command trains by its flags; return the "
            f"model without compile(), or {remedy}"
        )


def _of_keras(base: type, method: str, model: keras.Model) -> object:
    """Keras's own method, as the nearest class of Keras in the model's bases has it."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("keras.") and method in vars(kind):
            return vars(kind)[method]
    return getattr(base, method)
