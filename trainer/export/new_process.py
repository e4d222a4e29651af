"""A new process that loads exports as they will be loaded later: without anything that this process knows."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `python -m module arguments` beside the block, with the threads of this process. An error in the block ends it.

    The same number of threads gives the same bits. GPU memory grows, because two processes share it.
    """
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    if threads:
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def failure(process: subprocess.Popen[str]) -> str | None:
    """Waits for the end of a process. The last line that it said on stderr if it failed, and None if it didn't."""
    _, said = process.communicate()
    if not process.returncode:
        return None
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {process.returncode}"


def give(folder: pathlib.Path, name: str, tensors: Any) -> None:
    """Writes a tensor, or a dict of tensors by name, for the other process. Strings are allowed."""
    names = sorted(tensors) if isinstance(tensors, dict) else None
    leaves = [tf.convert_to_tensor(leaf) for leaf in ([tensors] if names is None else [tensors[key] for key in names])]
    for number, leaf in enumerate(leaves):
        tf.io.write_file(str(folder / f"{name}.{number}.tensor"), tf.io.serialize_tensor(leaf))
    facts = {"names": names, "dtypes": [leaf.dtype.name for leaf in leaves]}
    (folder / f"{name}.tensors.json").write_text(json.dumps(facts), encoding="utf-8")


def taken(folder: pathlib.Path, name: str) -> Any:
    """What `give` wrote under a name."""
    facts = json.loads((folder / f"{name}.tensors.json").read_text(encoding="utf-8"))
    leaves = [
        tf.io.parse_tensor(tf.io.read_file(str(folder / f"{name}.{number}.tensor")), dtype)
        for number, dtype in enumerate(facts["dtypes"])
    ]
    return leaves[0] if facts["names"] is None else dict(zip(facts["names"], leaves, strict=True))
