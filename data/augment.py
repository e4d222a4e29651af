"""Augmentation: random changes of images that depend only on (seed, sample index, epoch).

`flip,translate:2,crop:4,cutout:8` changes a whole batch in one go. For each row and each column of the new image, a
built-in operation says which row and column of the old image it shows. The operations are composed on these small maps,
and the pixels move only once, at the end.

The picture of a sample in an epoch doesn't depend on the batch size, the shard, the feed, or the step at which the
stream was opened.
"""

from __future__ import annotations

import dataclasses
import functools
import pkgutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from loopwright.data import stateless_random
from loopwright.data.errors import DataError
from loopwright.data.scaling import scale, shaped_like_images

#: For one axis: which old row (or column) each new one shows, int64 `[B, size]`, with -1 for an empty one. None means
#: that nothing moves along this axis.
AxisMap = Any

#: Turns random bits `[B]`, the height, the width and a number of pixels into the maps of both axes.
Operation = Callable[[tf.Tensor, int, int, int], tuple[AxisMap, AxisMap]]
UserFunction = Callable[[Any, tf.Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Augment:
    """Operations that are applied one after the other, with draws from a seed. A feed can call it as its `augment`.

    Built-in operations change every input of the form `[B, H, W, C]`, uint8 or float. Several images of a sample move
    together. A user's function gets all of `x` (images scaled to [0, 1]) and keys uint64 `[B]`, from which
    `stateless_random.draw` makes random bits. It returns inputs of the same shapes.
    """

    steps: tuple[tuple[Operation, int] | UserFunction, ...]
    seed: int = 0

    def __call__(self, x: Any, index: tf.Tensor, epoch: tf.Tensor) -> Any:
        keys = stateless_random.sample_keys(self.seed, epoch, index)
        run: list[tuple[int, Operation, int]] = []
        for number, step in enumerate(self.steps):
            if isinstance(step, tuple):
                run.append((number, *step))
                continue
            x, run = _move(x, keys, run), []
            x = step(tf.nest.map_structure(_scale_images, x), stateless_random.draw(keys, number))
        return _move(x, keys, run)


def flip(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[AxisMap, AxisMap]:
    """Swaps left and right with a probability of one half."""
    columns = tf.range(width, dtype=tf.int64)
    return None, tf.where(stateless_random.integers(bits, 2)[:, tf.newaxis] == 1, width - 1 - columns, columns)


def translate(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[AxisMap, AxisMap]:
    """Shifts the image by up to `amount` pixels up or down, and left or right. Uncovered pixels are empty (zero)."""
    rows, columns = _shifted(bits, height, width, amount)
    empty = tf.constant(-1, tf.int64)
    return tf.where(rows < height, tf.maximum(rows, empty), empty), tf.where(
        columns < width, tf.maximum(columns, empty), empty
    )


def crop(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[AxisMap, AxisMap]:
    """Pads the image by `amount` pixels, mirrored at the border, and crops it at a random place to its old size."""
    rows, columns = _shifted(bits, height, width, amount)
    return _mirrored(rows, height), _mirrored(columns, width)


def cutout(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[AxisMap, AxisMap]:
    """Empties a square of `amount` by `amount` pixels, centred anywhere (DeVries and Taylor, arXiv:1708.04552)."""
    top, left = stateless_random.two_integers(bits, height, width)
    return _emptied(top, height, amount), _emptied(left, width, amount)


#: Each operation by name, and whether it takes a number of pixels.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "flip": (flip, False),
    "translate": (translate, True),
    "crop": (crop, True),
    "cutout": (cutout, True),
}


def parse(text: str, *, seed: int = 0) -> Augment | None:
    """The augmentation that a text such as `flip,translate:2,crop:4,module:function` describes; None for an empty text.

    Raises DataError (exit 2) for an unknown operation, a missing or wrong number of pixels, and a function that doesn't
    exist.
    """
    steps: list[Any] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, argument = word.partition(":")
        if name in OPERATIONS:
            operation, sized = OPERATIONS[name]
            if sized != (argument.isascii() and argument.isdigit() and int(argument) > 0):
                form = f"{name}:PIXELS, such as {name}:4" if sized else f"{name} alone"
                raise DataError(f"augment={word!r}: write {form}", exit_code=2)
            steps.append((operation, int(argument or 0)))
        else:
            steps.append(_user_function(word))
    return Augment(tuple(steps), seed) if steps else None


def _user_function(word: str) -> UserFunction:
    if ":" not in word:
        raise DataError(f"augment={word!r}: choose from {', '.join(OPERATIONS)}, or give module:function", exit_code=2)
    try:
        function = pkgutil.resolve_name(word)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"augment={word!r}: can't be imported: {error}; choose from {', '.join(OPERATIONS)}, or module:function",
            exit_code=2,
        ) from None
    if not callable(function):
        raise DataError(
            f"augment={word!r}: not a function (type {type(function).__name__}); name one that takes (x, keys)",
            exit_code=2,
        )
    return tf.function(function)  # with AutoGraph, because a user's function may hold Python loops over tensors


def _scale_images(part: tf.Tensor) -> tf.Tensor:
    return scale(part) if shaped_like_images(part) else part


def _move(x: Any, keys: tf.Tensor, run: list[tuple[int, Operation, int]]) -> Any:
    """Applies operations to all images among the inputs."""
    if not run:
        return x
    return tf.nest.map_structure(lambda part: _move_image(part, keys, run) if part.shape.rank == 4 else part, x)


def _move_image(x: tf.Tensor, keys: tf.Tensor, run: list[tuple[int, Operation, int]]) -> tf.Tensor:
    height, width = x.shape[1], x.shape[2]
    rows: AxisMap = None
    columns: AxisMap = None
    holes: list[tuple[tf.Tensor, tf.Tensor]] = []
    for number, operation, amount in run:
        new_rows, new_columns = operation(stateless_random.draw(keys, number), height, width, amount)
        if operation is cutout:  # A pixel is empty if both its row and its column are.
            holes.append((new_rows < 0, new_columns < 0))
            continue
        rows, columns = _look_up(rows, new_rows, -1), _look_up(columns, new_columns, -1)
        holes = [(_look_up(a, new_rows, False), _look_up(b, new_columns, False)) for a, b in holes]
    moved = x if rows is None and columns is None else _gather_pixels(x, rows, columns)
    empty = [in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis, :] for in_rows, in_columns in holes]
    if rows is not None and not _stays_inside(run):
        empty.append((rows < 0)[:, :, tf.newaxis] | (columns < 0)[:, tf.newaxis, :])
    if empty:
        moved = tf.where(functools.reduce(tf.logical_or, empty)[..., tf.newaxis], tf.zeros([], x.dtype), moved)
    return tf.ensure_shape(moved, x.shape)


def _gather_pixels(x: tf.Tensor, rows: AxisMap, columns: AxisMap) -> tf.Tensor:
    """The pixels of each image at the given rows and columns; -1 counts as 0 here."""
    height, width = x.shape[1], x.shape[2]
    first = tf.range(tf.shape(x, tf.int64)[0])[:, tf.newaxis] * height
    rows = tf.range(height, dtype=tf.int64) if rows is None else tf.maximum(rows, 0)
    columns = tf.range(width, dtype=tf.int64)[tf.newaxis] if columns is None else tf.maximum(columns, 0)
    places = ((first + rows) * width)[:, :, tf.newaxis] + columns[:, tf.newaxis, :]
    return tf.gather(tf.reshape(x, [-1, x.shape[3]]), places)


def _stays_inside(run: list[tuple[int, Operation, int]]) -> bool:
    return all(operation is not translate for _, operation, _ in run)


def _look_up(values: AxisMap, places: AxisMap, otherwise: Any) -> AxisMap:
    """`values` `[B, size]` at the given places, and `otherwise` at empty places."""
    if values is None or places is None:
        return places if values is None else values
    found = tf.gather(values, tf.maximum(places, 0), batch_dims=1)
    return tf.where(places < 0, tf.constant(otherwise, values.dtype), found)


def _shifted(bits: tf.Tensor, height: int, width: int, amount: int) -> tuple[tf.Tensor, tf.Tensor]:
    """All rows and all columns of the images, shifted by -amount to amount."""
    shifts = stateless_random.two_integers(bits, 2 * amount + 1, 2 * amount + 1)
    rows, columns = (
        tf.range(-amount, size - amount, dtype=tf.int64) + shift[:, tf.newaxis]
        for size, shift in zip((height, width), shifts, strict=True)
    )
    return rows, columns


def _mirrored(places: tf.Tensor, size: int) -> AxisMap:
    """Mirrors places outside the axis at its ends, however far out they lie. The border pixel isn't repeated."""
    if size == 1:
        return tf.zeros_like(places)
    period = 2 * (size - 1)
    places = tf.math.floormod(places, period)
    return tf.minimum(places, period - places)


def _emptied(centre: tf.Tensor, size: int, amount: int) -> AxisMap:
    """-1 at the `amount` places around a centre, and 0 at all other places."""
    off = tf.range(amount // 2, size + amount // 2, dtype=tf.int64) - centre[:, tf.newaxis]
    return -tf.cast((off >= 0) & (off < amount), tf.int64)
