"""What holds for every feed: the stream is a function of the step."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.data.stacked_feed import StackedFeed, stack_batches

SAMPLES = 61  # as many as the fixtures hold
KINDS = ("memory", "streaming", "sequential")
#: For tests of many examples: each feed takes seconds, except the one in memory.
MEMORY_AND_SLOW = ("memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:]))
AUGMENT = "flip,translate:1"

some = settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def feeds(draw: Any) -> dict[str, Any]:
    """Arguments for `make`, with random sizes."""
    samples = draw(st.integers(1, SAMPLES))
    return {
        "samples": samples,
        "batch_size": draw(st.integers(1, samples)),
        "seed": draw(st.integers(0, 2**40)),
        **draw(st.sampled_from([{}, {"drop_remainder": True}, {"pad": True}])),
    }


@pytest.mark.parametrize("kind", MEMORY_AND_SLOW)
@some
@given(arguments=feeds(), epochs=st.floats(0, 3), more=st.integers(0, 4))
def test_stream_from_a_step_equals_the_stream_from_the_start(
    make: Callable[..., Any], same: Callable[..., None], kind: str, arguments: dict[str, Any], epochs: float, more: int
) -> None:
    feed = make(kind, augment=AUGMENT, **arguments)
    start = math.floor(epochs * feed.steps_per_epoch)
    whole = list(feed().take(start + more + 1))[start:]
    for expected, batch in zip(whole, feed(start).take(more + 1), strict=True):
        same(expected, batch)


@pytest.mark.parametrize("kind", MEMORY_AND_SLOW)
@some
@given(arguments=feeds(), count=st.integers(1, 3), step=st.integers(0, 40))
def test_shards_make_up_the_global_batch(
    make: Callable[..., Any], same: Callable[..., None], kind: str, arguments: dict[str, Any], count: int, step: int
) -> None:
    feed = make(kind, **arguments)
    count = min(count, arguments["batch_size"])
    whole = next(iter(feed(step)))
    rows = len(whole["index"])
    for shard in range(count):
        part = next(iter(feed.shard(shard, count)(step)))
        same({name: tensor[shard:rows:count] for name, tensor in whole.items()}, part)


@pytest.mark.parametrize("kind", MEMORY_AND_SLOW)
@some
@given(arguments=feeds(), k=st.integers(1, 6), start=st.integers(0, 30), finite=st.booleans())
def test_stacks_hold_the_batches_of_the_stream(
    make: Callable[..., Any],
    same: Callable[..., None],
    kind: str,
    arguments: dict[str, Any],
    k: int,
    start: int,
    finite: bool,
) -> None:
    if arguments.get("drop_remainder") and finite:
        arguments = {**arguments, "drop_remainder": False}
    feed = make(kind, shuffle=not finite, **arguments)
    start = start % feed.steps_per_epoch if finite else start
    stop = feed.end if finite else start + 9
    batches = list(feed(start).take(stop - start))
    stacked = feed.stacked(k)
    step, stacks = start, iter(stacked(start))
    while step < stop:
        stack, real = next(stacks), stacked.length(step)
        assert 1 <= real <= k
        rows = {tensor.shape[0] for tensor in tf.nest.flatten(stack)}
        assert rows == {k} or (rows == {1} and feed.has_ragged_batch)
        for row in range(min(real, stop - step)):
            same(batches[step - start + row], {name: tensor[row] for name, tensor in stack.items()})
        step += real
    if finite:
        assert step == stop
        with pytest.raises(StopIteration):
            next(stacks)


@some
@given(arguments=feeds(), k=st.integers(1, 5), start=st.integers(0, 20))
def test_stacks_made_in_one_go_equal_those_of_batches(
    make: Callable[..., Any], same: Callable[..., None], arguments: dict[str, Any], k: int, start: int
) -> None:
    feed = make("memory", **arguments)
    for one, other in zip(feed.stacked(k)(start).take(4), StackedFeed(feed, k, stack_batches)(start), strict=False):
        same(one, other)


@some
@given(arguments=feeds(), start=st.integers(0, 10_000_000))
def test_memory_and_streaming_give_the_same_batches(
    make: Callable[..., Any], same: Callable[..., None], arguments: dict[str, Any], start: int
) -> None:
    memory, streaming = (make(kind, augment=AUGMENT, **arguments) for kind in ("memory", "streaming"))
    assert memory.element_spec == streaming.element_spec
    for one, other in zip(memory(start).take(4), streaming(start).take(4), strict=True):
        same(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_epoch_holds_every_sample_once_in_another_order(make: Callable[..., Any], kind: str) -> None:
    feed = make(kind, SAMPLES, 8, seed=3)
    assert (feed.steps_per_epoch, feed.examples_per_epoch) == (8, SAMPLES)
    index = [batch["index"].numpy() for batch in feed().take(24)]
    epochs = [np.concatenate(index[first : first + 8]) for first in (0, 8, 16)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(SAMPLES))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert not np.array_equal(epochs[0], np.arange(SAMPLES))


@pytest.mark.parametrize("kind", KINDS)
def test_batch_holds_what_its_index_names(
    make: Callable[..., Any], kind: str, images: np.ndarray, labels: np.ndarray
) -> None:
    for batch in make(kind, SAMPLES, 8)().take(8):
        index = batch["index"].numpy()
        np.testing.assert_array_equal(batch["x"], images[index] * np.float32(1 / 255), strict=True)
        np.testing.assert_array_equal(batch["y"], labels[index], strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_order_ends_after_one_epoch(make: Callable[..., Any], kind: str) -> None:
    feed = make(kind, SAMPLES, 8, shuffle=False)
    index = np.concatenate([batch["index"].numpy() for batch in feed()])
    np.testing.assert_array_equal(index, np.arange(SAMPLES))
    assert len(list(feed(feed.steps_per_epoch - 1))) == 1
    assert list(feed(feed.steps_per_epoch)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_masked(make: Callable[..., Any], kind: str) -> None:
    batches = list(make(kind, SAMPLES, 8, shuffle=False, pad=True)())
    assert {len(batch["index"]) for batch in batches} == {8}
    mask = np.concatenate([batch["mask"].numpy() for batch in batches])
    assert mask.sum() == SAMPLES
    assert mask[:SAMPLES].all()


@pytest.mark.parametrize("kind", KINDS)
def test_static_shapes_where_batches_are_equal(make: Callable[..., Any], kind: str) -> None:
    assert make(kind, 60, 8, drop_remainder=True).element_spec["x"].shape == [8, 5, 4, 3]
    assert make(kind, 60, 6).shard(0, 2).element_spec["y"].shape == [3]
    assert make(kind, 61, 8).element_spec["x"].shape.as_list() == [None, 5, 4, 3]
    assert make(kind, 60, 6).stacked(4).element_spec["x"].shape == [4, 6, 5, 4, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_samples_are_left_out(make: Callable[..., Any], same: Callable[..., None], kind: str) -> None:
    bad = (0, 9, 10, 60)
    feed = make(kind, SAMPLES, 8, bad=bad)
    assert feed.examples_per_epoch == SAMPLES - len(bad)
    index = np.concatenate([batch["index"].numpy() for batch in feed().take(feed.steps_per_epoch)])
    np.testing.assert_array_equal(np.sort(index), np.setdiff1d(np.arange(SAMPLES), bad))
    for expected, batch in zip(list(feed().take(11))[5:], feed(5), strict=False):
        same(expected, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_free_of_the_global_seed(make: Callable[..., Any], same: Callable[..., None], kind: str) -> None:
    tf.random.set_seed(1)
    one = next(iter(make(kind, SAMPLES, 8, seed=5)(3)))
    tf.random.set_seed(2)
    same(one, next(iter(make(kind, SAMPLES, 8, seed=5)(3))))


def test_order_is_that_of_index_shuffle(make: Callable[..., Any]) -> None:
    """The order must not change: a run that is resumed with a newer version must see the same samples."""
    feed = make("memory", SAMPLES, 8, seed=3)
    expected = tf.random.experimental.index_shuffle(
        tf.range(8, dtype=tf.int64), tf.constant([3, 1], tf.int64), tf.constant(SAMPLES - 1, tf.int64)
    )
    np.testing.assert_array_equal(next(iter(feed(8)))["index"], expected)


def test_sequential_order_is_golden(make: Callable[..., Any]) -> None:
    index = next(iter(make("sequential", SAMPLES, 8, seed=3)(9)))["index"].numpy().tolist()
    assert index == [23, 18, 20, 37, 25, 39, 38, 19]


@pytest.mark.parametrize(
    ("samples", "batch_size", "options"),
    [(10, 11, {}), (10, 0, {}), (0, 1, {}), (10, 4, {"shard_index": 2, "shard_count": 2}), (10, 4, {"shard_count": 5})],
)
def test_epochs_refuse_what_does_not_fit(samples: int, batch_size: int, options: dict[str, Any]) -> None:
    from loopwright.data.feed import Epochs

    with pytest.raises(ValueError, match=r"must (be|lie)"):
        Epochs(samples, batch_size, **options)


def test_feed_takes_several_inputs_targets_and_weights() -> None:
    from loopwright.data.feed import array_feed

    x = {"left": np.zeros((6, 2), np.float32), "right": np.full((6, 3), 255, np.uint8)}
    feed = array_feed(x, np.arange(6, dtype=np.float32), 4, sample_weight=np.ones(6, np.float32), scale="unit")
    batch = next(iter(feed()))
    assert batch["x"]["left"].shape == (4, 2)
    np.testing.assert_array_equal(batch["x"]["right"], np.full((4, 3), np.float32(255) * np.float32(1 / 255)))
    assert batch["y"].dtype == batch["sample_weight"].dtype == tf.float32
    with pytest.raises(ValueError, match="different lengths"):
        array_feed(np.zeros(3), np.zeros(4), 2)


@pytest.mark.parametrize("size", [1, 3, 256, 1000])
def test_scale_multiplies_to_the_bit(size: int) -> None:
    from loopwright.data.scaling import scale

    x = np.resize(np.arange(256, dtype=np.uint8), (3, size))
    expected = x.astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(scale(tf.constant(x)), expected, strict=True)
    np.testing.assert_array_equal(tf.function(scale)(tf.constant(x)), expected, strict=True)
    np.testing.assert_array_equal(scale(tf.constant(expected)), expected)
