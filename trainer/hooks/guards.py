"""Guards: hooks that end a run whose numbers aren't finite, and a run that stands still."""

from __future__ import annotations

import contextlib
import faulthandler
import math
from collections.abc import Callable, Iterator, Mapping

from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.core.loss_scaling import scales
from loopwright.trainer.core.state import TrainState


class AbortOnNonfinite:
    """A hook that ends training when the loss is infinite or NaN. Put it before the hooks that save.

    It isn't for steps that skip updates: a window with nothing but skipped updates has no mean. Raises TrainingError.
    """

    reads_metrics = False

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        loss = metrics.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss:g} up to step {int(state.step)}, which is not saved; lower learning_rate, check that "
                "all labels are numbers of classes that the model has, or leave such updates out with skip_nonfinite=True"
            )


class AbortOnSkips:
    """A hook that reports skipped updates, and ends training when more than `limit` of them come in a row.

    Args:
      limit: updates in a row.
      say: given a line after each call in which updates were skipped. The line names the first variable whose gradient
        wasn't finite.

    Raises TrainingError beyond the limit. The error names that variable, too.
    """

    reads_metrics = False

    def __init__(self, limit: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.limit, self.say = limit, say

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        if "skips" not in state.extras:
            return
        skips = state.extras["skips"]
        total, longest = int(skips.total), int(skips.longest)
        skips.longest.assign(skips.in_row)  # at every call, reported or not: the state must not depend on their length
        if total == int(skips.told):
            return
        skips.told.assign(total)
        variable = state.model.trainable_variables[int(skips.first)].path
        where, remedy = f"the gradient of {variable} is not finite", "lower learning_rate"
        if scales(state.optimizer):
            where += f", loss scale {float(state.optimizer.dynamic_scale):g}"
            remedy += ", use precision=mixed_bfloat16"
        if longest > self.limit:
            raise TrainingError(
                f"{longest} updates in a row were skipped up to step {int(state.step)}: {where}; {remedy}, or "
                "allow more with AbortOnSkips(limit)"
            )
        self.say(f"step {int(state.step)}: {total} updates skipped so far; {where}")


class StallTimeout:
    """A hook that ends the process when it isn't called in time, with exit code 1 and the stacks of all threads on stderr.

    A thread of the interpreter's C side watches. So it works whatever the other threads wait for. It watches while the hook
    is open.

    Args:
      seconds: more than the slowest of compiling, a call, an evaluation and a save takes.
    """

    reads_metrics = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @contextlib.contextmanager
    def open(self, state: TrainState) -> Iterator[None]:
        """Watches inside the block."""
        self._watch()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def __call__(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._watch()

    def _watch(self) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=2)  # stderr, whatever sys.stderr is
