"""Precision, recall, F1 and curves from counts, against Keras and by hand."""

import keras
import numpy as np
import pytest

from loopwright.trainer.observe.axes import short, ticks, widened
from loopwright.trainer.observe.scores import BINS, Curve, Scores, binned, interval
from loopwright.trainer.observe.shown import Shown


def test_scores_are_undefined_where_nothing_is_counted() -> None:
    found = Scores.of(np.array([3, 0, 0]), np.array([4, 2, 0]), np.array([6, 0, 0]))
    np.testing.assert_equal(found.precision, [0.5, np.nan, np.nan])
    np.testing.assert_equal(found.recall, [0.75, 0, np.nan])
    np.testing.assert_equal(found.f1, [0.6, 0, np.nan])
    assert found.macro_f1 == pytest.approx(0.3)


def test_one_half_is_the_edge_of_an_interval() -> None:
    half = np.float32(0.5)
    chances = np.array([0.0, 1.0, half, np.nextafter(half, np.float32(1)), np.nan], np.float32)
    assert interval(chances).tolist() == [0, BINS - 1, BINS // 2 - 1, BINS // 2, 0]


def test_curve_finds_what_lies_above_each_threshold() -> None:
    rng = np.random.default_rng(0)
    chances, true = rng.random(300), rng.random(300) < 0.3
    curve = Curve.of(binned(chances, true))
    for place in (0, 37, 100, 199):
        above = chances > place / BINS
        assert curve.true_positives[place] == np.sum(above & true)
        assert curve.false_positives[place] == np.sum(above & ~true)
        assert curve.false_negatives[place] == np.sum(~above & true)
        assert curve.true_negatives[place] == np.sum(~above & ~true)
    area = keras.metrics.AUC(num_thresholds=1000, curve="PR")
    area.update_state(true, chances)
    assert curve.average_precision == pytest.approx(float(area.result()), abs=0.02)
    assert np.isnan(Curve.of(binned(chances, np.zeros(300, bool))).average_precision)


def test_worst_samples_are_kept_over_batches() -> None:
    shown = Shown(first=2)
    badness = np.array([-np.inf, 5, 3, np.nan, 5, -np.inf] + [1] * 30, float)
    for start in range(0, len(badness), 4):
        part = np.arange(start, min(start + 4, len(badness)))
        shown.add(badness[part], {"row": part})
    rows, parts = shown.done()
    assert rows.tolist() == [0, *range(1, 5), *range(6, 26)]
    np.testing.assert_array_equal(parts["row"], rows)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (250_000, "250k"), (1.5e6, "1.5M"), (2e9, "2G"), (0.05, "0.05"), (-3000, "-3000")]
)
def test_numbers_of_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-7.3, 900), (1e-7, 2e-7), (5, 5), (0, 0)])
def test_axes_have_a_few_round_ticks(low: float, high: float) -> None:
    begin, end = widened(low, high)
    found = ticks(begin, end)
    assert begin < end
    assert 2 <= len(found) <= 6
    assert all(begin <= tick <= end for tick in found)
