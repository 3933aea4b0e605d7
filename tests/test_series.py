"""Intervals of means over series: coverage where the mean is known, and what is said where there are too few blocks."""

import numpy as np
import pytest
from scipy.signal import lfilter

from recparam.evaluation.series import FEWEST, around, block_interval, mean_error, tail_index


def autoregression(rng: np.random.Generator, *, count: int, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series of mean zero and variance one."""
    noise = rng.normal(size=count + 1000) * np.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], noise)[1000:]


def coverage(*, memory: float, count: int, noise: float = 0.0, runs: int = 400) -> tuple[float, float]:
    """How often there is an interval, and how often it covers zero."""
    rng, hits, there = np.random.default_rng(1), 0, 0
    for _ in range(runs):
        series = autoregression(rng, count=count, memory=memory) + noise * rng.normal(size=count)
        _, low, high = block_interval(series).interval
        if low is not None and high is not None:
            there, hits = there + 1, hits + (low <= 0 <= high)
    return there / runs, hits / max(there, 1)


@pytest.mark.parametrize(
    ("memory", "count", "noise"), [(0.0, 50, 0), (0.0, 1000, 0), (0.5, 500, 0), (0.8, 1000, 0), (0.9, 1000, 2.0)]
)
def test_the_interval_of_a_series_covers_its_mean(memory: float, count: int, noise: float) -> None:
    there, covered = coverage(memory=memory, count=count, noise=noise)
    assert there >= 0.97 and covered >= 0.92


def test_too_few_independent_blocks_have_no_interval_and_say_how_many_they_are() -> None:
    there, _ = coverage(memory=0.99, count=500)
    assert there < 0.1
    found = block_interval(np.random.default_rng(0).normal(size=12))
    assert found.interval[1:] == (None, None) and found.blocks <= 12 and found.count == 12


def test_independent_rows_have_about_the_error_that_they_should() -> None:
    rng = np.random.default_rng(0)
    errors = [mean_error(2 * rng.normal(size=400)) for _ in range(100)]
    widths = [error.half_width() for error in errors]
    assert sum(width is not None for width in widths) >= 99
    assert 1.0 < np.mean([w for w in widths if w]) / (1.96 * 2 / 20) < 1.35
    # Of rows of an AR(1) series, (1 - a) / (1 + a) of them.
    blocks = [mean_error(autoregression(rng, count=2000, memory=0.5)).blocks for _ in range(50)]
    assert np.median(blocks) == pytest.approx(2000 / 3, rel=0.15)


def test_errors_of_independent_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    large, small = mean_error(rng.normal(size=100)), mean_error(0.1 * rng.normal(size=5000))
    both = large + small
    assert both.standard_error == pytest.approx(np.hypot(large.standard_error, small.standard_error))
    assert both.freedom == pytest.approx(large.freedom, rel=0.1) and both.blocks == pytest.approx(large.blocks, abs=1)
    wider = around(1.0, both, count=100, floor=0.5).interval
    narrow = around(1.0, both, count=100).interval
    assert wider.low == pytest.approx((narrow.low or 0) - 0.5) and wider.high == pytest.approx((narrow.high or 0) + 0.5)


def test_a_shift_shifts_the_interval_and_a_constant_series_has_a_point() -> None:
    values = autoregression(np.random.default_rng(3), count=300, memory=0.6)
    assert block_interval(values + 7).interval == pytest.approx([v + 7 for v in block_interval(values).interval])
    assert block_interval(np.full(20, 0.1)).interval == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)
    assert block_interval(np.full(20, 0.1)).blocks == 20 > FEWEST


def test_the_tail_of_a_cauchy_distribution_is_told_from_a_normal_one() -> None:
    rng = np.random.default_rng(0)
    normal, cauchy = (
        [tail_index(draw(size=500)) for _ in range(50)] for draw in (rng.normal, rng.standard_cauchy)
    )
    assert np.mean(np.array(normal) > 0.5) == 0 and np.median(cauchy) > 0.7
    assert tail_index(np.zeros(20)) == -np.inf


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.zeros(1), {}, "at least 2"),
        (np.zeros((9, 2)), {}, r"shape \(n,\)"),
        (np.array([0.0] * 9 + [np.nan]), {}, "1 that are NaN"),
        (np.zeros(9), {"level": 95.0}, "level between 0 and 1"),
    ],
)
def test_bad_input_is_named(values: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        block_interval(values, **options)
