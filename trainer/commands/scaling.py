"""How the samples of a command are scaled: what --scale says, or what the data and the model say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright import flags
from loopwright.trainer.base.say import say
from loopwright.trainer.commands import sources

if TYPE_CHECKING:
    import pathlib

    import keras


def decide(scale: str, network: keras.Model, feed: Any, *, tell: bool = True) -> str:
    """The scale for the feeds of a new run.

    The answer is `auto` only if `auto` means what it always meant: uint8 inputs are scaled, and no others. A run of an
    older version therefore stays the same run, and `of_run` needs no model. Otherwise the answer is `unit` or `none`.
    With `tell`, a line on stderr says why samples stay as they are stored.

    Raises UsageError for inputs that may be images or not, and for a --scale that can't be followed.
    """
    import tensorflow as tf

    from loopwright import models
    from loopwright.data.feed import unsure_message
    from loopwright.data.scaling import LARGEST

    _check(scale, feed)
    if scale != "auto" or not hasattr(feed, "scaled") or feed.scaling.mode != "auto":
        return scale
    stored = feed.stored["x"]
    unsure = feed.scaling.unsure(stored)
    if unsure is not None:
        raise flags.UsageError(flags.as_flags(unsure_message(unsure)))
    parts = [(part, scaled) for part, scaled in _flat(feed, stored) if part.dtype in LARGEST]
    largest = max((LARGEST[part.dtype] for part, scaled in parts if scaled), default=None)
    by = models.scales_itself(network, largest) if largest else None
    if by is None and largest and largest > LARGEST[tf.uint8] and (narrow := models.scales_itself(network)):
        raise flags.UsageError(
            f"the model takes pixels from 0 to 255 ({narrow}), and the images are uint16, from 0 to 65535; store them as "
            "uint8, or use a model that doesn't scale its inputs"
        )
    if by is not None:
        if tell:
            say(
                f"the model scales its inputs itself ({by}), so pixels stay as they are stored; --scale=unit changes it"
            )
        return "none"
    if tell and parts and not largest:
        say(
            f"uint{parts[0][0].dtype.size * 8} inputs that aren't images stay as they are stored; --scale=unit changes it"
        )
    if _as_ever(parts):
        return "auto"
    return "unit" if largest else "none"


def of_run(scale: str, feed: Any) -> str:
    """The scale for the feeds of a run whose flags.txt holds `scale`.

    Raises UsageError for a run of an older version, which scaled what isn't scaled today.
    """
    from loopwright.data.scaling import LARGEST

    _check(scale, feed)
    if scale != "auto" or not hasattr(feed, "scaled") or feed.scaling.mode != "auto":
        return scale
    parts = [(part, scaled) for part, scaled in _flat(feed, feed.stored["x"]) if part.dtype in LARGEST]
    if not _as_ever(parts):
        raise flags.UsageError(
            "--scale=auto: an older version scaled all uint8 samples and no uint16 samples of this run; give --scale=unit "
            "if they were scaled, or --scale=none"
        )
    return scale


def of_file(path: pathlib.Path, scale: str, network: keras.Model, feed: Any) -> str:
    """The scale for the model in a file: that of its run, if the file is an `.h5` that tells it."""
    identity = sources.identity_in(path)
    if scale != "auto" or identity is None:
        return decide(scale, network, feed)
    return of_run(identity.get("scale", "auto"), feed)


def follow(scale: str, feed: Any) -> Any:
    """The feed with a scale that `decide` or `of_run` gave. A feed of the user's own stays as it is."""
    return feed if scale == "auto" or not hasattr(feed, "scaled") else feed.scaled(scale)


def _check(scale: str, feed: Any) -> None:
    if scale != "auto" and not hasattr(feed, "scaled"):
        raise flags.UsageError(f"--scale={scale}: the dataset's own feed decides what it gives; leave it out")


def _flat(feed: Any, stored: Any) -> list[tuple[Any, bool]]:
    import tensorflow as tf

    return list(zip(tf.nest.flatten(stored), tf.nest.flatten(feed.scaling.scaled(stored)), strict=True))


def _as_ever(parts: list[tuple[Any, bool]]) -> bool:
    return all(scaled == (part.dtype.name == "uint8") for part, scaled in parts)
