"""From what a user gives as a path to a `pathlib.Path` on this machine. Imports no TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re

from loopwright.trainer.base.errors import TrainingError

#: `gs://bucket/run`, and what `pathlib` makes of it: `gs:/bucket/run`.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path on this machine, with `~` as the home folder. Nothing is created or read.

    Raises TrainingError (exit 2) for the address of another place (`gs://`, `s3://`, `hdfs://`, `file://`, …), for `~` where
    no home folder is known, and for a name that Python and TensorFlow would write in different bytes.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text):
        raise TrainingError(
            f"{text} is an address, not a path on this machine; give a local or mounted folder, and copy the files there "
            "or from there",
            exit_code=2,
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser gives no word of the remedy
    if expanded.partition("/")[0] == "~":
        raise TrainingError(f"{text}: no home folder is known for ~; set HOME, or give the whole path", exit_code=2)
    if not _same_bytes(expanded):
        raise TrainingError(
            f"{text!a}: Python and TensorFlow write this name in different bytes; set PYTHONUTF8=1, or use ASCII names",
            exit_code=2,
        )
    return pathlib.Path(expanded)


def _same_bytes(text: str) -> bool:
    """Whether the locale's encoding gives a name the bytes of UTF-8, which TensorFlow writes."""
    try:
        return os.fsencode(text) == text.encode()
    except UnicodeEncodeError:
        return False
