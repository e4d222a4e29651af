"""Bad samples: records that are damaged or cut off, pictures that don't decode, labels out of range, numbers not finite.

By default a bad sample ends the run with a message that names it. With a bound on their number, bad samples are looked for
before training (one pass over the split), left out of the epochs and counted: so every feed knows them from the start, and
the stream stays a function of the step.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from loopwright.data.errors import DataError
from loopwright.data.records import first_line
from loopwright.data.splits import READ_AT_ONCE, StoredSplit


def why_bad(split: StoredSplit, index: int) -> str | None:
    """What is wrong with a sample; None if nothing is."""
    try:
        split.read_one(index)
    except tf.errors.OpError as error:
        return f"{split.describe(index)}: {first_line(error)}"
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
    """The bad samples of a split and what is wrong with each, found in one pass that reads and decodes everything.

    Raises DataError as soon as there are more than `limit` beside those that are known; it names the newest by index,
    file and place.
    """
    bad: dict[int, str] = {}
    place, total = 0, split.num_examples
    while place < total:
        try:
            for batch in split.in_order(place, total, bad=bad):
                place += len(batch["y"])
                if progress:
                    progress(place, total)
        except tf.errors.OpError as error:
            reason = first_line(error)
        else:
            reason = f"{split.describe(place)}: cut off" if place < total else ""
        if place >= total:
            break
        stop = min(place + READ_AT_ONCE, total)
        found = _look_at(split, range(place, stop), name, limit=limit - len(bad.keys() - known.keys()), known=known)
        if not found:
            raise DataError(f"{name}: samples {place} to {stop - 1} can't be read as a batch, but each can: {reason}")
        bad |= found
        place = stop
    return bad


def explain(split: StoredSplit, name: str, places: Iterable[int]) -> DataError | None:
    """The error that names the first bad sample among some places; None if they are all good."""
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
        f"{name}: sample {index} is bad: {reason}; mend the data and prepare it again, or leave a few bad samples out with "
        "--max_bad_records=N"
    )
