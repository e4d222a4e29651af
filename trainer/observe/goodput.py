"""Where the seconds of a run went, over every process that worked on it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.errors import TrainingError
from loopwright.trainer.base.paths import local_path


class Goodput:
    """A hook that keeps the seconds of a run by phase in a file, summed over its restarts.

    Call it where a checkpoint is due, before the checkpoint. What a killed process did after that counts as `lost`, up to
    the newest of the records that the process left.

    Args:
      path: of `goodput.json`, which has one entry for each process.
      clock: of this process.
      report: called with the step and the summary.
    """

    reads_metrics = False
    at_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        *,
        report: Callable[[int, Mapping[str, Any]], None] = lambda step, summary: None,
    ) -> None:
        self.path, self.clock, self.report = local_path(path), clock, report
        self._began = time.time() - clock.total_seconds()
        self._earlier: list[dict[str, Any]] = []

    def read(self, last_record: float | None) -> None:
        """Reads what earlier processes left. Call it once, before the records past the checkpoint are cut.

        Args:
          last_record: the wall time of the newest record, which tells how long the last process lived.

        Raises TrainingError for a damaged file.
        """
        try:
            self._earlier = json.loads(self.path.read_text(encoding="utf-8"))["processes"]
            if self._earlier and last_record is not None:
                newest = self._earlier[-1]
                lost = max(0.0, last_record - newest["saved"])
                newest["seconds"]["lost"] = newest["seconds"].get("lost", 0.0) + lost
                newest["saved"] += lost
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{self.path} is damaged ({error}); delete it to go on without its seconds") from None

    @contextlib.contextmanager
    def open(self, state: Any) -> Iterator[None]:
        """Writes the file at once, so that what this process loses counts as its own, and again after the block.

        An error inside the block goes first: then the file is written if it can be.
        """
        self.save()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self.save()
            raise
        self.save()

    def __call__(self, state: Any, metrics: Mapping[str, Any]) -> None:
        self.save()
        self.report(int(state.step), self.summary())

    def save(self) -> None:
        """Writes the file."""
        own = {"began": self._began, "saved": time.time(), "seconds": self.clock.seconds()}
        replace_file(self.path, json.dumps({"processes": [*self._earlier, own]}, indent=1) + "\n")

    def summary(self) -> dict[str, Any]:
        """`seconds` and `share` by phase, `total_seconds`, and the number of `processes`, of the whole run so far."""
        return total([*self._earlier, {"seconds": self.clock.seconds()}])


def total(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over entries of `goodput.json`, as `Goodput.summary` gives them."""
    seconds: dict[str, float] = {}
    for process in processes:
        for name, value in process["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
    whole = sum(seconds.values())
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "share": {name: round(value / whole, 4) for name, value in seconds.items()},
        "total_seconds": round(whole, 3),
        "processes": len(processes),
    }
