"""A config as flags again: the identity of a run, words of a command line, and the flagfile that repeats a run."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from loopwright.flags.config import Config, Data, Model, Optimization, Run

#: Identity flags that flagfiles of older versions don't have, with the values that mean what these versions did.
_NEWER: dict[str, tuple[Any, ...]] = {
    "scale": ("auto",),
    "outputs": ("auto",),
    "task": ("auto", "classification"),
    "loss": (None,),
    "loss_weights": (None,),
    "class_weight": (None,),
    "columns": (None,),
    "tokens": ("auto",),
    "vocabulary": (20000,),
    "sequence_length": (None,),
    "unfreeze_at": (None,),
}


def flag_values(config: Any) -> dict[str, Any]:
    """The flags of a config as one flat dict, in the order in which they are defined."""
    return {
        field.name: getattr(group, field.name)
        for group in (getattr(config, g.name) for g in dataclasses.fields(config))
        for field in dataclasses.fields(group)
    }


def identity(config: Config) -> dict[str, Any]:
    """The flags that make a run this run and no other, by name.

    The length of training is one of them only if the learning rate depends on it (cosine). The feed is one of them only if
    it is the sequential one, because all others give the same batches. Flags that are newer than some runs are part of them
    only with a value that these runs couldn't have, so that they stay the same. A learning rate is a number where it can be.
    """
    names = {
        field.name
        for group in (Data, Model, Optimization, Run)
        for field in dataclasses.fields(group)
        if field.metadata["identity"]
    }
    if config.optimization.schedule == "cosine":
        names |= {"epochs", "train_steps"}
    if config.data.feed == "sequential":
        names |= {"feed"}
    values = {name: value for name, value in flag_values(config).items() if name in names}
    with contextlib.suppress(ValueError):  # the name of a schedule stays a text
        values["learning_rate"] = float(config.optimization.learning_rate)
    return {name: value for name, value in values.items() if value not in _NEWER.get(name, ())}


def to_arguments(group: Any) -> list[str]:
    """One of the groups as the words of a command line. Flags without a value are left out."""
    words = []
    for name, value in dataclasses.asdict(group).items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no{name}")
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def changed_arguments(group: Any) -> list[str]:
    """The words of `to_arguments` whose values aren't the defaults."""
    usual = set(to_arguments(type(group)()))
    return [word for word in to_arguments(group) if word not in usual]


#: Flags that a run's flagfile leaves out: they hold for one command only, and must not be repeated by accident.
NOT_REPEATED = ("overwrite", "allow_fresh_start", "json")


def to_flagfile(config: Config) -> str:
    """The run as a flagfile: every flag with a value, except `--workdir` and the flags of `NOT_REPEATED`."""
    run = dataclasses.replace(config.run, workdir=None)
    groups = (config.data, config.model, config.optimization, run)
    words = [word for group in groups for word in to_arguments(group)]
    return "\n".join(word for word in words if word.removeprefix("--no").removeprefix("--") not in NOT_REPEATED) + "\n"
