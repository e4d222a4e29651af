"""The mistakes of a command line, each told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A mistake on the command line, told in one line. The program exits with code 2."""

    exit_code = 2


class HelpRequested(Exception):
    """`--help` or `--helpfull` was typed. The exception's message is the help text."""


def nearest(value: str, choices: Iterable[str]) -> str:
    """A phrase with the choice nearest to a mistyped value, and all choices: "did you mean 'adam'? (adam, sgd)"."""
    choices = list(choices)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}({', '.join(choices)})"
