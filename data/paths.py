"""From what a user gives as a path to a `pathlib.Path` on this machine. Imports no TensorFlow.

`trainer.base.paths` does the same for the paths of training, and `flags.places` for the command line.
"""

from __future__ import annotations

import os
import pathlib
import re

from loopwright.data.errors import DataError

#: `gs://bucket/data`, and what `pathlib` makes of it: `gs:/bucket/data`.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def local_path(parameter: str, given: str | os.PathLike[str]) -> pathlib.Path:
    """A path on this machine, with `~` as the home folder. Nothing is read.

    Raises DataError (exit 2) for the address of another place (`gs://`, `s3://`, …), and for `~` where no home folder is
    known. The error names the parameter.
    """
    text = os.fspath(given)
    if _ADDRESS.match(text):
        raise DataError(
            f"{parameter}={text!r} is an address, not a path on this machine; give a local or mounted folder, and copy the "
            "data there",
            exit_code=2,
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser gives no word of the remedy
    if expanded.partition("/")[0] == "~":
        raise DataError(
            f"{parameter}={text!r}: no home folder is known for ~; set HOME, or give the whole path", exit_code=2
        )
    return pathlib.Path(expanded)
