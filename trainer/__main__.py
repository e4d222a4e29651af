"""`loopwright <command> --flags`, also as `python -m loopwright.trainer`."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Sequence

from loopwright import flags
from loopwright.trainer.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 1 for a failed run, 2 for a usage error, 128 + n for a signal."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _hold_standard_streams()
    sys.path.append(str(pathlib.Path.cwd()))  # for --model=module:function
    try:
        code = _dispatch(argv)
        sys.stdout.flush()  # Here, where a reader that is gone can still be told of.
        return code
    except flags.HelpRequested as help_text:
        print(help_text)
        return 0
    except KeyboardInterrupt:
        print("loopwright: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        failed = getattr(error, "exit_code", None)
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EBADF):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end.
            print(f"loopwright: nobody reads the output ({error.strerror})", file=sys.stderr)
            return 1
        if failed is None and isinstance(error, OSError) and error.strerror:
            of = f"{error.filename}: " if error.filename else ""
            print(f"loopwright: {of}{error.strerror}", file=sys.stderr)
            return 1
        if failed is None:
            raise
        print(f"loopwright: {' '.join(str(error).split())}", file=sys.stderr)
        return failed


def _hold_standard_streams() -> None:
    """Puts something in the place of standard streams that are closed: else a file of the run would get their number,
    and what is printed would be written into it. Writing to a closed stdout stays an error."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, mode), descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "--helpfull", "-help", "-helpfull"):
        raise flags.HelpRequested(_overview())
    if argv[0] == "--version":
        print(f"loopwright {importlib.metadata.version('loopwright')}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise flags.UsageError(f"unknown command {name!r}; {flags.nearest(name, COMMANDS)}")
    return importlib.import_module(COMMANDS[name].module).run(argv[1:])


def _overview() -> str:
    lines = ["usage: loopwright <command> [--flags]", "", "Custom training loops for Keras models on TensorFlow.", ""]
    lines += [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "'loopwright <command> --help' shows the flags that most runs need, --helpfull all of them."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
