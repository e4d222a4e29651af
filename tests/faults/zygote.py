"""A process that has everything imported and forks a trainer on request, so that a fault costs no import of TensorFlow.

Each child is a process of its own that runs the program's `main`; nothing of TensorFlow has run before the fork. Requests
and answers are JSON lines: {"argv", "cwd", "err", "closed", "no_network"} gives {"pid"}, {"wait": pid} gives {"code"}.
"""

import ctypes
import json
import os
import pathlib
import sys
import traceback

import keras  # noqa: F401
import tensorflow  # noqa: F401
import tensorflow_datasets  # noqa: F401

import loopwright.data  # noqa: F401
from loopwright import trainer
from loopwright.trainer.__main__ import main
from loopwright.trainer.commands.train import command as train  # noqa: F401

CLONE_NEWNET = 0x40000000


def child(request: dict) -> int:
    os.chdir(request["cwd"])
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (err, 2)):
        os.dup2(source, target)
    for descriptor in request.get("closed", []):
        os.close(descriptor)
    if request.get("no_network") and ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return main(request["argv"])


def serve() -> None:
    sys.path.remove(
        str(pathlib.Path(__file__).parent)
    )  # A child imports `tiny` from its own folder, as `main` lets it.
    for name in trainer.__all__:
        getattr(trainer, name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write(json.dumps({"threads": sum(1 for _ in pathlib.Path("/proc/self/task").iterdir())}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(request)
            except SystemExit as ended:  # as the console script hands it on
                code = int(ended.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        answers.write(json.dumps({"pid": pid}) + "\n")


if __name__ == "__main__":
    serve()
