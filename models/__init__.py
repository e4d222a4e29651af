"""Keras models by name: one architecture a file, one line of `MODELS` each. Importing this loads no TensorFlow."""

from loopwright.models.catalog import MODELS, Entry, ModelError, check_fits, check_name, create, ends_in_probabilities

__all__ = ["MODELS", "Entry", "ModelError", "check_fits", "check_name", "create", "ends_in_probabilities"]
