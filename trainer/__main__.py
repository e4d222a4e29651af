"""`loopwright <command> --flags`, also as `python -m loopwright.trainer`."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.metadata
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from loopwright import flags
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import COMMANDS, workdir


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 1 for a failed run, 2 for a usage error, 128 + n for signal n."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _hold_standard_streams()
    here = str(pathlib.Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # for --model=module:function
    try:
        with workdir.empty_folders_removed(), _drawing_into_files():
            code = _answer(argv)
        sys.stdout.flush()  # If nobody reads the output any more, the error comes here, where it is caught.
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Prints an error in one line and returns its exit code. Raises an error that has no exit code again."""
    code = getattr(error, "exit_code", None)
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EBADF):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end.
        say(f"nobody reads the output ({error.strerror})")
        return 1
    if code is None and isinstance(error, OSError) and error.strerror:
        say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return 1
    if code is None:
        raise error
    line = " ".join(str(error).split())
    say(line if isinstance(error, flags.UsageError) else flags.as_flags(line))
    return code


def _hold_standard_streams() -> None:
    """Opens standard streams that are closed, so that no file of the run gets their number and takes what is printed.

    Writing to a closed stdout is still an error.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, mode), descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # A locale without `…` shows a question mark.


@contextlib.contextmanager
def _drawing_into_files() -> Iterator[None]:
    """Lets matplotlib load although MPLBACKEND names a window or a notebook that isn't there: commands draw into files."""
    given = os.environ.get("MPLBACKEND")
    if given is None or "matplotlib" in sys.modules:
        yield
        return
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        os.environ["MPLBACKEND"] = given


def _answer(argv: list[str]) -> int:
    """Prints the help that was asked for, or runs the command. Returns the exit code."""
    try:
        return _dispatch(argv)
    except flags.HelpRequested as help_text:
        print(help_text)
        return 0


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
