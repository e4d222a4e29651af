"""The hooks and contexts that keep a run safe, as the flags ask for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loopwright import flags

if TYPE_CHECKING:
    from loopwright.trainer.base.clock import Clock
    from loopwright.trainer.core.state import TrainState


def guards(
    config: flags.Config, state: TrainState, clock: Clock, stack: contextlib.ExitStack, say: Callable[[str], None]
) -> list[Any]:
    """The hooks that come before all that save; what they need to be ended is left to the stack."""
    from loopwright.trainer.core.loss_scaling import scales
    from loopwright.trainer.hooks.guards import AbortOnNonfinite, AbortOnSkips, StallTimeout
    from loopwright.trainer.hooks.signals import ShortCalls

    run = config.run
    hooks: list[Any] = [AbortOnSkips(run.max_skipped_steps, say=say)]
    if run.on_nonfinite == "abort" and not scales(state.optimizer):
        hooks.append(AbortOnNonfinite())
    if run.grace_seconds is not None:
        hooks.append(ShortCalls(run.grace_seconds, clock))
    if run.stall_timeout is not None:
        hooks.append(stack.enter_context(StallTimeout(run.stall_timeout)))
    return hooks
