"""What stands for an array: masks are honoured, matrices and fields are read, everything else is one sentence."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.data.pairs import as_tensor
from recparam.data.recording import Recording
from recparam.evaluation import r2

X = np.random.default_rng(0).normal(size=(60, 3))
HIDDEN = np.random.default_rng(1).random(X.shape) < 0.1
HIDDEN[7] = True


@pytest.mark.parametrize(
    "data",
    [
        np.asmatrix(X),
        np.asfortranarray(X),
        X.astype(object),
        np.array([[Fraction(value) for value in row] for row in X]),
        np.array([[Decimal(float(value)) for value in row] for row in X]),
        np.rec.fromarrays(X.T),
        np.ma.array(X),
        torch.as_tensor(X),
    ],
    ids=lambda data: type(data).__name__,
)
def test_other_arrays_are_read_as_arrays(data):
    recording = Recording.of(data)
    assert type(recording[:]) is np.ndarray
    np.testing.assert_array_equal(recording[:], X)
    assert recording.known is None and recording.observed is None


def test_fields_name_columns():
    table = np.array([(1.0, 2), (3.0, 4)], dtype=[("speed", float), ("lick", int)])
    assert Recording.of(table).names == ("speed", "lick")
    hidden = Recording.of(np.ma.array(table, mask=[(True, False), (False, False)]))
    np.testing.assert_array_equal(hidden[:], [[np.nan, 2], [3, 4]])


@pytest.mark.parametrize("junk", [np.nan, 1e20, 3.0])
def test_a_masked_array_says_what_was_observed(junk):
    data = np.ma.array(np.where(HIDDEN, junk, X), mask=HIDDEN)
    recording = Recording.of(data)
    np.testing.assert_array_equal(recording[:], np.where(HIDDEN, np.nan, X))
    assert np.flatnonzero(~recording.usable).tolist() == [7]
    rows = np.arange(60) != 20
    both = Recording.of(data, mask=rows)
    assert np.flatnonzero(~both.usable).tolist() == [7, 20]
    np.testing.assert_array_equal(both.known, ~HIDDEN)
    np.testing.assert_array_equal(Recording.of(data, mask=X > 0).known, ~HIDDEN & (X > 0))
    sessions = Recording.of([data[:30], X[30:]])
    np.testing.assert_array_equal(sessions.known, np.r_[~HIDDEN[:30], np.ones((30, 3), bool)])
    settings = {"max_steps": 5, "restarts": 1, "random_state": 0}
    with pytest.warns(UserWarning):
        as_mask = rp.RPMEstimator(**settings).fit(Recording.of(X, mask=~HIDDEN)).transform(X)
        of_masked = rp.RPMEstimator(**settings).fit(data).transform(X)
    np.testing.assert_array_equal(of_masked, as_mask)


def test_arrays_of_arrays_are_sessions():
    sessions = np.empty(2, dtype=object)
    sessions[:] = [X[:20], X[20:]]
    recording = Recording.of(sessions)
    assert np.bincount(recording.sessions).tolist() == [20, 40]
    np.testing.assert_array_equal(recording[:], X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recording.of(torch.as_tensor(X).to_sparse()), "dense tensor of numbers; got one that is sparse"),
        (lambda: Recording.of(torch.empty(3, 2, device="meta")), "without values"),
        (lambda: Recording.of({"a": X}), "array of numbers; got dict"),
        (lambda: Recording.of(row for row in X), "array of numbers; got generator"),
        (lambda: Recording.of(torch.utils.data.TensorDataset(torch.as_tensor(X))), "got TensorDataset"),
        (lambda: Recording.of(np.array([[1.0, None], [2.0, 3.0]])), "NaN or infinity in column 1, first in row 0"),
        (lambda: Recording.of(np.array([[1, "a"], [None, 3]], dtype=object)), r"objects in column 1 \(could not"),
        (lambda: Recording.of(np.array([[1, np.datetime64("2024-01-01")]], dtype=object)), "is given as times="),
        (lambda: Recording.of(X, times=np.ma.masked_less(np.arange(60), 1)), "times with all values observed; got"),
        (lambda: Recording.of(X, mask=np.ma.masked_equal(X > 0, True)), "mask with all values observed; got"),
        (lambda: rp.estimate_mutual_information(np.ma.masked_less(X, 0), X), "x with all values observed; got a mask"),
        (lambda: r2(np.ma.masked_less(X, 0), X), "all values observed; got a masked array that hides"),
        (lambda: as_tensor(np.ma.masked_less(X, 0)), "all values observed"),
    ],
)
def test_what_is_no_array_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_frames_of_other_kinds():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    for data in (frame.astype("Float64"), frame.astype(pandas.SparseDtype(float)), frame.astype(object)):
        np.testing.assert_array_equal(Recording.of(data)[:], X)
    mixed = frame.assign(lick=X[:, 0] > 0, count=pandas.array(range(60), dtype="Int64"))
    assert Recording.of(mixed)[:].dtype == np.float64
    holes = pandas.DataFrame({"x": pandas.array([1, None, 3], dtype="Int64"), "s": ["a", "b", "c"]})
    with pytest.raises(ValueError, match=r"objects in column 1 \('s'\)"):
        Recording.of(holes)
    with pytest.raises(ValueError, match=r"column 3 \('t'\).*is given as times="):
        Recording.of(frame.assign(t=pandas.date_range("2024-01-01", periods=60)))
    with pytest.warns(UserWarning):
        rp.RPMEstimator(max_steps=2, restarts=1).fit(pandas.DataFrame(X, columns=["a", "b", "a"]))


def test_names_in_messages_are_a_few():
    names = [f"cell {k}" for k in range(3000)]
    pandas = pytest.importorskip("pandas")
    one = pandas.DataFrame(np.zeros((2, 3000)), columns=names)
    for wrong in (one * np.nan, one.astype(object).assign(**{name: "a" for name in names}), [one, one[names[::-1]]]):
        with pytest.raises(ValueError) as raised:
            Recording.of(wrong)
        assert len(str(raised.value)) < 700
    with pytest.raises(ValueError) as raised:
        Recording.of([one] * 900, times=[np.arange(3)] * 900)
    assert len(str(raised.value)) < 300
