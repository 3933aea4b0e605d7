"""Data that say more than their numbers: axes with names, clocks and trials; values on the clock of a recording."""

import csv
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import recparam as rp
from recparam.cli import main
from recparam.data.axes import DataWarning
from recparam.data.grids import on_times, resample
from recparam.data.pairs import aligned, consecutive
from recparam.data.readers import read
from recparam.data.recording import Recording
from recparam.data.spikes import bin_spikes
from recparam.data.windows import windowed
from recparam.runs.reading import DataFiles, Reading


def walk(*shape: int) -> np.ndarray:
    """Return channels that change smoothly along the first axis of each trial."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=shape), axis=-2)


# Axes that are declared


def test_trials_of_an_array_are_sessions_by_declaration() -> None:
    data = walk(4, 5, 3)
    recording = Recording.of(data, dims=("trial", "time", "channel"))
    assert recording.sessions.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    np.testing.assert_array_equal(recording[:], data.reshape(20, 3))
    assert len(consecutive(recording)) == 16
    for dims, axes in ((("trial", "channel", "time"), (0, 2, 1)), (("time", "trials", "unit"), (1, 0, 2))):
        moved = Recording.of(np.transpose(data, axes), dims=dims)
        np.testing.assert_array_equal(moved[:], recording[:])
        assert moved.sessions.tolist() == recording.sessions.tolist()
    both = Recording.of(torch.as_tensor(data[None]), dims=("subject", "trial", "time", "channel"))
    np.testing.assert_array_equal(both[:], recording[:])
    assert Recording.of(data[:, :, 0], dims=("trial", "time")).shape == (20, 1)
    np.testing.assert_array_equal(Recording.of(data[0].T, dims=("channel", "time"))[:], data[0])
    np.testing.assert_array_equal(Recording.of(data, dims=("time", "height", "width"))[:], data)


def test_what_a_masked_array_hides_in_trials_was_not_observed() -> None:
    data, hidden = walk(4, 5, 3), np.zeros((4, 5, 3), dtype=bool)
    hidden[1, 2, 0] = hidden[2, 3] = hidden[3, 0] = True
    filled = np.where(hidden, np.nan, data)
    filled[3, 0] = np.nan  # hidden, and at the end of a trial
    recording = Recording.of(np.ma.array(filled, mask=hidden), dims=("trial", "time", "channel"))
    np.testing.assert_array_equal(recording.known, ~hidden.reshape(20, 3))
    np.testing.assert_array_equal(recording[:], np.where(hidden, np.nan, data).reshape(20, 3))
    assert np.flatnonzero(~recording.usable).tolist() == [13, 15]
    turned = Recording.of(np.ma.array(np.where(hidden, 9, data)[1].T, mask=hidden[1].T), dims=("channel", "time"))
    np.testing.assert_array_equal(turned.known, ~hidden[1])
    fields = np.ma.array([(1.0, 2), (3.0, 4)], mask=[(True, False)] * 2, dtype=[("a", float), ("b", int)])
    np.testing.assert_array_equal(Recording.of(fields, dims=("time", "channel"))[:], [[np.nan, 2], [np.nan, 4]])


def test_times_of_trials_may_be_given_once() -> None:
    clock = 0.1 * np.arange(5)
    dims = ("trial", "time", "channel")
    recording = Recording.of(walk(4, 5, 3), dims=dims, times=clock)
    np.testing.assert_allclose(recording.times, np.tile(clock, 4))
    each = Recording.of(walk(4, 5, 3), dims=dims, times=[clock + k for k in range(4)])
    np.testing.assert_allclose(each.times, (clock + np.arange(4)[:, None]).ravel())


def test_trials_that_were_filled_up_keep_their_rows_and_lose_their_pairs() -> None:
    data = walk(3, 6, 2)
    data[1, 4:] = np.nan
    data[2, :1] = np.nan
    recording = Recording.of(data, dims=("trial", "time", "channel"))
    assert len(recording) == 18 and recording.usable.sum() == 15
    assert len(consecutive(recording)) == 5 + 3 + 4
    assert "3 rows at the ends of trials" in recording.notes[0]
    data[0, 3] = np.nan  # in the middle it is no filling
    with pytest.raises(ValueError, match="finite numbers in data; got NaN"):
        Recording.of(data, dims=("trial", "time", "channel"))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("trial", "time"), "a name for each axis"),
        ("time", "a name for each axis"),
        (("trial", "row1", "channel"), "one axis called time"),
        (("time", "t", "channel"), "one axis called time"),
    ],
)
def test_wrong_dims_are_one_sentence(dims, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recording.of(np.zeros((3, 4, 2)), dims=dims)


def test_memory_mapped_trials_stay_on_disk(tmp_path) -> None:
    np.save(tmp_path / "x.npy", walk(4, 5, 3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    recording = Recording.of(mapped[:, :, 0], dims=("trial", "time"))
    assert recording.shape == (20, 1)
    recording = Recording.of(mapped, dims=("trial", "time", "channel"))
    np.testing.assert_array_equal(recording[:], mapped.reshape(20, 3))


# Axes that are doubted


def test_matrices_that_may_be_trials_are_doubted_and_frames_are_not() -> None:
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=(400, 6)), axis=0)
    with pytest.warns(DataWarning, match=r"\('trial', 'time', 'channel'\)"):
        Recording.of(series.reshape(20, 20, 6))
    with pytest.warns(DataWarning, match="may be trials"):
        Recording.of(torch.as_tensor(rng.poisson(3.0, (20, 30, 6))))
    blob = np.exp(-np.square(np.indices((16, 16))[:, None] - 8 - 5 * np.sin(np.arange(60) / 6)[:, None, None]).sum(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recording.of(blob)  # brightness
        Recording.of(3.7 * blob - 1)  # alike from frame to frame
        Recording.of((255 * blob).astype(np.uint8))
        Recording.of(np.lib.stride_tricks.sliding_window_view(series, 10, axis=0).swapaxes(1, 2))  # windows
        Recording.of(series.reshape(20, 20, 6), dims=("trial", "time", "channel"))
        Recording.of(series.reshape(20, 20, 6), times=np.arange(20))
        Recording.of(series.reshape(20, 20, 6)[..., None])


def test_rows_that_look_like_channels_are_doubted() -> None:
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=(2000, 40)), axis=0)
    with pytest.warns(DataWarning, match=r"data\.T"):
        Recording.of(series.T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recording.of(series)
        Recording.of(series[:30])  # few rows, smooth along them
        Recording.of(rng.normal(size=(30, 200)))
        Recording.of(np.cumsum(series[:30], axis=1))  # smooth both ways, as images and spectra are
        Recording.of(series.T, dims=("channel", "time"))


# Clocks and trials of other packages


def test_the_index_of_a_data_frame_is_its_clock() -> None:
    pandas = pytest.importorskip("pandas")
    values, names = walk(6, 2), ["a", "b"]
    dates = pandas.date_range("2024-03-31 00:59:59.9", periods=6, freq="20ms")
    for index in (dates, dates.tz_localize("UTC"), dates.tz_localize("UTC").tz_convert("Europe/Berlin")):
        recording = Recording.of(pandas.DataFrame(values, columns=names, index=index))
        np.testing.assert_allclose(recording.times, 0.02 * np.arange(6), atol=1e-9)
        assert recording.origin == np.datetime64("2024-03-31T00:59:59.9") and recording.names == ("a", "b")
        assert recording.notes == (f"Times are in seconds since {recording.origin}.",)
    spans = pandas.timedelta_range("5s", periods=6, freq="20ms")
    np.testing.assert_allclose(Recording.of(pandas.DataFrame(values, index=spans)).times, 5 + 0.02 * np.arange(6))
    for name, scale in (("time", 1), ("t", 1), ("time_ms", 1e-3), ("Time (s)", 1), ("timestamps", 1)):
        index = pandas.Index(20.0 * np.arange(6), name=name)
        found = Recording.of(pandas.DataFrame(values, index=index)).times
        np.testing.assert_allclose(found, 20 * scale * np.arange(6))
    assert Recording.of(pandas.DataFrame(values)).times is None
    assert Recording.of(pandas.DataFrame(values, index=pandas.Index(range(6), name="row"))).times is None
    with pytest.raises(ValueError, match=r"increase within a session.*those of the index"):
        Recording.of(pandas.DataFrame(values, index=dates[::-1]))


def test_times_may_be_dates_of_any_kind() -> None:
    pandas = pytest.importorskip("pandas")
    dates = pandas.date_range("2024-01-01", periods=3, freq="1s", tz="Asia/Tokyo")
    for times in (dates, pandas.Series(dates), list(dates), [date.isoformat() for date in dates], dates.to_numpy()):
        recording = Recording.of(np.eye(3), times=times)
        assert recording.times.tolist() == [0, 1, 2] and recording.origin == np.datetime64("2023-12-31T15:00:00")
    assert Recording.of(np.eye(3), times=["0.5", "1", "1.5"]).times.tolist() == [0.5, 1, 1.5]
    assert Recording.of(np.eye(3), times=pandas.timedelta_range("1s", periods=3, freq="2s")).times.tolist() == [1, 3, 5]
    with pytest.raises(ValueError, match="got 'noon' in row 1"):
        Recording.of(np.eye(3), times=["2024-01-01", "noon", "2024-01-02"])


def test_days_that_are_joined_keep_one_clock() -> None:
    day = np.datetime64("2024-01-01T10:00:00")
    second = np.timedelta64(1, "s")
    one = Recording.of(np.eye(3), times=day + second * np.arange(3))
    two = Recording.of(np.eye(3), times=day + second * np.arange(100, 103), sessions=["b"] * 3)
    joined = Recording.join([one, two])
    assert joined.times.tolist() == [0, 1, 2, 100, 101, 102] and joined.origin == day
    assert joined.session_names == ("0", "b")


def test_an_index_of_trials_and_times() -> None:
    pandas = pytest.importorskip("pandas")
    values = walk(12, 2)
    index = pandas.MultiIndex.from_product([["go", "stop", "go again"], 0.1 * np.arange(4)], names=["trial", "time"])
    frame = pandas.DataFrame(values, index=index, columns=["a", "b"])
    recording = Recording.of(frame)
    assert recording.sessions.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert recording.session_names == ("go", "stop", "go again") and recording.names == ("a", "b")
    np.testing.assert_allclose(recording.times, np.tile(0.1 * np.arange(4), 3))
    swapped = Recording.of(frame.swaplevel())
    assert swapped.session_names == recording.session_names and np.array_equal(swapped.times, recording.times)
    nested = pandas.MultiIndex.from_product([["m1", "m2"], [7, 8], [0.0, 0.5, 1.0]], names=["animal", "trial", None])
    recording = Recording.of(pandas.DataFrame(values, index=nested))
    assert recording.session_names == ("m1, 7", "m1, 8", "m2, 7", "m2, 8")
    assert recording.times.tolist() == [0, 0.5, 1] * 4
    counted = pandas.MultiIndex.from_product([range(4), range(3)], names=["trial", "bin"])
    recording = Recording.of(pandas.DataFrame(values, index=counted))
    assert recording.times is None and np.bincount(recording.sessions).tolist() == [3] * 4
    with pytest.raises(ValueError, match="in several places"):
        Recording.of(frame.iloc[[0, 4, 1, 5]])


def test_arrays_of_xarray() -> None:
    xarray = pytest.importorskip("xarray")
    data, clock = walk(4, 5, 3), 0.1 * np.arange(5)
    coords = {"trial": ["a", "b", "c", "d"], "time": clock, "unit": [7, 8, 9]}
    array = xarray.DataArray(data, dims=("trial", "time", "unit"), coords=coords)
    recording = Recording.of(array)
    for other in (recording, Recording.of(array.transpose("unit", "time", "trial"))):
        np.testing.assert_array_equal(other[:], data.reshape(20, 3))
        assert other.session_names == ("a", "b", "c", "d") and other.names == ("7", "8", "9")
        np.testing.assert_allclose(other.times, np.tile(clock, 4))
    first = array.isel(trial=0).copy(deep=True)
    assert Recording.of(first.T).shape == (5, 3)
    first.coords["time"].attrs["units"] = "ms"
    np.testing.assert_allclose(Recording.of(first).times, clock / 1000)
    dated = first.assign_coords(time=np.datetime64("2024-01-01") + np.arange(5) * np.timedelta64(20, "ms"))
    np.testing.assert_allclose(Recording.of(dated).times, 0.02 * np.arange(5), atol=1e-9)
    plain = xarray.DataArray(data[0], dims=("x", "y"))
    np.testing.assert_array_equal(Recording.of(plain)[:], data[0])
    assert Recording.of(plain).times is None
    stacked = array.stack(sample=("trial", "time")).transpose("sample", "unit")
    assert Recording.of(stacked).session_names == ("a", "b", "c", "d")
    np.testing.assert_allclose(Recording.of(stacked).times, np.tile(clock, 4))
    frames = xarray.DataArray(np.zeros((5, 4, 6), np.uint8), dims=("frame", "y", "x"))
    assert Recording.of(frames).shape == (5, 4, 6)
    both = xarray.Dataset({"speed": ("time", clock), "turn": ("time", clock**2)}, coords={"time": clock})
    assert Recording.of(both).names == ("speed", "turn") and Recording.of(both).shape == (5, 2)
    with pytest.raises(ValueError, match="over the same axes"):
        Recording.of(both.assign(other=("row", [1.0, 2.0])))


def test_series_of_pynapple() -> None:
    nap = pytest.importorskip("pynapple")
    clock = np.arange(10) / 10
    support = nap.IntervalSet([0, 0.5], [0.35, 0.95])
    data = walk(10, 2)
    frame = nap.TsdFrame(t=clock, d=data, columns=["x", "y"], time_support=support)
    recording = Recording.of(frame)
    assert recording.sessions.tolist() == [0] * 4 + [1] * 5 and recording.names == ("x", "y")
    np.testing.assert_allclose(recording.times, np.delete(clock, 4))
    np.testing.assert_array_equal(recording[:], np.delete(data, 4, axis=0))
    single = Recording.of(nap.Tsd(t=clock, d=data[:, 0]))
    assert single.shape == (10, 1) and single.sessions.tolist() == [0] * 10
    assert Recording.of(nap.TsdTensor(t=clock, d=np.zeros((10, 4, 3)))).shape == (10, 4, 3)
    two = Recording.of([frame, nap.TsdFrame(t=clock, d=data, columns=["x", "y"])])
    assert np.bincount(two.sessions).tolist() == [4, 5, 10] and len(two.times) == 19
    with pytest.raises(ValueError, match="bin_spikes"):
        Recording.of(nap.Ts(t=clock))


def test_the_estimator_takes_all_of_them() -> None:
    pandas, xarray, nap = (pytest.importorskip(name) for name in ("pandas", "xarray", "pynapple"))
    rng = np.random.default_rng(0)
    place = np.cumsum(rng.normal(size=(6, 50, 2)), axis=1)
    data = np.tanh(place @ rng.normal(size=(2, 5)) / 9) + 0.05 * rng.normal(size=(6, 50, 5))
    rows, clock = data.reshape(300, 5), 0.1 * np.arange(50)
    every = (10 * np.arange(6)[:, None] + clock).ravel()
    support = nap.IntervalSet(10 * np.arange(6), 10 * np.arange(6) + 5)
    index = pandas.MultiIndex.from_product([range(6), clock], names=["trial", "time"])
    given = [
        Recording.of(data, dims=("trial", "time", "channel")),
        pandas.DataFrame(rows, index=index, columns=list("abcde")),
        xarray.DataArray(data, dims=("trial", "time", "channel")),
        nap.TsdFrame(t=every, d=rows, time_support=support, columns=list("abcde")),
    ]
    latents = []
    for X in given:
        est = rp.RPMEstimator(lag=1, max_steps=20, restarts=1, random_state=0)
        latents.append(est.fit(X).transform(X))
    for z in latents[1:]:
        np.testing.assert_allclose(z, latents[0], atol=1e-6)


# Values on the clock of a recording


def test_means_are_those_of_the_bins_that_spikes_were_counted_in() -> None:
    rng = np.random.default_rng(0)
    counts = bin_spikes([rng.uniform(0, 50, 300)], width=0.1, trials=[(1, 3), (7.05, 9.05), (30, 31)])
    clock = np.sort(rng.uniform(0, 20, 1500))
    values = 1e6 + np.stack([np.sin(clock), clock**2], axis=1)
    values[77] = np.nan
    found = on_times(values, clock, counts)
    for row, middle in enumerate(counts.times):
        inside = (clock >= middle - 0.05) & (clock < middle + 0.05) & ~np.isnan(values).any(1)
        expected = values[inside].mean(0) if inside.any() else [np.nan, np.nan]
        np.testing.assert_allclose(found[row], expected, rtol=1e-12)
    assert np.isnan(found[-10:]).all() and not np.isnan(found[:20]).all()


def test_samples_on_the_edges_of_bins_are_in_the_bin_that_begins_there() -> None:
    clock = np.arange(3000) / 1000
    counts = bin_spikes([clock], width=0.02, start=0, stop=3)
    np.testing.assert_allclose(on_times(np.arange(3000.0), clock, counts), 20 * np.arange(150) + 9.5)


def test_what_lies_between_two_values() -> None:
    recording = Recording.of(np.zeros((8, 1)), times=[0.0, 0.5, 1.0, 1.5, 2.0, 9.0, 9.5, 10.0])
    clock, values = [0.0, 1.0, 2.0, 9.2, 9.7], [0.0, 2.0, 6.0, 1.0, 3.0]
    linear = on_times(values, clock, recording, how="linear", max_gap=1)
    np.testing.assert_allclose(linear, [0, 1, 2, 4, 6, np.nan, 2.2, np.nan])
    nearest = on_times(values, clock, recording, how="nearest", max_gap=1)
    np.testing.assert_allclose(nearest, [0, 0, 2, 2, 6, 1, 3, 3])
    values[1] = np.nan
    linear = on_times(values, clock, recording, how="linear", max_gap=1)
    np.testing.assert_allclose(linear, [0, np.nan, np.nan, np.nan, 6, np.nan, 2.2, np.nan])
    tenths = Recording.of(np.zeros((10, 1)), times=0.1 * np.arange(10))  # 0.30000000000000004
    found = on_times(np.r_[np.nan, np.arange(1.0, 10)], [k / 10 for k in range(10)], tenths, how="linear")
    np.testing.assert_allclose(found, [np.nan, *range(1, 10)])


def test_circular_values_are_averaged_and_interpolated_on_the_circle() -> None:
    recording = Recording.of(np.zeros((3, 1)), times=[0.5, 1.5, 2.5])
    assert on_times([350, 10, 80, 100], [0.2, 0.7, 1.2, 1.7], recording, period=360)[:2] == pytest.approx([0, 90])
    clock = [0.0, 1.0, 2.0, 3.0]
    found = on_times([350, 30, 340, 300], clock, recording, how="linear", period=360)
    assert found == pytest.approx([10, 5, 320])
    found = on_times(np.deg2rad([-170, 150, 170, -170]), clock, recording, how="linear", period=2 * np.pi)
    assert np.rad2deg(found) == pytest.approx([170, 160, -180])
    assert np.isnan(on_times([0, 180], [0.2, 0.7], recording, period=360)[0])  # there is no middle


def test_clocks_that_start_anew_in_each_session() -> None:
    clock = 0.1 * np.arange(10)
    recording = Recording.of([np.zeros((10, 1)), np.zeros((5, 1))], times=[clock, clock[:5]])
    values = [np.arange(10.0), 100 + np.arange(10.0)]
    found = on_times(values, [clock, clock], recording, how="nearest")
    assert found.tolist() == [*range(10), *range(100, 105)]
    with pytest.raises(ValueError, match="of 2 sessions"):
        on_times(values[:1], [clock], recording)


def test_a_second_recording_is_brought_to_the_clock_of_the_first() -> None:
    counts = bin_spikes([np.arange(0, 10, 0.01)], width=0.05, trials=[(0, 2), (4, 6), (8, 10)])
    clock = 1 + np.arange(180) / 30
    pose = Recording.of(np.stack([clock, -clock], axis=1), times=clock)
    brought = resample(pose, like=counts, how="linear")
    assert brought.sessions.tolist() == counts.sessions.tolist()
    rows = np.flatnonzero(brought.usable)
    np.testing.assert_allclose(brought[rows], np.stack([1, -1])[None] * counts.times[rows, None])
    assert counts.times[rows].min() > 1 and counts.times[rows].max() < 7
    assert len(aligned(counts, brought)) == len(rows)
    frames = Recording.of(np.arange(180, dtype=np.uint8)[:, None, None].repeat(4, 1), times=clock)
    near = resample(frames, like=counts, how="nearest")
    assert near.dtype == np.uint8 and near.shape == (120, 4, 1)
    with pytest.raises(ValueError, match="overlap in time"):
        resample(Recording.of(np.eye(3), times=[100, 101, 102]), like=counts, how="linear")


def test_dates_of_two_recordings_are_one_clock() -> None:
    day, step = np.datetime64("2024-01-01"), np.timedelta64(100, "ms")
    one = Recording.of(np.zeros((20, 1)), times=day + step * np.arange(20))
    two = Recording.of(np.arange(20.0)[:, None], times=day + step * np.arange(5, 25))
    brought = resample(two, like=one, how="nearest")
    assert brought[:][5:].ravel().tolist() == list(range(15)) and not brought.usable[:5].any()
    assert on_times(np.arange(20.0), day + step * np.arange(5, 25), one, how="nearest")[5:].tolist() == list(range(15))


def test_means_of_values_that_come_slower_than_rows_are_doubted() -> None:
    recording = Recording.of(np.zeros((100, 1)), times=0.01 * np.arange(100))
    with pytest.warns(DataWarning, match="how='linear'"):
        on_times(np.arange(30.0), np.arange(30) / 30, recording)


@pytest.mark.parametrize(
    ("values", "times", "options", "message"),
    [
        ([1.0], [0.0], {"how": "cubic"}, "how as one of"),
        ([1.0, 2.0], [0.0], {}, "one for each value"),
        ([1.0, 2.0], [1.0, 0.0], {}, "times that increase"),
        ([1.0], [0.0], {"period": -1}, "period > 0"),
        ([1.0], ["2024-01-01"], {}, "got dates"),
        (["a"], [0.0], {}, "values as an array of numbers"),
    ],
)
def test_wrong_values_are_one_sentence(values, times, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        on_times(values, times, Recording.of(np.zeros((3, 1)), times=[0, 1, 2]), **options)
    with pytest.raises(ValueError, match="a recording with times"):
        on_times([1.0], [0.0], Recording.of(np.zeros((3, 1))))


def test_windows_keep_times_and_names() -> None:
    recording = windowed(Recording.of(np.eye(4), sessions=list("aabb"), times=[0, 1, 0, 1]), before=1)
    assert recording.session_names == ("a", "b") and recording.times is not None


# The command line

QUICK = ["--max-steps", "20", "--batch-size", "64", "--restarts", "1", "--lag", "1"]


def seen(rows: int = 240) -> np.ndarray:
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(rows, 2)), axis=0))
    return np.tanh(place @ rng.normal(size=(2, 6))) + 0.05 * rng.normal(size=(rows, 6))


def table_of(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def test_latents_have_the_session_the_time_and_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clock = 36000 + 0.0123456 * np.arange(240)
    labels = np.repeat(["rest, first", "run"], 120)
    np.savez("data.npz", seen=seen(), clock=clock, phase=labels)
    words = ["data.npz", "--sessions-key", "phase", "--times-key", "clock"]
    assert main(["fit", *words, "--out", "run", *QUICK]) == 0
    for name in ("run.yaml", "run.json"):  # JSON is YAML
        assert yaml.safe_load((tmp_path / "run" / name).read_text())["reading"]["times_key"] == "clock"
    with np.load("run/latents.npz") as file:
        assert file["times"].tolist() == clock.tolist() and file["rows"].tolist() == list(range(240))
        assert file["session_names"].tolist() == ["rest, first", "run"]
        assert file["sessions"].tolist() == [0] * 120 + [1] * 120
        z = file["z"]
    assert main(["transform", "run", "data.npz", "-o", "z.csv"]) == 0  # the options are the run's
    table = table_of(tmp_path / "z.csv")
    assert list(table) == ["session", "session_name", "time", "row", "z1", "z2"]
    assert [float(time) for time in table["time"]] == clock.tolist()  # to the last digit
    assert table["session_name"] == labels.tolist() and table["row"] == [str(row) for row in range(240)]
    assert np.array_equal(np.array(table["z1"], dtype=np.float32), z[:, 0].astype(np.float32))


def test_latents_of_parquet_have_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    dates = pandas.date_range("2024-01-01", periods=240, freq="20ms", tz="Europe/Berlin")
    pandas.DataFrame(seen(), columns=list("abcdef")).assign(when=dates).to_parquet("data.parquet")
    assert main(["fit", "data.parquet", "--times-key", "when", "--out", "run", *QUICK]) == 0
    assert main(["transform", "run", "data.parquet", "-o", "z.parquet"]) == 0
    table = pandas.read_parquet("z.parquet")
    assert list(table.columns) == ["session", "time", "row", "z1", "z2"]
    np.testing.assert_allclose(table["time"], 0.02 * np.arange(240), atol=1e-9)


def test_no_pair_crosses_a_gap_in_the_times_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    milliseconds = 20.0 * np.arange(240) + 5000 * (np.arange(240) >= 100)
    table = np.column_stack([milliseconds, seen()])
    np.savetxt(tmp_path / "data.csv", table, delimiter=",", header="clock_ms,a,b,c,d,e,f", comments="")
    words = ["fit", str(tmp_path / "data.csv"), "--times-key", "clock_ms", "--out", str(tmp_path / "run"), *QUICK[:-2]]
    assert main([*words, "--seconds", "0.04"]) == 0
    printed = capsys.readouterr().out
    assert "Times are those of clock_ms, in seconds." in printed and "(240, 6)" in printed
    assert rp.RPMEstimator.load(tmp_path / "run").lag_ == (2,)
    files, reading = DataFiles((tmp_path / "data.csv",)), Reading(times_key="clock_ms")
    recording = reading.rows(files)
    np.testing.assert_allclose(recording.times, milliseconds / 1000)
    assert len(reading.pairs(recording, files, lag=1)) == 238


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--times-key", "back"], "--times-key back: .*increase within a session.*--sessions-key"),
        (["--times-key", "short"], "--times-key short: .*one per row"),
        (["--times-key", "none"], "got 'none', which is not in it"),
        (["--bin", "0.1", "--times-key", "back"], "--bin or --times-key"),
        (["--dims", "time,channel,trial"], "a name for each axis"),
    ],
)
def test_wrong_options_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", seen=seen(), back=np.arange(240)[::-1], short=np.arange(9))
    assert main(["fit", str(tmp_path / "x.npz"), "--out", str(tmp_path / "run"), *words, *QUICK]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("absolute", [False, True])
def test_trials_in_the_index_of_a_parquet_file_are_sessions(absolute: bool, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    trials, steps = np.repeat(np.arange(12), 20), np.tile(np.arange(20), 12)
    clock = 0.1 * (np.arange(240) if absolute else steps)
    index = pandas.MultiIndex.from_arrays([trials, clock], names=["trial", "time"])
    pandas.DataFrame(seen(), columns=list("abcdef"), index=index).to_parquet(tmp_path / "data.parquet")
    for key in (None, "b,a"):
        recording = read(tmp_path / "data.parquet", key=key)
        assert recording.names == (tuple("abcdef") if key is None else ("b", "a"))
        np.testing.assert_array_equal(recording.sessions, trials)
        np.testing.assert_allclose(recording.times, clock)


def test_trials_of_a_file_are_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    trials = seen().reshape(12, 20, 6)
    trials[3, 15:] = np.nan
    np.savez("trials.npz", trials=trials, clock=0.1 * np.arange(20))
    words = ["trials.npz", "--key", "trials", "--dims", "trial,time,channel", "--times-key", "clock"]
    assert main(["fit", *words, "--out", "run", *QUICK]) == 0
    assert "12 sessions" in capsys.readouterr().out
    with np.load("run/latents.npz") as file:
        assert np.bincount(file["sessions"]).tolist() == [20] * 12
        np.testing.assert_allclose(file["times"], np.tile(0.1 * np.arange(20), 12))
        assert np.flatnonzero(np.isnan(file["z"][:, 0])).tolist() == list(range(75, 80))
    np.save("turned.npy", seen().T)
    assert main(["fit", "turned.npy", "--out", "doubted", *QUICK[:-1], "3"]) == 2  # six rows are too few
    assert "--dims channel,time" in capsys.readouterr().err
    assert main(["fit", "turned.npy", "--dims", "channel,time", "--out", "turned", *QUICK]) == 0
    assert "Data of shape" not in capsys.readouterr().err
    assert rp.RPMEstimator.load("turned").n_features_in_ == 6


def test_spikes_of_units_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    units = [np.sort(rng.uniform(0, 30, 400)) for _ in range(5)]
    with pytest.importorskip("h5py").File(tmp_path / "spikes.nwb", "w") as file:
        for table in ("units", "more/sorted"):
            file[f"{table}/id"], file[f"{table}/spike_times"] = np.arange(3, 8), np.concatenate(units)
            file[f"{table}/spike_times_index"] = np.cumsum([len(times) for times in units])
    for key in (None, "more/sorted"):
        recording = Reading(bin=0.1, key=key).rows(DataFiles((tmp_path / "spikes.nwb",)))
        np.testing.assert_array_equal(recording[:], bin_spikes(units, width=0.1)[:])
        assert recording.names == tuple("34567")


def test_spikes_of_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    units = {f"unit {k}": np.sort(rng.uniform(0, 30, 400)) for k in range(5)}
    np.savez("spikes.npz", **units)
    expected = bin_spikes(units, width=0.1)
    recording = Reading(bin=0.1).rows(DataFiles((Path("spikes.npz"),)))
    np.testing.assert_array_equal(recording[:], expected[:])
    assert recording.names == tuple(units)
    rows = [(name, repr(float(time))) for name, times in units.items() for time in times]
    Path("spikes.csv").write_text("unit,time\n" + "\n".join(",".join(row) for row in rows))
    both = Reading(bin=0.1).rows(DataFiles((Path("spikes.csv"), Path("spikes.npz"))))
    np.testing.assert_array_equal(both[:], np.concatenate([expected[:]] * 2))
    assert np.bincount(both.sessions).tolist() == [len(expected)] * 2
    assert main(["fit", "spikes.npz", "--bin", "0.1", "--out", "run", *QUICK]) == 0
    assert main(["transform", "run", "spikes.csv", "-o", "z.csv"]) == 0
    np.testing.assert_allclose(np.array(table_of(Path("z.csv"))["time"], float), expected.times)
    clock = np.arange(0.5, 29, 1 / 30)
    np.savetxt("pose.csv", np.c_[clock, np.sin(clock), np.cos(clock)], delimiter=",", header="t,x,y", comments="")
    words = ["spikes.npz", "--bin", "0.1", "--data-prime", "pose.csv", "--times-key-prime", "t", "--one-clock", "mean"]
    assert main(["fit", *words, "--out", "both", *QUICK[:-2]]) == 0
    files = DataFiles((Path("spikes.npz"),), (Path("pose.csv"),))
    reading = Reading(bin=0.1, times_key_prime="t", one_clock="mean")
    pose = reading.pairs(recording, files, lag=1).recording_prime
    assert pose is not None and pose.shape == (len(expected), 2)
    inside = (expected.times > 0.6) & (expected.times < 28.9)
    np.testing.assert_allclose(pose[:][inside, 0], np.sin(expected.times[inside]), atol=0.02)
    assert not pose.usable[expected.times > 29.1].any()
    assert main(["transform", "both", "spikes.npz", "--data-prime", "pose.csv", "-o", "both.npz"]) == 0
    Path("other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns unit and time; got a, b"):
        Reading(bin=0.1).rows(DataFiles((Path("other.csv"),)))
