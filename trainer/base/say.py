"""One way to tell the user something: a line on stderr. Imports no TensorFlow."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Prints a line that begins with the program's name on stderr."""
    print(f"loopwright: {line}", file=sys.stderr)
