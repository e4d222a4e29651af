"""The command line as typed: flags, their help texts and their checks. Imports absl, never TensorFlow."""

from loopwright.flags import checks
from loopwright.flags.config import Config, Data, Model, Optimization, Run
from loopwright.flags.errors import HelpRequested, UsageError, nearest
from loopwright.flags.flagfile import changed_arguments, flag_values, identity, to_arguments, to_flagfile
from loopwright.flags.other_commands import (
    Benchmark,
    Description,
    Doctor,
    Evaluation,
    Export,
    Listing,
    Parity,
    Prediction,
    Report,
    Verification,
)
from loopwright.flags.parse import (
    TRAIN_GROUPS,
    check,
    config_from_groups,
    define_flags,
    parse,
    parse_matrix,
    read_flagfile,
)
from loopwright.flags.words import as_flags

__all__ = [
    "TRAIN_GROUPS",
    "Benchmark",
    "Config",
    "Data",
    "Description",
    "Doctor",
    "Evaluation",
    "Export",
    "HelpRequested",
    "Listing",
    "Model",
    "Optimization",
    "Parity",
    "Prediction",
    "Report",
    "Run",
    "UsageError",
    "Verification",
    "as_flags",
    "changed_arguments",
    "check",
    "checks",
    "config_from_groups",
    "define_flags",
    "flag_values",
    "identity",
    "nearest",
    "parse",
    "parse_matrix",
    "read_flagfile",
    "to_arguments",
    "to_flagfile",
]
