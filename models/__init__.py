"""Keras models by name. Each has its own file and a line in `MODELS`. Importing this package loads no TensorFlow."""

from loopwright.models.catalog import MODELS, Entry, ModelError, check_fits, check_name, create, ends_in_probabilities

__all__ = ["MODELS", "Entry", "ModelError", "check_fits", "check_name", "create", "ends_in_probabilities"]
