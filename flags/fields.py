"""How a flag is defined: a dataclass field with a default, a help text and bounds; and the flags of several commands."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The numbers that a flag takes: `minimum` is allowed itself, `above` and `below` are not."""

    minimum: float | None = None
    above: float | None = None
    below: float | None = None

    def refusal(self, number: float) -> str | None:
        """Why a number is out of bounds ("must be at least 1"), or None."""
        if self.minimum is not None and number < self.minimum:
            return f"must be at least {self.minimum}"
        if self.above is not None and number <= self.above:
            return f"must be greater than {self.above}"
        if self.below is not None and number >= self.below:
            return f"must be less than {self.below}"
        return None


ANY = Bounds()
AT_LEAST_0 = Bounds(minimum=0)
AT_LEAST_1 = Bounds(minimum=1)
AT_LEAST_2 = Bounds(minimum=2)
POSITIVE = Bounds(above=0)
BELOW_1 = Bounds(minimum=0, below=1)
BETWEEN_0_AND_1 = Bounds(above=0, below=1)
SEEDS = Bounds(minimum=0, below=2**32)


def flag(
    default: Any,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    bounds: Bounds = ANY,
    identity: bool = False,
    common: bool = False,
    path: bool = False,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
      choices: the only texts that the flag takes.
      bounds: the only numbers that the flag takes.
      identity: whether the value is part of what a run is.
      common: whether `--help` shows the flag; `--helpfull` shows all of them.
      path: whether the value may begin with `~`, the home folder.
    """
    metadata = {
        "help": help_text,
        "choices": choices,
        "bounds": bounds,
        "identity": identity,
        "common": common,
        "path": path,
    }
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(group: type, field: dataclasses.Field) -> type:
    """The type of a flag's value: bool, int, float or str. A flag that may also be None has the other type."""
    hint = typing.get_type_hints(group)[field.name]
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def onednn_flag() -> Any:
    """The flag `--onednn`, which every command that computes a step has."""
    return flag(
        "auto",
        "oneDNN's kernels: on, off, or auto (TensorFlow turns them on if the CPU has AVX-512 VNNI or AMX; on other CPUs, on "
        "may be faster).",
        choices=("auto", "on", "off"),
    )


def outputs_flag() -> Any:
    """The flag `--outputs`; it is part of the identity of a run."""
    return flag(
        "auto",
        "What the model gives for each class: logits, probabilities, or auto (the model is called with random inputs).",
        choices=("auto", "logits", "probabilities"),
        identity=True,
    )


def seed_flag(*, run: bool = False) -> Any:
    """The flag `--seed`; it is common, and part of the identity, only in a `run`."""
    return flag(0, "Seed of weights, dropout and the order of samples.", bounds=SEEDS, identity=run, common=run)


def steps_per_call_flag() -> Any:
    """The flag `--steps_per_call`."""
    return flag(50, "Most steps that one call of the compiled loop takes.", bounds=AT_LEAST_1)


def threads_flag(what: str) -> Any:
    """A flag for a number of threads; `what` says what they do."""
    return flag(0, f"{what} (0: TensorFlow decides).", bounds=AT_LEAST_0)


def json_flag() -> Any:
    """The flag `--json`."""
    return flag(False, "Print the result as one JSON object on stdout.", common=True)
