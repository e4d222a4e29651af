"""Where the seconds of a run went, over every process that worked on it."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopwright.trainer.base.atomic import replace_file
from loopwright.trainer.base.clock import Clock
from loopwright.trainer.base.errors import TrainingError


class Goodput:
    """A hook that keeps the seconds of a run by phase in a file, summed over its restarts.

    Call it where a checkpoint is due, before it: what a killed process did after that counts as `lost`, up to the newest
    of the records that it left behind.

    Args:
      path: of `goodput.json`, one entry for each process.
      clock: of this process.
      tell: called with the step and the summary.
    """

    reads_metrics = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock,
        *,
        tell: Callable[[int, Mapping[str, Any]], None] = lambda step, summary: None,
    ) -> None:
        self.path, self.clock, self.tell = pathlib.Path(path), clock, tell
        self._began = time.time() - clock.total_seconds()
        self._earlier: list[dict[str, Any]] = []

    def start(self, last_record: float | None) -> None:
        """Reads what earlier processes left; the wall time of their newest record tells how long the last one lived.

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

    def __call__(self, state: Any, metrics: Mapping[str, Any]) -> None:
        self.save()
        self.tell(int(state.step), self.summary())

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
