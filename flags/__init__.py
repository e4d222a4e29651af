"""The command line as typed: flags, their help and their validation. Imports absl, never TensorFlow."""

from loopwright.flags.config import (
    Benchmark,
    Config,
    Data,
    Description,
    Evaluation,
    Listing,
    Model,
    Optimization,
    Run,
    flag_values,
    identity,
    to_arguments,
    to_flagfile,
)
from loopwright.flags.parse import (
    TRAIN_GROUPS,
    HelpRequested,
    UsageError,
    config_from_groups,
    define_flags,
    nearest,
    parse,
)

__all__ = [
    "TRAIN_GROUPS",
    "Benchmark",
    "Config",
    "Data",
    "Description",
    "Evaluation",
    "HelpRequested",
    "Listing",
    "Model",
    "Optimization",
    "Run",
    "UsageError",
    "config_from_groups",
    "define_flags",
    "flag_values",
    "identity",
    "nearest",
    "parse",
    "to_arguments",
    "to_flagfile",
]
