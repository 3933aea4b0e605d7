"""Spike times as counts: on the grid exactly, of sessions and of trials."""

import math
from fractions import Fraction

import numpy as np
import pytest

from recparam.data.recording import Recording
from recparam.data.spikes import bin_spikes


@pytest.mark.parametrize(
    ("width", "start"),
    [(1, 0), (30, 123_456_789), (7, -50), (600, 10**12 + 1), (20_000_000, 1_700_000_000_000_000_003)],
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_are_counted_exactly(width: int, start: int, dtype: type[np.integer]) -> None:
    if dtype is np.uint64 and start < 0:
        pytest.skip("no such clock")
    rng = np.random.default_rng(0)
    offsets = np.r_[0, width - 1, width, 10**9 * width - 1, 10**9 * width, rng.integers(0, 10**12, 200)].tolist()
    stop = start + 5 * width
    near = [offset for offset in offsets if offset < 5 * width]
    counts = bin_spikes([np.array([start + o for o in offsets], dtype)], width=width, start=start, stop=stop)[:]
    expected = np.bincount([offset // width for offset in near], minlength=5)
    assert counts[:, 0].tolist() == expected.tolist()


def test_the_edge_of_a_far_bin_of_a_sample_clock_is_not_blurred() -> None:
    # 1e-12 of 1e9 bins of 1e6 samples would be a thousand samples.
    times = np.array([10**15 - 1, 10**15])
    counts = bin_spikes([times], width=10**6, start=10**15 - 2 * 10**6, stop=10**15 + 10**6)[:]
    assert counts.ravel().tolist() == [0, 1, 1]


@pytest.mark.parametrize("rate", [30000, 24414.0625, 1000, 1250])
@pytest.mark.parametrize("hours", [0, 1, 30])
def test_sampled_times_of_long_recordings(rate: float, hours: int) -> None:
    first = int(hours * 3600 * rate)
    samples = np.arange(first, first + 4000)
    counts = bin_spikes([samples / rate], width=20 / rate, start=first / rate, stop=(first + 4000) / rate)[:]
    assert counts.ravel().tolist() == [20] * 200
    step, begin = 1 / rate, (first - 20_000) / rate
    counts = bin_spikes([samples * step], width=20 * step, start=begin, stop=(first + 4000) / rate)[:]
    assert counts.ravel().tolist() == [0] * 1000 + [20] * 200


def test_random_times_are_where_exact_arithmetic_puts_them() -> None:
    rng = np.random.default_rng(0)
    for width, start in ((0.02, 0.0), (0.0137, 5.3), (1 / 3, -2.7)):
        times = rng.uniform(start, start + 100 * width, 3000)
        exact = [math.floor((Fraction(t) - Fraction(start)) / Fraction(width)) for t in times.tolist()]
        counts = bin_spikes([times], width=width, start=start, stop=start + 100 * width)[:]
        assert counts[:, 0].tolist() == np.bincount(exact, minlength=100)[:100].tolist()


def test_single_precision_knows_its_own_digits() -> None:
    times = np.arange(2000, dtype=np.float32) / np.float32(1000) + np.float32(200)
    counts = bin_spikes([times], width=0.02, start=200, stop=202)[:]
    assert counts.ravel().tolist() == [20] * 100
    counts = bin_spikes([times], width=float(np.float32(0.02)), start=200, stop=202)[:]
    assert counts.ravel().tolist() == [20] * 100
    early = np.array([200.0199, 200.0201], np.float32)  # a tenth of a millisecond is several of its digits
    assert bin_spikes([early], width=0.02, start=200, stop=200.04)[:].ravel().tolist() == [1, 1]


def test_rows_of_an_array_may_be_filled_up_with_nan_and_not_with_zeros() -> None:
    filled = np.array([[0.1, 0.2, np.nan, np.nan], [0.1, 0.2, 0.3, 0.35]])
    assert bin_spikes(filled, width=0.2, start=0, stop=0.4)[:].tolist() == [[1, 1], [1, 3]]
    with pytest.raises(ValueError, match="zeros after later times"):
        bin_spikes(np.nan_to_num(filled), width=0.2, start=0, stop=0.4)


def test_a_list_of_trials_is_a_session_each() -> None:
    trials = [{"a": [0.1, 0.3], "b": []}, {"b": [0.25]}, {"c": [0.05], "a": [0.39]}]
    recording = bin_spikes(trials, width=0.2, start=0, stop=0.4)
    assert recording.names == ("a", "b", "c")
    assert recording.sessions.tolist() == [0, 0, 1, 1, 2, 2]
    assert recording[:].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    np.testing.assert_allclose(recording.times, [0.1, 0.3] * 3)
    named = bin_spikes({"left": {"a": [0.1]}, "right": {"a": []}}, width=0.2, start=0, stop=0.4)
    assert named.session_names == ("left", "right") and named[:].ravel().tolist() == [1, 0, 0, 0]
    plain = bin_spikes([[[0.1], []], [[], [0.3]]], width=0.2, start=0, stop=0.4)
    assert plain.names is None and plain[:].tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]


def test_trials_may_each_have_a_start_and_a_stop() -> None:
    trials = [[[0.1, 0.5], []], [[0.2], [0.3]]]
    recording = bin_spikes(trials, width=0.1, trials=[(0, 0.6), (0.2, 0.4)])
    assert np.bincount(recording.sessions).tolist() == [6, 2]
    assert recording[:][recording.sessions == 1].tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(recording.times[-2:], [0.25, 0.35])


def test_trials_of_one_clock_are_cut_from_the_spikes_of_each_unit() -> None:
    rng = np.random.default_rng(1)
    spikes = {"u": rng.uniform(0, 100, 4000), "silent": np.zeros(0), "v": np.arange(3000) / 30}
    bounds = {"first": (3, 5), "second": (10.5, 12), "late": (95, 99.99)}
    recording = bin_spikes(spikes, width=0.1, trials=bounds)
    assert recording.names == ("u", "silent", "v") and recording.session_names == tuple(bounds)
    assert np.bincount(recording.sessions).tolist() == [20, 15, 49]
    for number, (start, _) in enumerate(bounds.values()):
        rows = recording.sessions == number
        edges = start + 0.1 * np.arange(rows.sum() + 1)
        np.testing.assert_allclose(recording.times[rows], (edges[1:] + edges[:-1]) / 2)
        np.testing.assert_array_equal(recording[:][rows, 0], np.histogram(spikes["u"], edges)[0])
        assert (recording[:][rows, 2] == 3).all()
    assert not recording[:][:, 1].any()
    array = np.array(list(bounds.values()))
    np.testing.assert_array_equal(bin_spikes(spikes, width=0.1, trials=array)[:], recording[:])


def test_events_have_a_window_each_of_as_many_bins() -> None:
    events = np.array([1.0, 2.3, 7.7, 1e5 + 0.1])
    spikes = np.concatenate([event + 0.1 * np.arange(-3, 5) for event in events])
    recording = bin_spikes([spikes], width=0.1, events=events, window=(-0.3, 0.5))
    assert np.bincount(recording.sessions).tolist() == [8] * 4
    assert recording[:].ravel().tolist() == [1] * 32
    np.testing.assert_allclose(recording.times[8:16], 2.3 - 0.25 + 0.1 * np.arange(8))


@pytest.mark.parametrize(
    ("spikes", "options", "message"),
    [
        ([[1.0]], {"trials": [(0, 1)], "start": 0}, "one of trials=, events= and start="),
        ([[1.0]], {"events": [1.0]}, "events= and window="),
        ([[1.0]], {"events": [np.nan], "window": (0, 1)}, "events as finite times"),
        ([[1.0]], {"events": [1.0], "window": (1, 0)}, "window as seconds"),
        ([[1.0]], {"trials": [(0, 1), (2,)]}, r"pairs \(start, stop\).* in 1"),
        ([[1.0]], {"trials": []}, "got none"),
        ([[1.0]], {"trials": [(0, 4), (3, 3.5)]}, "^Trial 1: .*leave a bin"),
        ([[[1.0]], [[1.0], [2.0]]], {}, r"same units.*\[1, 2\]"),
        ([[[1.0]], [[]]], {}, "^Trial 1: Expected start= where there are no spikes"),
        ([[[1.0]], [[]]], {"trials": [(0, 1)]}, "times of 2 trials"),
        ({"a": [[1.0], [2.0]]}, {}, "may be either"),
        ([np.array(["2024-01-01"], "datetime64[s]")], {}, "numbers, in seconds; got datetime64"),
    ],
)
def test_wrong_trials_are_one_sentence(spikes, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        bin_spikes(spikes, width=1, **options)


@pytest.mark.filterwarnings("ignore:Some epochs have no duration:UserWarning", "ignore:divide by zero:RuntimeWarning")
def test_groups_of_pynapple_are_counted_in_their_epochs() -> None:
    nap = pytest.importorskip("pynapple")
    support = nap.IntervalSet([0.0, 5.0, 9.0], [1.0, 6.0, 9.01])
    times = {3: np.array([0.1, 0.2, 5.1, 5.95]), 7: np.array([0.3]), 9: np.zeros(0)}
    group = nap.TsGroup({key: nap.Ts(t) for key, t in times.items()}, time_support=support)
    recording = bin_spikes(group, width=0.5)
    assert recording.names == ("3", "7", "9") and recording.sessions.tolist() == [0, 0, 1, 1]
    assert recording[:].tolist() == [[2, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert recording.times.tolist() == [0.25, 0.75, 5.25, 5.75]
    assert recording.notes == ("1 epochs are shorter than a bin, or outside, and left out.",)
    assert bin_spikes(group, width=0.5, start=5, stop=6)[:].tolist() == [[1, 0, 0], [1, 0, 0]]
    trials = nap.IntervalSet([0.0, 5.0], [0.5, 6.0])
    assert bin_spikes(group, width=0.5, trials=trials).sessions.tolist() == [0, 1, 1]
    assert bin_spikes(group[3], width=0.5, start=0, stop=1)[:].ravel().tolist() == [2, 0]
    with pytest.raises(ValueError, match="bin_spikes"):
        Recording.of(group)


def test_a_table_says_when_trials_begin_and_end() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"side": ["l", "r"], "start_time": [0.0, 2.0], "stop_time": [1.0, 2.5]})
    assert bin_spikes([[0.1, 2.2]], width=0.5, trials=table)[:].ravel().tolist() == [1, 0, 1]
