"""Pairs on which a declared variable is alike, against a scan; spikes in bins, against a histogram."""

import numpy as np
import pytest

from recparam.data.conditioned import nearest, same_label
from recparam.data.recording import Recording
from recparam.data.spikes import bin_spikes


@pytest.mark.parametrize("apart", [1, 4])
def test_nearest_rows_are_those_of_a_scan(apart):
    rng = np.random.default_rng(0)
    recording = Recording.of([np.zeros((40, 1)), np.zeros((25, 1))])
    place = rng.normal(size=(65, 2)).cumsum(0)
    pairs = nearest(recording, place, neighbours=5, apart=apart)
    distances = np.linalg.norm(place[:, None] - place, axis=2)
    rows = np.arange(65)
    beside = np.abs(rows[:, None] - rows) < apart
    distances[beside & (recording.sessions[:, None] == recording.sessions)] = np.inf
    expected = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_array_equal(pairs.first, np.repeat(rows, 5))
    np.testing.assert_array_equal(pairs.second.reshape(65, 5), expected)


def test_rows_at_the_same_place_are_not_paired_with_themselves():
    pairs = nearest(Recording.of(np.zeros((20, 1))), np.zeros(20), neighbours=3)
    assert (pairs.first != pairs.second).all()
    assert (np.bincount(pairs.first) == 3).all()


TIES = {
    "three values": np.random.default_rng(0).integers(0, 3, 1200),
    "far from zero": 1e9 + np.random.default_rng(0).integers(0, 5, 1200),
    "cells of a grid": np.random.default_rng(0).integers(0, 10, (1200, 2)),
    "one cell for each row": np.arange(1200),
    "at one distance from all others": np.repeat(np.eye(60), 20, axis=0),
    "rest for half of the time": np.r_[np.random.default_rng(0).normal(size=600), np.zeros(600)],
    "rest, and places that nothing is near": np.r_[1e3 + 1e4 * np.arange(600), np.zeros(600)],
}


@pytest.mark.parametrize("apart", [1, 30])
@pytest.mark.parametrize("name", TIES)
def test_no_row_is_the_partner_of_many_where_values_are_equal(name, apart):
    values = TIES[name].reshape(1200, -1).astype(float)
    pairs, again, other = (nearest(Recording.of(np.zeros((1200, 1))), values, apart=apart, seed=s) for s in (0, 0, 1))
    assert np.bincount(pairs.second).max() < 40 if apart == 1 else np.bincount(pairs.second).max() < 120
    assert (np.bincount(pairs.first) == 10).all() and (np.abs(pairs.lag) >= apart).all()
    assert len(np.unique(np.c_[pairs.first, pairs.second], axis=0)) == len(pairs)
    assert np.array_equal(pairs.second, again.second) and not np.array_equal(pairs.second, other.second)
    for row in range(0, 1200, 100):  # none of the others is closer than those that were taken
        distance = np.linalg.norm(values - values[row], axis=1)
        distance[max(0, row - apart + 1) : row + apart] = np.inf
        expected = np.sort(distance)[:10]
        np.testing.assert_allclose(np.sort(distance[pairs.second[pairs.first == row]]), expected)


def test_masked_rows_have_no_neighbours():
    recording = Recording.of(np.zeros((6, 1)), mask=np.array([True, False, True, True, True, True]))
    pairs = nearest(recording, [0.0, np.nan, 0.3, 1.0, 1.1, 5.0], neighbours=1)
    assert pairs.first.tolist() == [0, 2, 3, 4, 5] and pairs.second.tolist() == [2, 0, 4, 3, 4]


def test_equal_labels_are_paired_at_random_and_by_the_seed():
    labels = np.random.default_rng(1).integers(0, 3, 300)
    recording = Recording.of(np.zeros((300, 1)))
    pairs, again, other = (same_label(recording, labels, neighbours=4, seed=seed) for seed in (0, 0, 1))
    assert (labels[pairs.first] == labels[pairs.second]).all() and (pairs.first != pairs.second).all()
    assert set(pairs.first) == set(range(300))
    assert np.array_equal(pairs.second, again.second) and not np.array_equal(pairs.second, other.second[: len(pairs)])
    # Each other row of the label is as likely: places further in the circle are spread evenly.
    many = same_label(recording, np.zeros(300), neighbours=20, seed=0)
    counts = np.histogram((many.second - many.first) % 300, bins=13, range=(1, 300))[0]
    assert np.abs(counts - len(many) / 13).max() < 4 * np.sqrt(len(many) / 13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: nearest(r, [1, 2]), r"variable as numbers of shape \(3,\) or \(3, D\).*got int64, \(2,\)"),
        (lambda r: nearest(r, ["a", "b", "c"]), "Use same_label for names"),
        (lambda r: nearest(r, [1, np.nan, 2], neighbours=1), "finite variable; got NaN or infinity in row 1"),
        (lambda r: nearest(r, [1, 2, 3], neighbours=3), "at least 4 rows for neighbours=3 and apart=1; got 3"),
        (lambda r: nearest(r, [1, 2, 3], neighbours=0), "neighbours >= 1"),
        (lambda r: nearest(r, [1, 2, 3], neighbours=1, seed=-1), "seed >= 0"),
        (lambda r: nearest(r, np.ma.masked_equal([1, 2, 3], 2), neighbours=1), "a masked array that hides 1"),
        (lambda r: same_label(r, [1, 2], seed=0), r"labels of shape \(3,\).*got \(2,\)"),
        (lambda r: same_label(r, [1, 2, 3], seed=0), "a different one for each row"),
        (lambda r: same_label(r, [1, 1, 3], seed=-1), "seed >= 0"),
    ],
)
def test_wrong_conditions_are_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(Recording.of(np.zeros((3, 1))))


def test_spikes_are_counted_as_in_a_histogram():
    rng = np.random.default_rng(0)
    spikes = [rng.uniform(-1, 12, count) for count in (400, 0, 90)]
    recording = bin_spikes(spikes, width=0.1, start=0, stop=10)
    assert recording.shape == (100, 3)
    edges = np.linspace(0, 10, 101)
    for unit, times in enumerate(spikes):
        np.testing.assert_array_equal(recording[:][:, unit], np.histogram(times[times < 10], edges)[0])
    np.testing.assert_allclose(recording.times, edges[:-1] + 0.05)


def test_every_spike_is_in_a_bin_unless_told_otherwise():
    spikes = [np.array([2.0, 3.5, 2.25]), np.array([5.0])]
    recording = bin_spikes(spikes, width=0.5)
    assert recording[:].sum(0).tolist() == [3, 1] and recording.shape == (7, 2)


@pytest.mark.parametrize(
    ("spikes", "options", "message"),
    [
        ([], {"width": 1}, "one or more units"),
        ([[[[1.0]]]], {"width": 1}, "got another shape"),
        ([[1.0]], {"width": 0}, "width > 0"),
        ([[np.nan]], {"width": 1}, "finite spike times"),
        ([[]], {"width": 1}, "start= where there are no spikes"),
        ([[1.0]], {"width": 1, "start": 0, "stop": 0.5}, "leave a bin; got 0, 0.5 and 1 seconds"),
        ([[1.0]], {"width": 1, "start": 5}, "leave a bin"),
        ([[1.0]], {"width": 1, "stop": np.inf}, "stop as a finite number"),
    ],
)
def test_wrong_spikes_are_one_sentence(spikes, options, message):
    with pytest.raises(ValueError, match=message):
        bin_spikes(spikes, **options)


def test_pairs_far_apart_in_time_leave_most_rows_to_fit():
    place = np.tile(np.arange(50.0), 8)  # each place once a round
    pairs = nearest(Recording.of(np.zeros((400, 1))), place, neighbours=7, apart=5)
    assert pairs.lag.max() == 350
    fit, held_out = pairs.split(0.25)
    assert np.unique(fit.first).tolist() == list(range(295))  # 300, and a gap of `apart`
    assert np.unique(held_out.first).tolist() == list(range(300, 400))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rate", "samples"), [(3e4, 1), (3e4, 30), (2e4, 20), (24414.0625, 10), (1e3, 20)])
@pytest.mark.parametrize("start", [0.0, 7.1, 3360.991999974485])
def test_times_on_the_edges_of_bins_are_counted_in_the_bin_that_begins_there(
    rate: float, samples: int, start: float, dtype: type[np.floating]
) -> None:
    if dtype is np.float32 and np.spacing(np.float32(start + 1)) > samples / rate / 8:
        pytest.skip("such times do not say which bin they are in")
    times = start + np.arange(3000) / rate
    counts = bin_spikes([times.astype(dtype)], width=samples / rate, start=start, stop=start + 3000 / rate)[:]
    assert counts.ravel().tolist() == [samples] * (3000 // samples)


def test_times_near_an_edge_stay_on_their_side() -> None:
    times = [0.1 - 1e-9, 0.1, 0.1 + 1e-9, 0.3 - 1e-6]
    assert bin_spikes([times], width=0.1, start=0, stop=0.4)[:].ravel().tolist() == [1, 2, 1, 0]
    assert bin_spikes([[0.1, 0.25]], width=0.05)[:].ravel().tolist() == [1, 0, 0, 1]


class NotAvailable:
    """As NA of pandas: neither equal to itself nor not."""

    def __ne__(self, other: object) -> "NotAvailable":
        return self

    def __eq__(self, other: object) -> "NotAvailable":
        return self

    __hash__ = None

    def __bool__(self) -> bool:
        raise TypeError("the truth of NA is ambiguous")


MISSING = {
    "NaN": np.array([0, 0, 1, 1, np.nan, np.nan, np.nan, np.nan]),
    "None among names": ["run", "run", "rest", "rest", None, None, None, None],
    "NaN among names": ["run", "run", "rest", "rest", *[float("nan")] * 4],
    "NaT": np.array(["2024-01-01"] * 2 + ["2024-01-02"] * 2 + ["NaT"] * 4, dtype="datetime64[D]"),
    "NA": np.array([0, 0, 1, 1, *[NotAvailable() for _ in range(4)]], dtype=object),
    "empty": ["run", "run", "rest", "rest", "", " ", "", ""],
    "masked": np.ma.masked_array([0, 0, 1, 1, 0, 0, 1, 1], mask=[0, 0, 0, 0, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", MISSING)
def test_rows_without_a_label_are_in_no_pair(name):
    pairs = same_label(Recording.of(np.arange(24.0).reshape(8, 3)), MISSING[name], seed=0)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


@pytest.mark.parametrize("name", [name for name in MISSING if name != "NA"])
def test_a_row_without_a_session_is_an_error(name):
    with pytest.raises(ValueError, match="none for 4 rows, the first is row 4"):
        Recording.of(np.arange(24.0).reshape(8, 3), sessions=MISSING[name])
