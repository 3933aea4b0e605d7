"""Gaps in time: what is lost is one, what jitters is none, and how many pairs they took is said."""

import warnings

import numpy as np
import pytest

from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.data.segments import segments
from recparam.data.windows import windowed

RNG = np.random.default_rng(0)
N = 2000


def of(*times):
    return Recording.of([np.zeros((len(t), 1)) for t in times], times=list(times))


def gaps(*times):
    recording = of(*times)
    return int(segments(recording, None)[0][-1]) - int(recording.sessions[-1])


JITTERED = {
    "none": np.arange(N) * 0.02,
    "rounded to milliseconds": np.round(np.arange(N) / 30, 3),
    "uniform": (np.arange(N) + RNG.uniform(-0.49, 0.49, N)) * 0.02,
    "normal": np.sort(np.arange(N) + RNG.normal(0, 0.2, N)),
    "steps of a half to twice": np.cumsum(RNG.uniform(0.5, 2, N)),
    "two steps in turn": np.cumsum(np.tile([0.01, 0.03], N // 2)),
    "datetimes": np.datetime64("2024-01-01", "us") + (np.arange(N) * 20_000).astype("timedelta64[us]"),
}


@pytest.mark.parametrize("name", JITTERED)
def test_jitter_is_no_gap(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = consecutive(of(JITTERED[name]), lag=3)
    assert len(pairs) >= 0.995 * (N - 3) and pairs.how == "lag 3"


@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.1])
def test_dropped_rows_and_pauses_are_gaps_whatever_the_jitter(jitter):
    whole = np.arange(N) + RNG.normal(0, jitter, N)
    dropped = np.delete(whole, np.arange(50, N - 50, 100))
    assert gaps(dropped) >= 0.9 * 19
    dropped[1000:] += 60
    assert 1000 not in consecutive(of(dropped)).second


def test_sessions_have_steps_of_their_own():
    fast, slow = np.arange(N) / 100, np.arange(200) / 10
    assert gaps(fast, slow) == 0 and gaps(fast, np.delete(slow, 50)) == 1
    assert set(consecutive(of(fast, slow), seconds=0.2).lag.tolist()) == {20, 2}
    short = [np.arange(5.0), np.array([0.0, 1.0, 3.0]), np.arange(4.0)]
    assert gaps(*short) == 1  # trials share one step


def test_what_gaps_took_is_said():
    bursts = np.cumsum(np.r_[0, np.tile([0.01] * 9 + [1.0], 50)])
    with pytest.warns(UserWarning, match=r"50 gaps in time, .*, took 50 of 500 pairs\. If rows are complete"):
        pairs = consecutive(of(bursts))
    assert pairs.how == "lag 1; gaps in time took 50 of 500 pairs"
    with pytest.warns(UserWarning, match="took 246 of 496 pairs"):
        assert consecutive(of(bursts), lag=5).how.endswith("took 246 of 496 pairs")
    with pytest.warns(UserWarning, match="gaps in time"):
        assert "took" in consecutive(of(bursts), seconds=0.05).how
    assert consecutive(of(bursts), max_gap=0.5).how.endswith("took 50 of 500 pairs")  # declared: no warning
    assert consecutive(of(bursts), max_gap=2).how == "lag 1"
    one = np.r_[np.arange(10), np.arange(20, 30)]
    assert consecutive(of(one)).how == "lag 1; gaps in time took 1 of 19 pairs"


def test_pairs_that_uneven_steps_took_are_said():
    times = np.arange(N) + RNG.uniform(-0.49, 0.49, N)
    assert "; uneven steps in time took" in consecutive(of(times), seconds=3).how


def test_windows_do_not_end_where_times_jitter():
    times = JITTERED["uniform"]
    rows = Recording.of(np.arange(float(N))[:, None], times=times)
    assert (windowed(rows, before=1)[:][1:, 0, 0] == np.arange(N - 1)).all()


def test_rows_of_the_same_time_are_an_error():
    with pytest.raises(ValueError, match="times that increase within a session"):
        of(np.r_[np.arange(5.0), 4.0])
