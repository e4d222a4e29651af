"""Bad samples: damaged records, pictures that can't be decoded, labels out of range, and numbers that aren't finite.

By default a bad sample ends the run with a message that names it. If some bad samples are allowed, one pass over the
split looks for them before training, and the epochs leave them out. Every feed thus knows them from the start, and the
stream stays a function of the step.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from loopwright.data.errors import DataError, short_reason
from loopwright.data.protocols import StoredSplit
from loopwright.data.splits import READ_AT_ONCE, rows_of


def why_bad(split: StoredSplit, index: int) -> str | None:
    """What is wrong with a sample, or None if it is good."""
    try:
        split.read_one(index)
    except tf.errors.OpError as error:
        return f"{split.describe(index)}: {short_reason(error)}"
    except DataError as error:
        return str(error)
    return None


def find_bad(
    split: StoredSplit,
    name: str,
    *,
    limit: int,
    known: Mapping[int, str] = types.MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """The bad samples of a split, and what is wrong with each. One pass reads and decodes all samples.

    Raises DataError as soon as there are more than `limit` bad samples, not counting those in `known`. The error names
    the last one found by index, file and place.
    """
    bad: dict[int, str] = {}
    place, total = 0, split.num_examples
    while place < total:
        try:
            for batch in split.in_order(place, total, bad=bad):
                place += rows_of(batch)
                if progress:
                    progress(place, total)
        except tf.errors.OpError as error:
            reason = short_reason(error)
        else:
            reason = f"{split.describe(place)}: cut off" if place < total else ""
        if place >= total:
            break
        stop = min(place + READ_AT_ONCE, total)
        found = _look_at(split, range(place, stop), name, limit=limit - len(bad.keys() - known.keys()), known=known)
        if not found:
            raise DataError(
                f"{name}: samples {place} to {stop - 1} can be read one by one, but not as a batch: {reason}"
            )
        bad |= found
        place = stop
    return bad


def explain(split: StoredSplit, name: str, places: Iterable[int]) -> DataError | None:
    """The error that names the first bad sample among the given places, or None if all are good."""
    for index in places:
        reason = why_bad(split, index)
        if reason:
            return _error(name, index, reason)
    return None


def _look_at(
    split: StoredSplit, places: Iterable[int], name: str, *, limit: int, known: Mapping[int, str]
) -> dict[int, str]:
    found: dict[int, str] = {}
    for index in places:
        reason = known.get(index) or why_bad(split, index)
        if reason is None:
            continue
        found[index] = reason
        if len(found.keys() - known.keys()) > limit:
            raise _error(name, index, reason)
    return found


def _error(name: str, index: int, reason: str) -> DataError:
    return DataError(
        f"{name}: sample {index} is bad: {reason}; repair the data and prepare it again, or leave out up to N bad "
        "samples with max_bad_records=N"
    )
