"""Windows of rows: which rows they hold, and latents that no single row could give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.data.channels import own_channels
from recparam.data.pairs import as_tensor, consecutive
from recparam.data.recording import Recording
from recparam.data.windows import windowed
from recparam.evaluation import LinearDecoder, r2
from recparam.networks import TemporalConv


def rows_of(recording: Recording) -> list[list[int]]:
    """What the windows hold, for recordings whose row t is the number t."""
    return recording[:][..., 0].astype(int).tolist()


def numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float64)[:, None] * [1, 10]


def test_windows_by_hand() -> None:
    found = windowed(Recording.of(numbers(5)), before=2, after=1)
    assert found.shape == (5, 4, 2) and len(found) == 5
    assert rows_of(found) == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 4]]
    assert (found[:][..., 1] == 10 * found[:][..., 0]).all()
    assert rows_of(windowed(Recording.of(numbers(3)), before=0)) == [[0], [1], [2]]
    np.testing.assert_array_equal(found[np.array([4, 0, 4])], found[:][[4, 0, 4]])
    np.testing.assert_array_equal(found[np.arange(5) % 2 == 1], found[:][1::2])


def test_windows_end_where_sessions_and_gaps_do() -> None:
    sessions = windowed(Recording.of([numbers(2), numbers(5)[2:]]), before=2)
    assert rows_of(sessions) == [[0, 0, 0], [0, 0, 1], [2, 2, 2], [2, 2, 3], [2, 3, 4]]
    assert len(consecutive(sessions)) == 3
    gap = windowed(Recording.of(numbers(6), times=[0, 1, 2, 9, 10, 11]), before=1, after=1)
    assert rows_of(gap) == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 5], [4, 5, 5]]


def test_a_window_with_a_row_that_was_not_observed_is_in_no_pair() -> None:
    values = numbers(7)
    values[3] = np.nan
    masked = windowed(Recording.of(values, mask=np.arange(7) != 3), before=1, after=1)
    assert masked.usable.tolist() == [True, True, False, False, False, True, True]
    assert consecutive(masked).first.tolist() == [0, 5]


def test_windows_of_mapped_files_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(9))
    mapped = windowed(Recording.of(np.load(tmp_path / "x.npy", mmap_mode="r")), before=3)
    assert mapped.on_disk
    np.testing.assert_array_equal(mapped[:], windowed(Recording.of(numbers(9)), before=3)[:])


def test_constant_columns_are_those_of_the_rows() -> None:
    values = numbers(30)
    values[:, 1] = 7
    with pytest.raises(ValueError, match="constant ones: column 1"):
        rp.RPMEstimator(encoder="temporal").fit(windowed(Recording.of(values), before=2))


def hidden_phase(rows: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """A phase of which a row shows the sine only: where it is heading, a single row cannot know."""
    rng = np.random.default_rng(0)
    phase = np.cumsum(0.08 + 0.03 * rng.normal(size=rows))
    seen = np.sin(phase)[:, None] * rng.uniform(0.5, 1.5, size=4) + 0.05 * rng.normal(size=(rows, 4))
    return seen, np.column_stack([np.cos(phase), np.sin(phase)])


def test_a_window_shows_what_no_single_row_does(tmp_path: Path) -> None:
    seen, truth = hidden_phase()
    window = windowed(Recording.of(seen), before=7)
    settings: dict[str, Any] = {"lag": 8, "restarts": 1, "batch_size": 128, "max_steps": 120, "random_state": 0}
    scores = {}
    for encoder, data in (("temporal", window), ("mlp", Recording.of(seen))):
        est = rp.RPMEstimator(encoder=encoder, **settings).fit(data)
        z = est.transform(data)
        assert z.shape == (900, 2)
        scores[encoder] = r2(LinearDecoder().fit(z[:700], truth[:700, 0]).predict(z[700:]), truth[700:, 0])
        if encoder == "temporal":
            est.save(tmp_path / "model")
            np.testing.assert_array_equal(rp.RPMEstimator.load(tmp_path / "model").transform(data), z)
            assert "TemporalConv" in est.describe()
    assert scores["mlp"] < 0.3 < 0.8 < scores["temporal"]


def test_the_temporal_encoder_exports_with_any_batch() -> None:
    net, rows = TemporalConv(3, window=4, out_features=2), torch.randn(7, 4, 3)
    program = torch.export.export(net, (rows[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for size in (1, 3, 7):
        torch.testing.assert_close(program.module()(rows[:size]), net(rows[:size]), rtol=0, atol=1e-6)


ROWS = Recording.of(numbers(5))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: windowed(ROWS, before=-1), "before >= 0"),
        (lambda: windowed(ROWS, before=1, after=-1), "after >= 0"),
        (lambda: windowed(windowed(ROWS, before=1), before=1), r"vectors, \(N, D\).*got shape \(5, 2, 2\)"),
        (lambda: windowed(Recording.of(numbers(3), mask=numbers(3) < 20), before=1), "single values missing"),
        (lambda: Recording.join([windowed(ROWS, before=1)] * 2), "got windows of rows. Join what they are windows of"),
        (lambda: windowed(own_channels([numbers(5), numbers(4)]), before=1), "got own channels"),
        (lambda: TemporalConv(2, window=0, out_features=1), "window"),
        (lambda: TemporalConv(2, window=3, out_features=1)(torch.zeros(4, 2, 3)), r"\(B, 3, 2\); got \(4, 2, 3\)"),
        (lambda: rp.RPMEstimator(encoder="temporal").fit(numbers(30) % 7), r"\(N, W, D\), as recparam.data.windows"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_windows_reach_batches_as_single_precision() -> None:
    x, x_prime = consecutive(windowed(ROWS, before=1), lag=2).tensors()
    assert x.dtype == torch.float32 and x.shape == x_prime.shape == (3, 2, 2)
    assert torch.equal(x, as_tensor(windowed(ROWS, before=1)[:3]))
