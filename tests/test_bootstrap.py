"""Block-bootstrap intervals: coverage on series whose mean is known, and what goes wrong without blocks."""

import numpy as np
import pytest

from recparam.evaluation.bootstrap import block_interval, block_length


def autoregression(rng: np.random.Generator, *, count: int, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series of mean zero and variance one."""
    noise = rng.normal(size=count) * np.sqrt(1 - memory**2)
    series = np.empty(count)
    series[0] = rng.normal()
    for t in range(1, count):
        series[t] = memory * series[t - 1] + noise[t]
    return series


def coverage(*, memory: float, block: int | None, count: int = 1000, runs: int = 200) -> float:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(runs):
        interval = block_interval(
            autoregression(rng, count=count, memory=memory), block=block, resamples=300
        ).interval
        assert interval.low is not None and interval.high is not None
        hits += interval.low <= 0 <= interval.high
    return hits / runs


def test_blocks_cover_the_mean_of_a_dependent_series_and_single_rows_do_not() -> None:
    assert coverage(memory=0.8, block=None) >= 0.87
    assert coverage(memory=0.8, block=1) <= 0.7


def test_independent_rows_need_no_blocks() -> None:
    assert coverage(memory=0.0, block=None) >= 0.9
    assert block_length(np.random.default_rng(0).normal(size=2000)) <= 5


def test_blocks_grow_with_the_memory_of_the_series() -> None:
    rng = np.random.default_rng(0)
    lengths = [block_length(autoregression(rng, count=4000, memory=memory)) for memory in (0.0, 0.5, 0.9)]
    assert lengths[0] < lengths[1] < lengths[2]
    # The theory's value for an AR(1) series: (2 G^2 / D)^(1/3) with G / (sum of c) = 2 rho / (1 - rho^2).
    expected = (1.5 * (2 * 0.5 / (1 - 0.5**2)) ** 2 * 4000) ** (1 / 3)
    assert lengths[1] == pytest.approx(expected, rel=0.4)


def test_an_interval_of_independent_rows_is_the_normal_one() -> None:
    values = 3 + 2 * np.random.default_rng(0).normal(size=4000)
    found, block, count = block_interval(values, block=1, resamples=4000)
    assert (block, count) == (1, 4000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * values.std() / np.sqrt(4000), abs=5e-3)
    assert found.high == pytest.approx(values.mean() + 1.96 * values.std() / np.sqrt(4000), abs=5e-3)


def test_blocks_and_intervals_are_those_of_arch() -> None:
    peer = pytest.importorskip("arch.bootstrap")
    for memory in (0.5, 0.8, 0.95):
        # arch takes each lag's own variances, so that its window may end at another lag in single series
        pairs = [
            (block_length(series), float(peer.optimal_block_length(series)["circular"].iloc[0]))
            for series in (autoregression(np.random.default_rng(k), count=2000, memory=memory) for k in range(10))
        ]
        assert np.median([own / theirs for own, theirs in pairs]) == pytest.approx(1, abs=0.06)
    series = autoregression(np.random.default_rng(3), count=300, memory=0.6)
    found = block_interval(series, resamples=20_000)
    bootstrap = peer.CircularBlockBootstrap(found.block, series, seed=1)
    ends = bootstrap.conf_int(np.mean, reps=20_000, method="percentile", size=0.95).ravel()
    # An end is known to 2.7 standard errors of the mean, about 0.1, over the root of the resamples.
    np.testing.assert_allclose(found.interval[1:], ends, atol=4 * 2**0.5 * 0.27 / 20_000**0.5)


def test_the_same_seed_gives_the_same_interval_and_a_shift_shifts_it() -> None:
    values = autoregression(np.random.default_rng(3), count=300, memory=0.6)
    assert block_interval(values, seed=4) == block_interval(values, seed=4)
    assert block_interval(values, seed=4) != block_interval(values, seed=5)
    assert block_interval(values + 7).interval == pytest.approx([v + 7 for v in block_interval(values).interval])


def test_a_constant_series_has_a_point_as_interval() -> None:
    assert block_interval(np.full(20, 0.1)).interval == pytest.approx((0.1, 0.1, 0.1), abs=1e-15)


@pytest.mark.parametrize("count", [8, 9, 10, 13, 50])
def test_short_series_have_blocks_that_fit(count: int) -> None:
    values = np.cumsum(np.random.default_rng(count).normal(size=count))
    assert 1 <= block_length(values) <= count / 3
    low, high = block_interval(values).interval[1:]
    assert low is not None and high is not None and low < values.mean() < high


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.zeros(7), {}, "at least 8"),
        (np.zeros((9, 2)), {}, r"shape \(n,\)"),
        (np.array([0.0] * 9 + [np.nan]), {}, "1 that are NaN"),
        (np.zeros(9), {"block": 10}, "block from 1 to 9"),
        (np.zeros(9), {"level": 95.0}, "level between 0 and 1"),
        (np.zeros(9), {"resamples": 0}, "resamples"),
    ],
)
def test_bad_input_is_named(values: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        block_interval(values, **options)
