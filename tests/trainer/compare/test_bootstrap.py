"""Medians, their intervals, and ties."""

import numpy as np
import pytest

from loopwright.trainer.compare import bootstrap


def test_interval_of_equal_samples_is_a_point() -> None:
    assert bootstrap.median_interval([2.0] * 5) == (2.0, 2.0)


def test_interval_holds_the_true_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [low <= 1 <= high for low, high in (bootstrap.median_interval(rng.normal(1, 0.1, 15)) for _ in range(200))]
    assert 0.88 < np.mean(held) < 0.995


def test_interval_is_the_same_every_time_and_holds_the_median() -> None:
    samples = [1.0, 1.1, 0.9, 1.4, 1.05]
    low, high = bootstrap.median_interval(samples)
    assert bootstrap.median_interval(samples) == (low, high)
    assert 0.9 <= low <= 1.05 <= high <= 1.4


def test_ratio_is_above_one_where_the_second_is_faster() -> None:
    assert bootstrap.median_ratio([2.0, 4.0, 6.0], [2.0, 2.0, 1.0]) == 2.0


def test_ratio_interval_draws_pairs_so_that_slow_moments_cancel() -> None:
    slow_moments = np.array([1.0, 3.0, 1.0, 5.0, 2.0, 1.0, 4.0])
    low, high = bootstrap.median_ratio_interval(list(1.2 * slow_moments), list(slow_moments))
    assert (low, high) == pytest.approx((1.2, 1.2))
    assert not bootstrap.is_tie((low, high))


def test_noise_around_one_ratio_is_a_tie() -> None:
    rng = np.random.default_rng(1)
    between = bootstrap.median_ratio_interval(list(rng.normal(1, 0.1, 9)), list(rng.normal(1, 0.1, 9)))
    assert bootstrap.is_tie(between)
    assert not bootstrap.is_tie((1.01, 1.2))
    assert not bootstrap.is_tie((0.8, 0.99))


def test_ratio_interval_needs_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        bootstrap.median_ratio_interval([1.0, 2.0], [1.0])
