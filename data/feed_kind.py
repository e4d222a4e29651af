"""Which feed a split gets: from memory, from files that are read at random, or from files in sequence."""

from __future__ import annotations

from collections.abc import Callable

from loopwright.data import array_records
from loopwright.data.decoding import nbytes
from loopwright.data.errors import DataError
from loopwright.data.options import Options
from loopwright.data.protocols import StoredSplit
from loopwright.data.record_files import ARRAY_RECORD
from loopwright.data.splits import RecordSplit


def choose_kind(split: str, both: tuple[str, str], open_split: Callable[[str], StoredSplit], options: Options) -> str:
    """The feed for a split: `memory`, `streaming` or `sequential`.

    `both` are the training and the evaluation split, which share the budget. Raises DataError (exit 2) if the options want
    a feed that these files can't give.
    """
    wanted, budget = options.feed, options.memory_budget
    if wanted == "memory":
        return wanted
    stored = open_split(split)
    if not isinstance(stored, RecordSplit):
        reads_at_random, why_not = True, ""
    else:
        reads_at_random, why_not = _can_stream(stored, options)
    if wanted == "sequential":
        return "streaming" if not isinstance(stored, RecordSplit) else wanted
    if wanted == "streaming":
        if not reads_at_random:
            raise DataError(
                f"feed='streaming' reads ArrayRecord files, but {why_not}; choose feed='memory' or feed='sequential'",
                exit_code=2,
            )
        return wanted
    total = sum(_decoded_bytes(open_split(name)) for name in {*both, split})
    own = _decoded_bytes(stored)
    if total <= budget or (split != both[0] and own <= budget / 4):
        return "memory"
    say = options.say or (lambda line: None)
    size = f"{split} takes {own / 1e9:.1f} GB decoded, over the budget of {budget / 1e9:.1f} GB"
    if reads_at_random:
        say(f"{size}: streaming it")
        return "streaming"
    say(
        f"{size}, and {why_not}: reading it in sequence (samples mix only within a buffer, and resuming inside an epoch "
        "reads that epoch from its start)"
    )
    return "sequential"


def _can_stream(stored: RecordSplit, options: Options) -> tuple[bool, str]:
    if not array_records.installed():
        return False, "the package array_record isn't installed (it exists for Linux only)"
    copied = stored.files.file_format == ARRAY_RECORD or stored.files.as_format(ARRAY_RECORD).exist()
    if copied or options.prepare_array_record:
        return True, ""
    return False, "there are only TFRecord files, and prepare_array_record=False forbids a copy"


def _decoded_bytes(stored: StoredSplit) -> int:
    return stored.num_examples * nbytes(stored.specs)
