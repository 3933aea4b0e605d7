"""Columns that say when or where in a file a row is are used as times or left out, and refused in arrays."""

from pathlib import Path

import numpy as np
import pytest

import recparam as rp
from recparam.data.channels import own_channels
from recparam.data.clocks import kind_of, unit_of
from recparam.data.conditioned import nearest
from recparam.data.readers import read
from recparam.data.recording import Recording
from recparam.data.windows import windowed

N = 24
NOISE = np.round(np.random.default_rng(0).normal(size=(N, 3)), 3)
CELLS = [",".join(map(str, row)) for row in NOISE]


@pytest.mark.parametrize(
    ("name", "kind", "seconds"),
    [
        ("time", "clock", 1), ("Time (s)", "clock", 1), ("time_ms", "clock", 1e-3), ("timestamp [µs]", "clock", 1e-6),
        ("TimeStamp", "clock", 1), ("t", "clock", 1), ("seconds", "clock", 1), ("minutes", "clock", 60),
        ("frame", "counter", 1), ("FrameNumber", "counter", 1), ("Unnamed: 0.1", "counter", 1),
        ("trial", "block", 1), ("TrialID", "block", 1), ("session_index", "block", 1),
        ("reaction time", None, 1), ("x_index", None, 1), ("sample rate", None, 1), ("t1", None, 1), ("a", None, 1),
    ],
)  # fmt: skip
def test_names_of_clocks(name, kind, seconds):
    assert kind_of(name) == kind
    assert kind is None or unit_of(name)[1] == seconds


EVERY = {  # first line, first cell of row i; times, rows of each session, words of a note
    "pandas": (",a,b,c", lambda i: i, None, [N], "no name and counts the rows: it is left out"),
    "R": ("rownames,a,b,c", lambda i: i + 1, None, [N], "'rownames' counts the rows"),
    "another step": ("k,a,b,c", lambda i: 5 * i + 3, None, [N], "'k' rises by 5 from row to row"),
    "no names": ("", lambda i: i, None, [N], "rises by 1 from row to row: it is left out"),
    "seconds": ("time,a,b,c", lambda i: f"{i / 20:.2f}", np.arange(N) / 20, [N], "'time' is taken as times, in s"),
    "rounded": ("t,a,b,c", lambda i: f"{i / 30:.2f}", np.round(np.arange(N) / 30, 2), [N], "taken as times"),
    "milliseconds": ("time_ms,a,b,c", lambda i: 20 * i, np.arange(N) / 50, [N], "in ms"),
    "unit below": ("time,a,b,c\n[ms],[V],[V],[V]", lambda i: 20 * i, np.arange(N) / 50, [N], "in ms"),
    "index of seconds": (",a,b,c", lambda i: f"{i / 50:.2f}", np.arange(N) / 50, [N], "taken as times"),
    "dates": ("when,a,b,c", lambda i: f"2024-05-01T23:59:{30 + i}.5Z", np.arange(N), [N], "'when' is taken as times"),
    "index of dates": (",a,b,c", lambda i: f"2024-05-01 12:00:{i:02}", np.arange(N), [N], "no name and is taken as"),
    "time of day": ("clock,a,b,c", lambda i: f"9:00:{i:02}", np.arange(N), [N], "'clock' is taken as times"),
    "missing rows": ("frame,a,b,c", lambda i: i + 7 * (i > 5), np.arange(N) + 7 * (np.arange(N) > 5), [N], "missing"),
    "begins again": ("time,a,b,c", lambda i: i % 8 / 4, np.arange(N) % 8 / 4, [8, 8, 8], "begins again, 2 times"),
    "counts again": ("frame,a,b,c", lambda i: i % 12, None, [12, 12], "begins again, 1 times"),
    "stands still": ("time,a,b,c", lambda i: i // 5, None, [N], "stands still between rows: it is left out"),
    "trials": ("trial,a,b,c", lambda i: i // 6, None, [N], "'trial' numbers blocks of rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_a_table_s_clock_is_no_data(tmp_path, name):
    first, cell, times, sessions, note = EVERY[name]
    lines = [*filter(None, [first]), *(f"{cell(i)},{row}" for i, row in enumerate(CELLS))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    recording = read(tmp_path / "x.csv")
    np.testing.assert_array_equal(recording[:], NOISE)
    assert np.bincount(recording.sessions).tolist() == sessions
    assert any(note in said for said in recording.notes)
    if times is None:
        assert recording.times is None
    else:
        np.testing.assert_allclose(recording.times, times, atol=1e-9)


def test_two_clocks_and_columns_that_are_asked_for(tmp_path):
    rows = [f"2024-05-01 12:00:{i:02},{i / 2},{row}" for i, row in enumerate(CELLS)]
    (tmp_path / "x.csv").write_text("\n".join(["date,time,a,b,c", *rows]))
    both = read(tmp_path / "x.csv")
    assert both.names == ("a", "b", "c") and both.times[:2].tolist() == [0, 1]
    assert "'time' is a second clock" in both.notes[1]
    chosen = read(tmp_path / "x.csv", key="c,a")
    assert chosen.names == ("c", "a") and chosen.times[:2].tolist() == [0, 1]
    assert read(tmp_path / "x.csv", key="time,a").names == ("time", "a")  # for whoever wants it; no fit takes it
    assert read(tmp_path / "x.csv", without=["date"]).times[:2].tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,a\n2024-05-01,1\n5/1/2024,2\n", "of times as 2024-05-31T12:00:00.5; got '5/1/2024' in column 'time' of"),
        ("time,a\n0,1\n,2\n", r"NaN or infinity in column 0 \('time'\)"),
        ("time\n0\n1\n", "Expected columns of data; got time alone"),
        (",a\n0,1\n1,2\n3,4\n", "got none for the first"),
    ],
)
def test_a_clock_that_says_nothing_is_one_sentence(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.csv")


def test_a_variable_with_the_name_of_a_clock_is_data(tmp_path):
    (tmp_path / "x.csv").write_text("\n".join(["t,b,c", *CELLS]))
    recording = read(tmp_path / "x.csv")
    assert recording.names == ("t", "b", "c") and "falls and rises: it is read as data" in recording.notes[0]


def test_clocks_of_frames_on_disk_are_no_data(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.DataFrame(NOISE, columns=["a", "b", "c"])
    dates = pandas.date_range("2024-01-01", periods=N, freq="20ms", tz="Europe/London")
    for number, (frame, timed) in enumerate(
        [
            (table.assign(when=dates), True),
            (table.set_index(dates), True),
            (table.set_index(dates - dates[0]).rename_axis("time"), True),
            (table.assign(time=np.arange(N) / 50), True),
            (table.assign(frame=np.arange(N)), False),
            (table.assign(frame=pandas.array(range(N), dtype="Int64")), False),
        ]
    ):
        frame.to_parquet(tmp_path / f"{number}.parquet")
        recording = read(tmp_path / f"{number}.parquet")
        np.testing.assert_array_equal(recording[:], NOISE)
        assert recording.names == ("a", "b", "c") and len(recording.notes) == 1
        assert (recording.times is not None) == timed
        if timed:
            np.testing.assert_allclose(recording.times, np.arange(N) / 50, atol=1e-9)
    assert read(tmp_path / "0.parquet", key="b,a").times is not None


# Arrays, of which nothing says what a column is


ROWS = np.arange(400)
JITTER = np.random.default_rng(1).uniform(-0.1, 0.1, 400)
CLOCKS = {
    "rows": ROWS,
    "from one": ROWS + 1,
    "backwards": -0.3 * ROWS,
    "seconds": ROWS / 30,
    "rounded": np.round(ROWS / 30, 2),
    "jitter": (ROWS + JITTER) / 30,
    "a pause": ROWS / 30 + 60 * (ROWS > 200),
    "since 1970": 1.7e9 + ROWS / 30,
    "begins again": ROWS % 100,
    "pulldown": np.cumsum(np.where(ROWS % 2, 33, 50)),
}
NO_CLOCKS = {
    "a ramp with noise": ROWS / 100 + np.random.default_rng(0).normal(size=400) / 10,
    "a ramp with little noise": ROWS / 100 + np.random.default_rng(0).normal(size=400) / 100,
    "a walk": np.cumsum(np.random.default_rng(0).normal(size=400)),
    "a walk of whole steps": np.cumsum(np.random.default_rng(0).integers(0, 2, 400)),
    "there and back": np.abs(ROWS % 100 - 50),
    "counts": np.random.default_rng(0).poisson(2.0, 400),
    "blocks": ROWS // 50,
    "decay": np.exp(-ROWS / 200) + np.random.default_rng(0).normal(size=400) / 1000,
}
DATA = np.random.default_rng(2).normal(size=(400, 3))


@pytest.mark.parametrize("name", CLOCKS)
def test_an_array_with_a_clock_is_refused(name):
    data = np.column_stack([DATA, CLOCKS[name]])
    assert Recording.of(data).clock_columns() == ["column 3"]
    mask = np.arange(400) % 7 > 0
    assert Recording.of(data, mask=mask).clock_columns() == ["column 3"]
    if name not in ("begins again", "a pause"):
        assert Recording.of(data, sessions=ROWS // 25).clock_columns() == ["column 3"]
    assert windowed(Recording.of(data), before=2).clock_columns() == ["column 3"]
    with pytest.raises(ValueError, match="Expected columns of X that are data; got .* count rows: column 3. Drop them"):
        rp.RPMEstimator().fit(data)
    with pytest.raises(ValueError, match="Expected columns of X_prime that are data"):
        rp.RPMEstimator().fit(DATA, X_prime=data)


@pytest.mark.parametrize("name", NO_CLOCKS)
def test_what_varies_is_no_clock(name):
    assert Recording.of(np.column_stack([DATA, NO_CLOCKS[name]])).clock_columns() == []


def test_a_clock_of_a_session_with_channels_of_its_own_is_refused():
    sessions = [np.column_stack([DATA, ROWS]), DATA]
    recording = own_channels(sessions)
    assert recording.clock_columns() == ["column 3 of session 0"]
    with pytest.raises(ValueError, match="column 3 of session 0"):
        rp.RPMEstimator().fit(recording, pairs=nearest(recording, np.r_[ROWS, ROWS]))


def test_names_of_a_frame_tell_clocks_that_steps_do_not():
    pandas = pytest.importorskip("pandas")
    times = np.cumsum(np.random.default_rng(0).exponential(size=400))
    frame = pandas.DataFrame(DATA, columns=["a", "b", "c"])
    assert Recording.of(frame.assign(time=times)).clock_columns() == ["column 3 ('time')"]
    assert Recording.of(frame.assign(trial=ROWS // 50)).clock_columns() == ["column 3 ('trial')"]
    assert Recording.of(frame.assign(distance=times)).clock_columns() == []
    assert Recording.of(frame.assign(time=times[::-1])).clock_columns() == []


def test_noise_with_a_row_number_scores_nothing(tmp_path: Path):
    rows = [f"{i}," + ",".join(map(str, row)) for i, row in enumerate(DATA)]
    (tmp_path / "x.csv").write_text("\n".join([",a,b,c", *rows]))
    with pytest.warns(UserWarning, match="has found nothing"):
        fitted = rp.RPMEstimator(max_steps=100, restarts=1, random_state=0).fit(read(tmp_path / "x.csv"))
    assert fitted.validation_nats_ < 0.3
