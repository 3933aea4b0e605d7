"""Whatever the type, byte order and layout of an array, what is done with it is what is done with its float32 copy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import recparam as rp
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording

DTYPES = (
    *("float16", "float32", "float64", "longdouble", "int8", "int32", "int64", "uint8", "uint16", "uint64", "bool"),
    *(">f2", ">f4", ">f8", ">i2", ">i8", ">u4"),
)
FLOATS = [name for name in DTYPES if np.dtype(name).kind == "f"]
LAYOUTS = ("C", "Fortran", "strided", "reversed", "transposed", "read-only", "within another")

quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

pytestmark = [
    pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning"),
    pytest.mark.filterwarnings("ignore::recparam.data.axes.DataWarning"),  # small arrays may be trials, too
]


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """The same values as another kind of array."""
    if layout == "Fortran":
        return np.asfortranarray(values)
    if layout == "strided":
        return np.repeat(values, 2, axis=0)[::2]
    if layout == "reversed":
        return np.ascontiguousarray(values[::-1])[::-1]
    if layout == "transposed":
        return np.ascontiguousarray(values.T).T
    if layout == "within another":
        whole = np.zeros([size + 2 for size in values.shape], dtype=values.dtype)
        inside = whole[tuple(slice(1, -1) for _ in values.shape)]
        inside[...] = values
        return inside
    found = values.copy()
    found.flags.writeable = layout != "read-only"
    return found


@st.composite
def arrays(draw: Any, *, shape: Any, largest: float | None = None) -> np.ndarray:
    """An array of any type and layout; floats are finite, and at most as large as said."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements: Any = None
    if dtype.kind == "f":
        limit = float(min(largest or np.inf, np.finfo(dtype).max, np.finfo(np.float32).max))
        width: Any = min(8 * dtype.itemsize, 64)
        elements = st.floats(-limit, limit, width=width, allow_nan=False, allow_infinity=False)
    values = draw(hnp.arrays(dtype, shape, elements=elements))
    return laid_out(values, draw(st.sampled_from(LAYOUTS)))


ROWS = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6)


@quick
@given(arrays(shape=ROWS), st.data())
def test_a_recording_holds_the_rows_it_was_given(values: np.ndarray, data: st.DataObject) -> None:
    before = values.copy()
    recording = Recording.of(values)
    assert recording.shape == values.shape and len(recording) == len(values)
    rows = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), max_size=8)), dtype=np.int64)
    for found, wanted in ((recording[rows], values[rows]), (recording[1:], values[1:])):
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(values, before)


@quick
@given(arrays(shape=ROWS.filter(lambda shape: shape[0] > 2)))
def test_pairs_are_float32_copies_of_rows_and_bytes_stay_bytes(values: np.ndarray) -> None:
    x, x_prime = consecutive(Recording.of(values)).tensors()
    dtype = np.uint8 if values.dtype == np.uint8 else np.float32
    assert x.dtype == x_prime.dtype == torch.from_numpy(np.zeros(0, dtype)).dtype
    np.testing.assert_array_equal(x.numpy(), values[:-1].astype(dtype))
    np.testing.assert_array_equal(x_prime.numpy(), values[1:].astype(dtype))


@quick
@given(arrays(shape=hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5)))
def test_mapped_files_hold_the_same_rows(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", values)
    recording = Recording.of(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert recording.on_disk
    np.testing.assert_array_equal(recording[:], values)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    place = np.cumsum(np.random.default_rng(0).normal(size=(200, 3)), axis=0)
    est = rp.RPMEstimator(max_steps=5, restarts=1, batch_size=64, random_state=0)
    return est.fit(np.tanh(place / 5).astype(np.float32))


@quick
@given(values=arrays(shape=st.tuples(st.integers(1, 12), st.just(3)), largest=1e4))
def test_latents_are_those_of_the_float32_copy(fitted: rp.RPMEstimator, values: np.ndarray) -> None:
    np.testing.assert_array_equal(fitted.transform(values), fitted.transform(values.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["float16", ">f8", "longdouble", "int64", ">i2", "uint8", "bool"])
@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
def test_a_fit_is_that_of_the_float32_copy(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, size=(60, 4))
    fits = [
        rp.RPMEstimator(max_steps=2, restarts=1, batch_size=16, random_state=0).fit(rows)
        for rows in (laid_out(values.astype(dtype), "transposed"), values.astype(np.float32))
    ]
    one, two = (est.transform(values.astype(np.float32)) for est in fits)
    np.testing.assert_array_equal(one, two)
    assert fits[0].validation_nats_ == fits[1].validation_nats_


@pytest.mark.parametrize("dtype", [*DTYPES, "complex64", "U3", "S3", "M8[s]", "object"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0), (0,)])
def test_arrays_without_rows_or_numbers_are_errors(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected data|Complex data not supported"):
        Recording.of(np.zeros(shape, dtype=dtype))


@quick
@given(st.sampled_from(FLOATS), st.sampled_from(LAYOUTS), st.integers(0, 4), st.integers(0, 2), st.sampled_from("nif"))
def test_a_value_that_is_not_finite_is_named(dtype: str, layout: str, row: int, column: int, kind: str) -> None:
    values = np.zeros((5, 3), dtype=dtype)
    values[row, column] = {"n": np.nan, "i": np.inf, "f": -np.inf}[kind]
    with pytest.raises(ValueError, match=f"NaN or infinity in column {column}, first in row {row} of 5"):
        Recording.of(laid_out(values, layout))


@pytest.mark.parametrize("dtype", ["float64", ">f8", "longdouble"])
def test_numbers_too_large_for_single_precision_are_named(fitted: rp.RPMEstimator, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(60, 3)).astype(dtype)
    values[20, 1] = -1e300
    for call in (fitted.transform, rp.RPMEstimator(max_steps=1, restarts=1).fit):
        with pytest.raises(ValueError, match=r"at most 3.4e\+38.*got -1e\+300 in column 1. Rescale"):
            call(values)
