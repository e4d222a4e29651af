"""How the feeds of a dataset are made."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable

#: Called as `progress(what, done, total)`: what is being done, how much of it is done, and how much there is in all.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """How the feeds of a dataset are made.

    Attributes:
      feed: `memory`, `streaming`, `sequential` or `auto`. `auto` takes `memory` if the samples fit into the budget. If
        not, it takes `streaming` if ArrayRecord files exist or may be written, and `sequential` otherwise.
      memory_budget: bytes that decoded samples may take.
      prepare_array_record: whether an ArrayRecord copy may be written beside TFRecord files.
      max_bad_records: the most bad samples that are left out of each split. More than these are an error.
      progress: called while a split is decoded, copied or searched.
      say: called with a line for the user when a choice has a price.
    """

    feed: str = "auto"
    memory_budget: int = 1 << 30
    prepare_array_record: bool = True
    max_bad_records: int = 0
    progress: Progress | None = None
    say: Callable[[str], None] | None = None


def default_memory_budget() -> int:
    """A third of the memory of this machine, or of the container in which it runs, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return math.floor(min(total, int(text) if text.isdigit() else total) / 3)
