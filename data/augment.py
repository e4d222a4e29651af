"""Augmentation: random changes of images, a function of (seed, sample index, epoch) and of nothing else.

`--augment=flip,translate:2,crop:4,cutout:8` changes a batch in one go. Every built-in operation says for each row and each
column of the new image which row and column of the old one it shows; the operations are composed on these small maps, and
the pixels move once at the end. A sample's picture in an epoch is the same whatever the batch size, the shard, the feed and
the step at which the stream was opened.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from loopwright.data import mixing
from loopwright.data.errors import DataError
from loopwright.data.feed import scale

#: From bits `[B]`, height, width and the amount of pixels to where each new row and each new column looks: two maps, int64
#: `[B, size]`, with -1 where a place is empty.
Operation = Callable[[tf.Tensor, int, int, int], tuple[tf.Tensor, tf.Tensor]]
UserFunction = Callable[[Any, tf.Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Augment:
    """Operations in their order, drawn with a seed; callable as a feed wants it.

    Built-in operations act on every input of the form uint8 or float `[B, H, W, C]`; several images of a sample move
    together. A user's function gets all of `x` (scaled to [0, 1] where it was uint8) and keys uint64 `[B]`, from which
    `mixing.draw` makes random bits; it returns inputs of the same shapes.
    """

    steps: tuple[tuple[Operation, int] | UserFunction, ...]
    seed: int = 0

    def __call__(self, x: Any, index: tf.Tensor, epoch: tf.Tensor) -> Any:
        keys = mixing.keys(self.seed, epoch, index)
        run: list[tuple[int, Operation, int]] = []
        for number, step in enumerate(self.steps):
            if isinstance(step, tuple):
                run.append((number, *step))
                continue
            x, run = _move(x, keys, run), []
            x = step(tf.nest.map_structure(scale, x), mixing.draw(keys, number))
        return _move(x, keys, run)


def flip(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Left and right change places with a probability of a half."""
    columns = tf.range(width, dtype=tf.int64)
    flipped = mixing.integers(bits, 2)[:, tf.newaxis] == 1
    return _still(bits, height), tf.where(flipped, width - 1 - columns, columns)


def translate(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A shift of up to `amount` pixels up or down and left or right; what comes in is empty (zero)."""
    rows, columns = _shifts(bits, amount)
    return tuple(
        tf.where((places < 0) | (places >= size), tf.constant(-1, tf.int64), places)
        for places, size in ((_shifted(rows, height), height), (_shifted(columns, width), width))
    )


def crop(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Padded by `amount` pixels, which mirror the image at its border, and cropped at random to the size that it had."""
    rows, columns = _shifts(bits, amount)
    return _mirrored(_shifted(rows, height), height), _mirrored(_shifted(columns, width), width)


def cutout(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A square of `amount` pixels, centred anywhere in the image, becomes empty (DeVries and Taylor, arXiv:1708.04552)."""
    return _outside(mixing.draw(bits, 0), height, amount), _outside(mixing.draw(bits, 1), width, amount)


#: By name: the operation, and whether it takes a number of pixels.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "flip": (flip, False),
    "translate": (translate, True),
    "crop": (crop, True),
    "cutout": (cutout, True),
}


def parse(text: str, *, seed: int = 0) -> Augment | None:
    """`flip,translate:2,crop:4,cutout:8,module:function` to an augmentation; None for the empty text.

    Raises DataError (exit 2) for an unknown operation, a missing or wrong number of pixels, and a function that isn't
    there.
    """
    steps: list[Any] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, argument = word.partition(":")
        if name in OPERATIONS:
            operation, sized = OPERATIONS[name]
            if sized != (argument.isascii() and argument.isdigit() and int(argument) > 0):
                form = f"{name}:PIXELS, such as {name}:4" if sized else f"{name} alone"
                raise DataError(f"--augment={word}: write {form}", exit_code=2)
            steps.append((operation, int(argument or 0)))
        else:
            steps.append(_user_function(word))
    return Augment(tuple(steps), seed) if steps else None


def _user_function(word: str) -> UserFunction:
    if ":" not in word:
        raise DataError(f"--augment={word}: choose from {', '.join(OPERATIONS)}, or give module:function", exit_code=2)
    try:
        function = pkgutil.resolve_name(word)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"--augment={word}: {error}; choose from {', '.join(OPERATIONS)}", exit_code=2) from None
    if not callable(function):
        raise DataError(f"--augment={word}: is no function", exit_code=2)
    return function


def _move(x: Any, keys: tf.Tensor, run: list[tuple[int, Operation, int]]) -> Any:
    """Applies operations to every image of the inputs."""
    if not run:
        return x
    return tf.nest.map_structure(lambda part: _move_image(part, keys, run) if part.shape.rank == 4 else part, x)


def _move_image(x: tf.Tensor, keys: tf.Tensor, run: list[tuple[int, Operation, int]]) -> tf.Tensor:
    height, width = x.shape[1], x.shape[2]
    rows, columns = _still(keys, height), _still(keys, width)
    holes: list[tuple[tf.Tensor, tf.Tensor]] = []
    for number, operation, amount in run:
        new_rows, new_columns = operation(mixing.draw(keys, number), height, width, amount)
        if operation is cutout:  # empty where both axes are
            holes.append((new_rows < 0, new_columns < 0))
            continue
        rows, columns = _look_up(rows, new_rows, -1), _look_up(columns, new_columns, -1)
        holes = [(_look_up(a, new_rows, False), _look_up(b, new_columns, False)) for a, b in holes]
    empty = tf.less(rows, 0)[:, :, tf.newaxis] | tf.less(columns, 0)[:, tf.newaxis, :]
    for in_rows, in_columns in holes:
        empty |= in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :]
    first = tf.range(tf.shape(x, tf.int64)[0])[:, tf.newaxis] * height
    places = (first + tf.maximum(rows, 0))[:, :, tf.newaxis] * width + tf.maximum(columns, 0)[:, tf.newaxis, :]
    pixels = tf.gather(tf.reshape(x, [-1, x.shape[3]]), places)
    return tf.ensure_shape(tf.where(empty[..., tf.newaxis], tf.zeros([], x.dtype), pixels), x.shape)


def _look_up(values: tf.Tensor, places: tf.Tensor, otherwise: Any) -> tf.Tensor:
    """`values` `[B, size]` at the places, and `otherwise` where a place is empty."""
    found = tf.gather(values, tf.maximum(places, 0), batch_dims=1)
    return tf.where(places < 0, tf.constant(otherwise, values.dtype), found)


def _still(bits: tf.Tensor, size: int) -> tf.Tensor:
    return tf.broadcast_to(tf.range(size, dtype=tf.int64), [tf.shape(bits)[0], size])


def _shifts(bits: tf.Tensor, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Two shifts from -amount to amount, int64 `[B]`."""
    choices = 2 * amount + 1
    rows, columns = (mixing.integers(mixing.draw(bits, axis), choices) for axis in (0, 1))
    return rows - amount, columns - amount


def _shifted(shift: tf.Tensor, size: int) -> tf.Tensor:
    return tf.range(size, dtype=tf.int64) + shift[:, tf.newaxis]


def _mirrored(places: tf.Tensor, size: int) -> tf.Tensor:
    """Places outside the axis, mirrored at its ends (the border pixel isn't repeated), however far out."""
    if size == 1:
        return tf.zeros_like(places)
    period = 2 * (size - 1)
    places = tf.math.floormod(places, period)
    return tf.minimum(places, period - places)


def _outside(bits: tf.Tensor, size: int, amount: int) -> tf.Tensor:
    """-1 within `amount` places around a random one."""
    places = tf.range(size, dtype=tf.int64)
    low = mixing.integers(bits, size)[:, tf.newaxis] - amount // 2
    return tf.where((places >= low) & (places < low + amount), tf.constant(-1, tf.int64), places)
