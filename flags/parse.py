"""From the words of a command line to frozen dataclasses, through absl's own parser; help texts and usage errors too."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from loopwright.flags import checks, places
from loopwright.flags.config import Config, Data, Model, Optimization, Run
from loopwright.flags.errors import HelpRequested, UsageError, nearest
from loopwright.flags.fields import Bounds, kind_of

TRAIN_GROUPS = (Data, Model, Optimization, Run)


class _Choice(absl_flags.ArgumentParser):
    """A string out of a fixed set. A wrong one is answered with the nearest right one."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__()
        self.choices = choices

    def parse(self, argument: str) -> str:
        if argument not in self.choices:
            raise ValueError(f"unknown value; {nearest(argument, self.choices)}")
        return argument


class _Number(absl_flags.ArgumentParser):
    """A number of a given type within bounds."""

    def __init__(self, kind: type, bounds: Bounds) -> None:
        super().__init__()
        self.kind, self.bounds = kind, bounds

    def parse(self, argument: str) -> float:
        try:
            number = self.kind(argument)
            if not math.isfinite(number):
                raise ValueError
        except ValueError:
            raise ValueError(f"not {'a whole number' if self.kind is int else 'a number'}") from None
        refusal = self.bounds.refusal(number)
        if refusal:
            raise ValueError(refusal)
        return number

    def flag_type(self) -> str:
        return self.kind.__name__


def define_flags(
    flag_values: absl_flags.FlagValues, groups: Sequence[type] = TRAIN_GROUPS, lists: Sequence[str] = ()
) -> None:
    """Defines the fields of the groups (dataclasses such as those of `flags.config`) as absl flags on a FlagValues.

    Fields named in `lists` take any text. Raises absl's `DuplicateFlagError` if one of the names is taken.
    """
    for group in groups:
        for field in dataclasses.fields(group):
            kind = kind_of(group, field)
            arguments = (field.name, field.default, field.metadata["help"], flag_values)
            parser = _parser(group, field)
            if kind is bool:
                absl_flags.DEFINE_boolean(*arguments)
            elif parser is None or field.name in lists:
                absl_flags.DEFINE_string(field.name, _text(field.default), *arguments[2:])
            else:
                absl_flags.DEFINE(parser, *arguments, serializer=absl_flags.ArgumentSerializer())


def _parser(group: type, field: dataclasses.Field) -> absl_flags.ArgumentParser | None:
    """What reads one value of a field. None for switches, and for fields that take any text."""
    kind, choices = kind_of(group, field), field.metadata["choices"]
    if choices:
        return _Choice(choices)
    return None if kind in (bool, str) else _Number(kind, field.metadata["bounds"])


def _text(default: Any) -> str | None:
    return None if default is None else str(default)


def parse(
    argv: Sequence[str],
    groups: Sequence[type],
    *,
    usage: str,
    help_text: str,
    positional: str | None = None,
    checked: bool = True,
) -> tuple[list[Any], list[str]]:
    """Parses the words that follow a command's name, and checks them.

    Returns an instance of each group and the positional words: none without `positional`, at most one if `positional` names
    it, and any number if its name ends in `...`. A command that completes its groups first parses without `checked`, and
    calls `check` later.

    Raises `HelpRequested` for --help and --helpfull, and `UsageError` with one line for a mistake.
    """
    flag_values, words = _read(argv, groups, usage, help_text, positional=positional)
    parsed = _instances(flag_values, groups)
    if checked:
        check(parsed)
    return parsed, words


def parse_matrix(
    argv: Sequence[str], groups: Sequence[type], *, lists: Sequence[str], usage: str, help_text: str
) -> list[list[Any]]:
    """`parse`, where the flags named in `lists` take several values, comma separated.

    Returns the groups once for each combination. The last flag of `lists` changes fastest.
    """
    flag_values, _ = _read(argv, groups, usage, help_text, lists=lists)
    fields = {field.name: (group, field) for group in groups for field in dataclasses.fields(group)}
    values = [[_element(*fields[name], part) for part in str(flag_values[name].value).split(",")] for name in lists]
    matrix = [
        _instances(flag_values, groups, dict(zip(lists, combination, strict=True)))
        for combination in itertools.product(*values)
    ]
    for parsed in matrix:
        check(parsed)
    return matrix


def read_flagfile(path: pathlib.Path) -> Config:
    """The flags of a run out of its flagfile. Raises UsageError for an unknown flag or a value out of bounds.

    Nothing else is checked: to look at a run, you need none of the files and modules that its flags name.
    """
    flag_values, _ = _read([f"--flagfile={path.absolute()}"], TRAIN_GROUPS, "", "")
    return config_from_groups(_instances(flag_values, TRAIN_GROUPS))


def check(groups: Sequence[Any]) -> None:
    """Checks groups of flags, and whether what they name is there. Raises UsageError for the first mistake.

    `parse` has done it already. This is for a command that has changed its groups since then.
    """
    checks.check(groups)
    places.check(groups)


def _instances(
    flag_values: absl_flags.FlagValues, groups: Sequence[type], chosen: dict[str, Any] | None = None
) -> list[Any]:
    """The groups with the parsed values; those of `chosen` come first."""
    chosen = chosen or {}
    return [
        group(**{f.name: _value(f, chosen.get(f.name, flag_values[f.name].value)) for f in dataclasses.fields(group)})
        for group in groups
    ]


def _value(field: dataclasses.Field, value: Any) -> Any:
    """What a flag's value stands for: text without blanks around it, which no flagfile could hold, and `~` expanded."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    if "\n" in value:
        raise UsageError(f"--{field.name}: holds a line break, which no flagfile can hold; leave it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"--{field.name}={value!a}: holds bytes that aren't text in the encoding of this locale; set PYTHONUTF8=1"
        ) from None
    return places.local_path(field.name, value) if field.metadata["path"] else value


def _element(group: type, field: dataclasses.Field, text: str) -> Any:
    """One of several values of a flag. Raises UsageError for a wrong one."""
    parser = _parser(group, field)
    try:
        return text if parser is None else parser.parse(text)
    except ValueError as error:
        raise UsageError(f"--{field.name}={text}: {error}") from None


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
        words = flag_values(["loopwright", *_with_flagfiles(argv)])[1:]
    except absl_flags.Error as error:
        raise UsageError(_in_a_line(error)) from None
    several = positional is not None and positional.endswith("...")
    if len(words) > (1 if positional else 0) and not several:
        raise UsageError(f"unexpected argument {words[-1]!r}; flags start with --, as in --name=value")
    return flag_values, words


def _with_flagfiles(argv: Sequence[str], inside: tuple[str, ...] = ()) -> list[str]:
    """The words with the lines of a flagfile in the place of `--flagfile=FILE`.

    absl reads flagfiles in the encoding of the locale. Here they are read as they are written, in UTF-8.
    """
    words, rest = [], iter(argv)
    for word in rest:
        if word not in ("-flagfile", "--flagfile") and not word.startswith(("-flagfile=", "--flagfile=")):
            words.append(word)
            continue
        name = word.partition("=")[2] if "=" in word else next(rest, "")
        if name in inside:
            raise UsageError(f"--flagfile={name}: names itself; leave that line out")
        words += _with_flagfiles(_lines(name), (*inside, name))
    return words


def _lines(name: str) -> list[str]:
    """The lines of a flagfile, without the empty ones and the comments."""
    if not name:
        raise UsageError("--flagfile: has no value; write --flagfile=VALUE")
    try:
        text = pathlib.Path(places.local_path("flagfile", name)).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--flagfile={name}: {error.strerror}; name a file with a flag on each line") from None
    except UnicodeDecodeError:
        raise UsageError(f"--flagfile={name}: isn't a text file; name one with a flag on each line") from None
    return [line.strip() for line in text.split("\n") if line.strip() and not line.startswith(("#", "//"))]


def _in_a_line(error: absl_flags.Error) -> str:
    """What absl says of a mistake, with the dashes of the flag and with a remedy."""
    if isinstance(error, absl_flags.UnrecognizedFlagError):
        close = re.search(r"Did you mean: (.*) \?", str(error))
        hint = f"did you mean --{close[1].replace(', ', ' or --')}?" if close else "--helpfull lists all flags"
        return f"--{error.flagname}: unknown flag; {hint}"
    said = " ".join(str(error).removeprefix("flag ").split())
    switch = re.match(r"--(\w+)=[^:]*: \('Non-boolean", said)
    if switch:
        return f"{said.partition(': ')[0]}: write --{switch[1]} or --no{switch[1]}"
    missing = re.fullmatch(r"Missing value for flag (--\w+)", said)
    return f"{missing[1]}: has no value; write {missing[1]}=VALUE" if missing else said


def config_from_groups(groups: Sequence[Any], argv: Sequence[str] = ()) -> Config:
    """Puts the four groups of `train` together.

    If both --epochs and --train_steps have a value, one was typed and the other stands in a flagfile, the typed one counts:
    `argv` is what was typed. Raises UsageError if both were typed, or neither.
    """
    config = Config(*groups)
    if config.run.epochs is None or config.run.train_steps is None:
        return config
    typed = {word.lstrip("-").partition("=")[0] for word in argv} & {"epochs", "train_steps"}
    if len(typed) != 1:
        raise UsageError(
            f"--epochs={config.run.epochs} and --train_steps={config.run.train_steps} exclude each other; give one of them"
        )
    run = dataclasses.replace(
        config.run,
        epochs=config.run.epochs if typed == {"epochs"} else None,
        train_steps=config.run.train_steps if typed == {"train_steps"} else None,
    )
    config = dataclasses.replace(config, run=run)
    check((config.data, config.model, config.optimization, config.run))
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
            name = f"--[no]{field.name}" if kind_of(group, field) is bool else f"--{field.name}"
            body = [" " * 22 + line for line in textwrap.wrap(_help_of(field), max(width - 22, 30))]
            if len(name) < 20:
                body[0] = f"  {name:<20}{body[0].lstrip()}"
            else:
                body.insert(0, f"  {name}")
            lines += body
    common = "--flagfile=FILE reads flags from a file."
    lines += ["", common if full else f"{common} --helpfull shows every flag."]
    return "\n".join(lines)


def _help_of(field: dataclasses.Field) -> str:
    """The help text of a flag, with its choices, unless the text names them all, and its default."""
    text, choices, default = field.metadata["help"], field.metadata["choices"], field.default
    if not all(choice in text for choice in choices):
        text += f" One of {', '.join(choices)}."
    if default is not None and default is not False and default != "":
        text += f" Default: {default}."
    return text
