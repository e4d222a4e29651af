"""The library's words as the command line has them: `batch_size=64` in an error becomes `--batch_size=64`."""

from __future__ import annotations

import dataclasses
import re
import shlex

from loopwright.flags import config, other_commands
from loopwright.flags.fields import kind_of

#: Groups whose fields the library names in its errors.
_GROUPS = (
    *(config.Data, config.Model, config.Optimization, config.Run),
    *(other_commands.Evaluation, other_commands.Verification, other_commands.Export, other_commands.Prediction),
    *(other_commands.Benchmark, other_commands.Parity, other_commands.Description, other_commands.Report),
    other_commands.Doctor,
)
#: The kind of each flag, by name: bool, int, float or str.
_KINDS: dict[str, type] = {
    field.name: kind_of(group, field) for group in _GROUPS for field in dataclasses.fields(group)
}
#: Parameters whose flag has another name.
_RENAMED = {"asynchronous": "async_checkpoints", "trust": "trust_file", "exclude": "init_exclude"}
#: What stands for a flag as a whole.
_LITERAL = {
    "skip_nonfinite=True": "--on_nonfinite=skip",
    "skip_nonfinite=False": "--on_nonfinite=abort",
    "AbortOnSkips(limit)": "--max_skipped_steps",
}


def _any_of(texts: list[str]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ELEMENT = rf"(?:{_QUOTED}|[^\s,()\[\]'\"]+)"
_ELEMENTS = rf"(?:{_ELEMENT}(?:,\s*{_ELEMENT})*,?)?"
#: What a message is read as, from left to right. All else in it stays as it is.
_PART = re.compile(
    rf"""
    (?<![^\s(]) (?:
        (?P<literal> {_any_of(list(_LITERAL))} ) (?!\w)
      | (?P<name> {_any_of([*_KINDS, *_RENAMED])} ) =
        (?: (?P<quoted> {_QUOTED} ) (?!\w)
          | (?P<several> \({_ELEMENTS}\) | \[{_ELEMENTS}\] ) (?!\w)
          | (?P<call> \w+ ) \(\)
          | (?P<plain> [^\s]* ) )
      | (?P<bare> {_any_of([name for name in _KINDS if "_" in name])} ) (?! [\w=/(\[\\-] | \.\w )
    )
      | (?<![^\s=(,\[]) (?: {_QUOTED} )              # what somebody named
      | \w[\w.]* \( (?: [^()] | \([^()]*\) )* \)     # a call, whose arguments are no flags
    """,
    re.VERBOSE,
)


def as_flags(message: str) -> str:
    """A message of the library with flags in the place of parameters.

    `name=value` becomes `--name=value`. For a switch, `name=True` and `name=False` become `--name` and `--noname`. A name
    with an underscore becomes `--name` also where it stands alone. Quotes stay only where a shell needs them. Calls, quoted
    texts, paths, longer words, and words that have dashes already stay as they are.
    """
    return _PART.sub(_as_flag, message)


def _as_flag(part: re.Match[str]) -> str:
    if part["literal"]:
        return _LITERAL[part["literal"]]
    if part["bare"]:
        return f"--{part['bare']}"
    if not part["name"]:
        return part[0]
    name = _RENAMED.get(part["name"], part["name"])
    kind = _KINDS[name]
    if part["quoted"]:
        return f"--{name}={_for_a_shell(_unquoted(part['quoted']))}"
    if part["several"]:
        elements = re.findall(_ELEMENT, part["several"][1:-1])
        return f"--{name}={_for_a_shell(','.join(map(_unquoted, elements)))}"
    if part["call"]:
        return f"--{name}={part['call']}"
    plain = part["plain"]
    if kind is bool and (switched := re.match(r"(True|False)(?!\w)", plain)):
        rest = plain[switched.end() :]
        return f"--{name if switched[0] == 'True' else f'no{name}'}{rest}"
    if kind is not str and "/" in plain:  # a folder is called so
        return part[0]
    return f"--{name}={plain}"


def _unquoted(text: str) -> str:
    """A value without its quotes, and without the backslashes that Python's `repr` puts before quotes and backslashes."""
    return re.sub(r"\\(['\"\\])", r"\1", text[1:-1]) if text[0] in "'\"" else text


def _for_a_shell(value: str) -> str:
    return value if re.fullmatch(r"[\w@%+=:,./\[\]~-]*", value) else shlex.quote(value)
