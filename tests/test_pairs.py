"""Recordings and pairs: no pair crosses a boundary, held-out blocks share no row, files on disk stay there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recparam.data.axes import DataWarning
from recparam.data.mapped import portions
from recparam.data.pairs import by_index, consecutive
from recparam.data.recording import Recording


def numbered(*lengths, width=2):
    """Sessions whose rows hold their own number, counted over all sessions."""
    starts = np.cumsum([0, *lengths[:-1]])
    rows = [np.arange(start, start + length, dtype=float) for start, length in zip(starts, lengths, strict=True)]
    return [np.repeat(numbers[:, None], width, axis=1) for numbers in rows]


def listed(pairs):
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


# Which rows are paired


def test_no_pair_crosses_the_end_of_a_session():
    pairs = consecutive(Recording.of(numbered(4, 1, 3)), lag=[1, 2])
    assert listed(pairs) == [(0, 1), (1, 2), (2, 3), (5, 6), (6, 7), (0, 2), (1, 3), (5, 7)]
    assert pairs.lag.tolist() == [1] * 5 + [2] * 3


def test_labels_of_sessions_are_a_list_of_sessions():
    as_list = consecutive(Recording.of(numbered(3, 4)))
    as_labels = consecutive(Recording.of(np.concatenate(numbered(3, 4)), sessions=["mouse 2"] * 3 + ["mouse 1"] * 4))
    assert listed(as_list) == listed(as_labels)
    assert as_labels.recording.sessions.tolist() == [0] * 3 + [1] * 4


def test_no_pair_crosses_a_gap_in_time():
    times = np.array([0.0, 0.1, 0.2, 0.9, 1.0, 1.1])
    recording = Recording.of(np.zeros((6, 1)), times=times)
    assert listed(consecutive(recording)) == [(0, 1), (1, 2), (3, 4), (4, 5)]
    assert listed(consecutive(recording, max_gap=np.inf)) == [(t, t + 1) for t in range(5)]
    with pytest.raises(ValueError, match="at most 1 in a row"):
        consecutive(recording, max_gap=0.05)


def test_a_single_dropped_row_is_a_gap():
    times = np.delete(np.arange(8) / 30, 4)
    assert (3, 4) not in listed(consecutive(Recording.of(np.zeros((7, 1)), times=times)))


def test_masked_rows_are_in_no_pair():
    data = np.arange(6.0)[:, None].copy()
    data[2] = np.nan
    recording = Recording.of(data, mask=np.arange(6) != 2)
    assert listed(consecutive(recording, lag=[1, 2])) == [(0, 1), (3, 4), (4, 5), (1, 3), (3, 5)]
    with pytest.raises(ValueError, match="first as rows that were observed; got row 2"):
        by_index(recording, [2], [3])


def test_seconds_are_rows_where_the_rate_is_known():
    recording = Recording.of(np.zeros((9, 1)))
    assert set(consecutive(recording, seconds=[0.1, 0.2], rate=30).lag) == {3, 6}
    assert set(consecutive(recording, seconds=0.001, rate=30).lag) == {1}


def test_seconds_are_the_closest_time_otherwise():
    times = np.concatenate([np.arange(6) * 0.1, 5 + np.arange(4) * 0.1])
    recording = Recording.of(np.zeros((10, 1)), sessions=[0] * 6 + [1] * 4, times=times)
    regular = [(t, t + 2) for t in (0, 1, 2, 3, 6, 7)]
    assert listed(consecutive(recording, seconds=0.2)) == regular
    assert listed(consecutive(recording, seconds=0.24)) == regular
    irregular = Recording.of(np.zeros((4, 1)), times=[0.0, 0.1, 0.18, 0.31])
    # 0.2 s after rows 0, 1 is closest to rows 2 and 3; nothing follows row 2 by so much.
    assert listed(consecutive(irregular, seconds=0.2)) == [(0, 2), (1, 3)]


def test_clock_times_are_seconds():
    clock = np.datetime64("2024-05-01T10:00:00") + np.array([0, 100, 200, 5000]).astype("timedelta64[ms]")
    recording = Recording.of(np.zeros((4, 1)), times=clock)
    np.testing.assert_allclose(recording.times, [0, 0.1, 0.2, 5])
    assert listed(consecutive(recording)) == [(0, 1), (1, 2)]


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    lags=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    fraction=st.floats(0.1, 0.6),
)
def test_pairs_and_parts_are_those_of_the_definition(lengths, lags, fraction):
    recording = Recording.of(numbered(*lengths))
    wanted = sorted(
        (t, t + lag)
        for lag in lags
        for t in range(len(recording) - lag)
        if recording.sessions[t] == recording.sessions[t + lag]
    )
    if not wanted:
        with pytest.raises(ValueError, match="Expected rows from which a pair"):
            consecutive(recording, lag=lags)
        return
    pairs = consecutive(recording, lag=lags)
    assert sorted(listed(pairs)) == wanted
    x, x_prime = pairs.tensors()
    assert x[:, 0].tolist() == pairs.first.tolist() and x_prime[:, 0].tolist() == pairs.second.tolist()
    try:
        fit, held_out = pairs.split(fraction)
    except ValueError as error:
        assert "2 held out" in str(error)
        return
    rows = [set(part.first.tolist()) | set(part.second.tolist()) for part in (fit, held_out)]
    assert not rows[0] & rows[1]
    assert set(listed(fit)) | set(listed(held_out)) <= set(wanted)


# Held-out blocks


def test_each_session_s_end_is_held_out_with_a_gap_before_it():
    fit, held_out = consecutive(Recording.of(numbered(10, 20)), lag=[1, 3]).split(0.3)
    assert sorted(set(fit.second)) == [1, 2, 3, *range(11, 21)]  # below 7 - 3 and 24 - 3
    assert sorted(set(held_out.first)) == [7, 8, *range(24, 29)]
    wide, _ = consecutive(Recording.of(numbered(10, 20))).split(0.3, gap=4)
    assert wide.second.max() == 19 and not set(wide.second) & {3, 4, 5, 6}


def test_of_many_sessions_whole_ones_are_held_out_evenly_spaced():
    fit, held_out = consecutive(Recording.of(numbered(*[3] * 10))).split(0.2)
    assert set(held_out.recording.sessions[held_out.first]) == {4, 9}
    assert set(fit.recording.sessions[fit.first]) == set(range(10)) - {4, 9}
    assert len(fit) + len(held_out) == 20  # no pair is lost
    few = consecutive(Recording.of(numbered(*[3] * 9))).split(0.2)[1]
    assert set(few.recording.sessions[few.first]) == {8}  # too short to hold out the end of each


def test_too_little_to_hold_out_is_an_error():
    pairs = consecutive(Recording.of(numbered(5)))
    with pytest.raises(ValueError, match=r"at least 2 pairs to fit and 2 held out; got .* fraction=0.2 and gap=1"):
        pairs.split()
    with pytest.raises(ValueError, match=r"fraction between 0 and 1; got 1.0"):
        pairs.split(1.0)


# Batches and labels


def test_batches_hold_every_pair_once_in_an_order_of_seed_and_epoch():
    pairs = consecutive(Recording.of(numbered(20, 9)))
    loader = pairs.batches(5, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 6 and all(x.dtype == torch.float32 for x, _ in batches)
        epochs.append([(int(x[0]), int(y[0])) for b in batches for x, y in zip(*b, strict=True)])
    assert sorted(epochs[0]) == sorted(epochs[1]) == listed(pairs)[:27]
    assert epochs[0] == epochs[2] != epochs[1]


def test_frames_stay_bytes_and_everything_else_is_single_precision():
    for dtype in ("uint8", "int64", "bool", ">f8"):
        wanted = torch.uint8 if dtype == "uint8" else torch.float32
        data = np.arange(24).reshape(4, 2, 3).astype(dtype)
        data.flags.writeable = False
        x, x_prime = consecutive(Recording.of(data)).tensors(slice(1, 3))
        assert x.dtype == x_prime.dtype == wanted and x.shape == (2, 2, 3)
        np.testing.assert_array_equal(x_prime.numpy(), data[2:].astype(x_prime.numpy().dtype))


def test_labels_are_those_of_x_prime():
    recording = Recording.of(numbered(3, 2), times=[np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5])])
    labels = consecutive(recording).labels
    assert labels.identities.tolist() == [1, 2, 4]
    assert labels.sessions.tolist() == [0, 0, 1]
    assert labels.times.tolist() == [0.5, 1.0, 0.5]
    assert consecutive(Recording.of(numbered(3, 2))).labels.times.tolist() == [1, 2, 4]


def test_pairs_by_index_are_taken_as_declared():
    pairs = by_index(Recording.of(numbered(3, 2)), [4, 0], np.array([1, 3], dtype="uint8"))
    assert listed(pairs) == [(4, 1), (0, 3)] and pairs.lag.tolist() == [-3, 3]
    assert pairs.tensors()[0][:, 0].tolist() == [4, 0]


# What people give


def test_tensors_frames_lists_and_sessions_of_them():
    values = np.arange(12.0).reshape(4, 3)
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(values, columns=["a", "b", "c"])
    for data in (values, values.tolist(), torch.tensor(values), table, values.astype(object), table.convert_dtypes()):
        np.testing.assert_array_equal(Recording.of(data)[:], values)
    both = Recording.of([table, table])
    assert both.shape == (8, 3) and both.names == ("a", "b", "c")
    half = Recording.of(torch.tensor(values, dtype=torch.bfloat16))
    assert half.dtype == np.float32
    with pytest.raises(ValueError, match=r"got b, c after column 0 in session 0 and c, b in session 1"):
        Recording.of([table, table[["a", "c", "b"]]])


def test_sessions_are_joined_with_what_is_known_of_them():
    one = Recording.of(np.zeros((2, 1)), times=[0, 1])
    other = Recording.of([np.ones((1, 1)), np.ones((2, 1))], times=[0, 0, 1], mask=[True, True, False])
    joined = Recording.join([one, other])
    assert joined.sessions.tolist() == [0, 0, 1, 2, 2]
    assert joined.times.tolist() == [0, 1, 0, 0, 1]
    assert joined.usable.tolist() == [True] * 4 + [False]
    with pytest.warns(DataWarning, match="known of 1 of 2"):
        assert Recording.join([one, Recording.of(np.ones((1, 1)))]).times is None


def nan_at(*places, shape=(5, 3)):
    values = np.zeros(shape)
    for place in places:
        values[place] = np.nan
    return values


WRONG = {
    "one number per row": (dict(data=np.zeros(5)), r"\(N, ...\).*got \(5,\). Reshape your data"),
    "no rows": (dict(data=np.zeros((0, 3))), "0 samples"),
    "no columns": (dict(data=np.zeros((12, 0))), r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is"),
    "complex": (dict(data=np.zeros((3, 2), complex)), "Complex data not supported"),
    "text": (dict(data=np.array([["a", "b"]])), "data as an array of numbers; got <U1"),
    "objects": (dict(data=np.array([[1.0, {}], [2.0, 3]], object)), "objects in column 1 .*string or a real number"),
    "rows that differ": (dict(data=[[1, 2], [3]]), "data with rows of one shape; got rows that differ"),
    "a path": (dict(data="walk.npy"), r"got a path. Use recparam.data.readers.read\('walk.npy'\)"),
    "nothing": (dict(data=None), "array of numbers|shape"),
    "ragged sessions": (
        dict(data=[np.zeros((4, 2)), np.zeros((4, 3))]),
        r"got \(2,\) in session 0 and \(3,\) in session 1",
    ),
    "NaN": (dict(data=nan_at((3, 1), (4, 2))), "NaN or infinity in column 1, column 2, first in row 3 of 5"),
    "many NaN": (dict(data=np.full((2, 40), np.inf)), "column 7 and 32 more, first in row 0 of 2"),
    "NaN in pictures": (dict(data=nan_at((1, 0, 0), shape=(3, 2, 2))), "finite values in data; got 1 NaN .* row 1"),
    "NaN where observed": (
        dict(data=nan_at((1, 0), (3, 0)), mask=np.arange(5) != 1),
        "NaN or infinity in column 0, first in row 3 of 5",
    ),
    "a mask of numbers": (dict(data=np.zeros((2, 1)), mask=[1, 0]), "mask as truth values.*got int64"),
    "labels of another length": (dict(data=np.zeros((3, 1)), sessions=[0, 1]), r"sessions of shape \(3,\).*got \(2,\)"),
    "a session in two places": (dict(data=np.zeros((3, 1)), sessions=["a", "b", "a"]), "got a in several places"),
    "sessions twice": (dict(data=numbered(2, 2), sessions=[0] * 4), "got a list of arrays, which says where"),
    "times that go back": (dict(data=np.zeros((3, 1)), times=[0, 2, 1]), "got 2 s in row 1 and 1 s in the next"),
    "times that are unknown": (dict(data=np.zeros((2, 1)), times=[0, np.nan]), "finite times; got nan in row 1"),
    "times in words": (dict(data=np.zeros((2, 1)), times=["now", "then"]), "times in seconds or as datetime64"),
    "times of other sessions": (
        dict(data=numbered(2, 3), times=[np.arange(3), np.arange(2)]),
        r"times of lengths \[2, 3\], as the sessions; got \[3, 2\]",
    ),
    "a recording and more": (dict(data=Recording.of(np.zeros((2, 1))), times=[0, 1]), "Expected a recording alone"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_is_one_sentence(case):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        Recording.of(**arguments)


def test_columns_are_named_as_people_know_them():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"speed": [1.0, np.nan], "mouse": ["a", "b"]})
    with pytest.raises(ValueError, match=r"NaN or infinity in column 0 \('speed'\), first in row 1 of 2"):
        Recording.of(table[["speed"]])
    with pytest.raises(ValueError, match=r"objects in column 1 \('mouse'\)"):
        Recording.of(table)


def test_constant_columns_are_named():
    values = np.random.default_rng(0).normal(size=(50, 4))
    values[:, 2] = 7
    assert Recording.of(values).constant_columns() == ["column 2"]
    assert Recording.of(np.zeros((3, 2, 2))).constant_columns() == []  # the border of a picture often is


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(lag=0), "whole number lag >= 1; got 0"),
        (dict(lag=[]), "lag as one number or several"),
        (dict(lag=[2, 2]), "several different ones"),
        (dict(lag=3), "got 3 samples, at most 3 in a row"),
        (dict(seconds=1.0), r"Expected rate= \(rows per second\) or a recording with times"),
        (dict(seconds=-1.0, rate=1), "seconds > 0"),
        (dict(seconds=1.0, rate=0), "rate > 0"),
        (dict(max_gap=1.0), "a recording with times, which max_gap= refers to"),
    ],
)
def test_wrong_lags_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        consecutive(Recording.of(np.zeros((3, 1))), **arguments)


def test_one_sample_is_one_sentence():
    with pytest.raises(ValueError, match=r"pair \(x, x'\) can be made; got 1 sample, at most 1 in a row"):
        consecutive(Recording.of(np.zeros((1, 2))))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0, 1], [1], "got 2 and 1"),
        ([0.5], [1], "first as whole numbers"),
        ([], [], "first as whole numbers"),
        ([0], [3], "second as rows from 0 to 2; got 3 to 3"),
        ([-1], [0], "first as rows from 0 to 2; got -1"),
    ],
)
def test_wrong_indices_are_one_sentence(first, second, message):
    with pytest.raises(ValueError, match=message):
        by_index(Recording.of(np.zeros((3, 1))), first, second)


# Files larger than memory


def mapped(path, values):
    np.save(path, values)
    return np.load(path, mmap_mode="r")


def test_mapped_sessions_give_the_rows_of_arrays_in_memory(tmp_path):
    sessions = numbered(7, 3, 5)
    first, last = (mapped(tmp_path / f"{k}.npy", sessions[k]) for k in (0, 2))
    on_disk = Recording.of([first, sessions[1], last[:]])
    assert on_disk.on_disk and "on disk" in repr(on_disk)
    whole = np.concatenate(sessions)
    for rows in (slice(None), slice(2, 14, 3), np.array([14, 0, 8, 8, 3]), np.arange(15) % 4 == 0, np.array([], int)):
        np.testing.assert_array_equal(on_disk[rows], whole[rows])
    x, x_prime = consecutive(on_disk).tensors()
    assert torch.equal(x_prime - x, torch.ones(12, 2))
    assert Recording.of(np.asarray(mapped(tmp_path / "3.npy", whole))[1:]).on_disk  # views of a map are of the map


def test_mapped_rows_are_checked_where_they_are_read(tmp_path):
    values = nan_at((3, 0), shape=(6, 2))
    recording = Recording.of(mapped(tmp_path / "x.npy", values))
    assert recording[:3].shape == (3, 2)
    with pytest.raises(ValueError, match="NaN or infinity in row 3 of 6, read from disk"):
        consecutive(recording).tensors()
    hidden = Recording.of(mapped(tmp_path / "y.npy", values), mask=np.arange(6) != 3)
    assert consecutive(hidden).tensors()[0].shape == (3, 2)


def test_changes_of_a_copy_on_write_map_are_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((6, 2)))
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[4] = 1
    recording = Recording.of(changed)
    recording._hand_back(1 << 40)
    assert recording[4:5].tolist() == [[1, 1]]


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory as Linux tells it")
RESIDENT = """
import json, resource, sys
import numpy as np, torch
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

recording = Recording.of(np.load(sys.argv[1], mmap_mode="r"))
pairs = consecutive(recording)
fit, held_out = pairs.split()
before, peak, read = resident(), 0, 0
loader = fit.batches(512, seed=0)
for number, (x, x_prime) in zip(range(20), loader):
    read += x.nbytes + x_prime.nbytes
    peak = max(peak, resident())
print(json.dumps({"size": recording[:1].nbytes * len(recording), "read": read, "more": peak - before}))
"""


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=60), st.integers(1, 5_000_000))
def test_rows_of_mapped_files_are_read_in_portions_of_few_pages(rows, row_bytes):
    starts = np.array(rows) * row_bytes
    seen = []
    for part, touched in portions(starts, row_bytes):
        seen += rows[part]
        begins = starts[part]
        pages = {page for begin in begins for page in range(begin >> 21, ((begin + row_bytes - 1) >> 21) + 1)}
        assert len(pages) << 21 <= 2 * touched + (2 << 21)  # a row may begin in one page and end in the next
        assert touched <= (1 << 28) + (1 << 21) + row_bytes
    assert seen == rows


@linux
def test_batches_of_a_large_mapped_file_leave_it_on_disk(tmp_path):
    path = tmp_path / "large.npy"
    # 8 GB on paper; holes of a sparse file take no disk.
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(2_000_000, 1000))
    command = [sys.executable, "-c", RESIDENT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["size"] == 8_000_000_000 and report["read"] == 2 * 20 * 512 * 4000
    assert report["more"] < 500e6


@linux
@pytest.mark.slow
def test_batches_of_a_written_file_leave_it_on_disk(tmp_path):
    """Holes of a sparse file are mapped in small pages; what was written may be mapped in pages of two megabytes."""
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (500_000, 1000)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(20):
            np.random.default_rng(0).standard_normal((25_000, 1000), dtype=np.float32).tofile(file)
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["more"] < 500e6
