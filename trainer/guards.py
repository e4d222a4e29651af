"""Guards against numbers that are none, and against a run that stands still."""

from __future__ import annotations

import faulthandler
import math
from collections.abc import Mapping

from loopwright.trainer.errors import TrainingError
from loopwright.trainer.state import TrainState


class AbortOnNonfinite:
    """A hook that ends training when the loss is infinite or no number. Put it before the hooks that save.

    Not for steps that skip updates: a window of nothing but skipped ones has no mean. Raises TrainingError.
    """

    reads_metrics = False

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        loss = metrics.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss:g} up to step {int(state.step)}, which is not saved; lower --learning_rate, or "
                "leave such updates out with --on_nonfinite=skip"
            )


class StallTimeout:
    """A hook that ends the process, with exit code 1 and the stacks of all threads on stderr, when it isn't called in time.

    A thread of the interpreter's C side watches, so it works whatever the others wait for. As a context manager it watches
    inside the block.

    Args:
      seconds: more than the slowest of compiling, a call, an evaluation and a save takes.
    """

    reads_metrics = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> StallTimeout:
        self._watch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._watch()

    def _watch(self) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=2)  # stderr, whatever sys.stderr is
