"""From argv to frozen dataclasses, through absl's own parser; help text and usage errors included."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import os
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags as absl_flags

from loopwright.flags.config import Config, Data, Model, Optimization, Run

TRAIN_GROUPS = (Data, Model, Optimization, Run)


class UsageError(Exception):
    """A mistake on the command line, told in one line; the program exits with code 2."""

    exit_code = 2


class HelpRequested(Exception):
    """`--help` or `--helpfull` was typed; the text is the exception's message."""


def nearest(value: str, choices: Iterable[str]) -> str:
    """A phrase with the choice nearest to a mistyped value and all choices: "did you mean 'adam'? (adam, sgd)"."""
    choices = list(choices)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}({', '.join(choices)})"


class _Choice(absl_flags.ArgumentParser):
    """A string out of a fixed set; a wrong one is answered with the nearest right one."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__()
        self.choices = choices

    def parse(self, argument: str) -> str:
        if argument not in self.choices:
            raise ValueError(f"unknown value; {nearest(argument, self.choices)}")
        return argument


class _Number(absl_flags.ArgumentParser):
    """A number of a given type within bounds."""

    def __init__(self, kind: type, metadata: typing.Mapping[str, Any]) -> None:
        super().__init__()
        self.kind, self.metadata = kind, metadata

    def parse(self, argument: str) -> float:
        try:
            number = self.kind(argument)
            if not math.isfinite(number):
                raise ValueError
        except ValueError:
            raise ValueError(f"not {'a whole number' if self.kind is int else 'a number'}") from None
        for name, holds, phrase in (
            ("minimum", lambda bound: number >= bound, "at least"),
            ("above", lambda bound: number > bound, "greater than"),
            ("below", lambda bound: number < bound, "less than"),
        ):
            bound = self.metadata[name]
            if bound is not None and not holds(bound):
                raise ValueError(f"must be {phrase} {bound}")
        return number

    def flag_type(self) -> str:
        return self.kind.__name__


def _kind(group: type, field: dataclasses.Field) -> type:
    hint = typing.get_type_hints(group)[field.name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def define_flags(
    flag_values: absl_flags.FlagValues, groups: Sequence[type] = TRAIN_GROUPS, lists: Sequence[str] = ()
) -> None:
    """Defines the fields of the groups (dataclasses of `flags.config`) as absl flags on the given FlagValues.

    Fields named in `lists` take any text. Raises absl's `DuplicateFlagError` if one of the names is taken.
    """
    for group in groups:
        for field in dataclasses.fields(group):
            kind = _kind(group, field)
            arguments = (field.name, field.default, field.metadata["help"], flag_values)
            parser = _parser(group, field)
            if kind is bool:
                absl_flags.DEFINE_boolean(*arguments)
            elif parser is None or field.name in lists:
                absl_flags.DEFINE_string(field.name, _text(field.default), *arguments[2:])
            else:
                absl_flags.DEFINE(parser, *arguments, serializer=absl_flags.ArgumentSerializer())


def _parser(group: type, field: dataclasses.Field) -> absl_flags.ArgumentParser | None:
    """What reads one value of a field; None for switches and for any text."""
    kind, choices = _kind(group, field), field.metadata["choices"]
    if choices:
        return _Choice(choices)
    return None if kind in (bool, str) else _Number(kind, field.metadata)


def _text(default: Any) -> str | None:
    return None if default is None else str(default)


def parse(
    argv: Sequence[str], groups: Sequence[type], *, usage: str, help_text: str, positional: str | None = None
) -> tuple[list[Any], list[str]]:
    """Parses the words behind a command's name.

    Returns an instance of each group and the positional words: none, or at most one where `positional` names it, or any
    number where that ends in `...`.
    Raises `HelpRequested` for --help and --helpfull, and `UsageError` with one line for a mistake.
    """
    flag_values, words = _read(argv, groups, usage, help_text, positional=positional)
    parsed = [
        group(**{f.name: _value(f, flag_values[f.name].value) for f in dataclasses.fields(group)}) for group in groups
    ]
    return parsed, words


def _value(field: dataclasses.Field, value: Any) -> Any:
    """What a flag's value stands for: text without blanks around it, which no flagfile could hold, and `~` expanded."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if "\n" in value:
        raise UsageError(f"--{field.name}: holds a line break, which no flagfile can hold")
    return os.path.expanduser(value) if field.metadata["path"] else value  # noqa: PTH111 - Path would raise


def parse_matrix(
    argv: Sequence[str], groups: Sequence[type], *, lists: Sequence[str], usage: str, help_text: str
) -> list[list[Any]]:
    """`parse` where the flags named in `lists` take several values with commas between them.

    Returns the groups once for each combination, the last of `lists` changing fastest.
    """
    flag_values, _ = _read(argv, groups, usage, help_text, lists=lists)
    fields = {field.name: (group, field) for group in groups for field in dataclasses.fields(group)}
    values = [[_element(*fields[name], part) for part in str(flag_values[name].value).split(",")] for name in lists]
    return [
        [
            group(
                **{f.name: _value(f, chosen.get(f.name, flag_values[f.name].value)) for f in dataclasses.fields(group)}
            )
            for group in groups
        ]
        for chosen in (dict(zip(lists, combination, strict=True)) for combination in itertools.product(*values))
    ]


def _element(group: type, field: dataclasses.Field, text: str) -> Any:
    """One of several values of a flag. Raises UsageError as absl words it."""
    parser = _parser(group, field)
    try:
        return text if parser is None else parser.parse(text)
    except ValueError as error:
        raise UsageError(f"flag --{field.name}={text}: {error}") from None


def _read(
    argv: Sequence[str],
    groups: Sequence[type],
    usage: str,
    help_text: str,
    *,
    positional: str | None = None,
    lists: Sequence[str] = (),
) -> tuple[absl_flags.FlagValues, list[str]]:
    flag_values = absl_flags.FlagValues()
    flag_values.set_gnu_getopt(True)
    define_flags(flag_values, groups, lists)
    asked = {word.lstrip("-") for word in argv if word in ("-h", "-help", "--help", "-helpfull", "--helpfull")}
    if asked:
        raise HelpRequested(_help(groups, usage, help_text, full="helpfull" in asked))
    try:
        words = flag_values(["loopwright", *argv])[1:]
    except absl_flags.Error as error:
        raise UsageError(" ".join(str(error).removeprefix("ERROR:: ").split())) from None
    except UnicodeDecodeError:
        named = next((word for word in argv if word.lstrip("-").startswith("flagfile")), "--flagfile")
        raise UsageError(f"{named}: is no text") from None
    several = positional is not None and positional.endswith("...")
    if len(words) > (1 if positional else 0) and not several:
        raise UsageError(f"unexpected argument {words[-1]!r}; flags start with --, as in --name=value")
    return flag_values, words


def config_from_groups(groups: Sequence[Any], argv: Sequence[str] = ()) -> Config:
    """Puts the four groups of `train` together; a contradiction between flags is a UsageError.

    Of --epochs and --train_steps, one that was typed takes the place of the other out of a flagfile.
    """
    config = Config(*groups)
    if config.run.epochs is not None and config.run.train_steps is not None:
        typed = {word.lstrip("-").partition("=")[0] for word in argv} & {"epochs", "train_steps"}
        if len(typed) == 1:
            run = dataclasses.replace(
                config.run,
                epochs=config.run.epochs if typed == {"epochs"} else None,
                train_steps=config.run.train_steps if typed == {"train_steps"} else None,
            )
            return dataclasses.replace(config, run=run)
        raise UsageError(
            f"--epochs={config.run.epochs} and --train_steps={config.run.train_steps} "
            "contradict each other; give one of them"
        )
    return config


def _help(groups: Sequence[type], usage: str, help_text: str, *, full: bool) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    lines = [usage, "", *textwrap.wrap(help_text, width)]
    for group in groups:
        fields = [field for field in dataclasses.fields(group) if full or field.metadata["common"]]
        if not fields:
            continue
        lines += ["", f"{group.__name__.lower()}: {(group.__doc__ or '').strip()}"]
        for field in fields:
            name = f"--[no]{field.name}" if _kind(group, field) is bool else f"--{field.name}"
            text = field.metadata["help"]
            if field.metadata["choices"]:
                text += f" One of {', '.join(field.metadata['choices'])}."
            if field.default not in (None, False, ""):
                text += f" Default: {field.default}."
            body = textwrap.wrap(text, max(width - 22, 30))
            lines += [f"  {name:<19} {body[0]}", *(" " * 22 + line for line in body[1:])]
    common = "--flagfile=FILE reads flags from a file."
    lines += ["", common if full else f"{common} --helpfull shows every flag."]
    return "\n".join(lines)
