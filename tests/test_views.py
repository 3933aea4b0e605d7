"""Pairs of two random views of a row: what is drawn and when, and that latents ignore what the views change."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

import recparam as rp
from recparam.data.pairs import views
from recparam.data.recording import Recording
from recparam.estimator import FitWarning


def noisy(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows.add_(torch.randn(rows.shape, generator=generator))


NUMBERED = Recording.of(100.0 * np.arange(50)[:, None].repeat(3, 1))


def test_views_depend_on_the_seed_and_the_epoch_and_nothing_else() -> None:
    def batches(seed: int, epoch: int) -> Tensor:
        loader = views(NUMBERED, noisy).batches(20, seed=seed)
        loader.set_epoch(epoch)
        torch.rand(3)
        return torch.cat([torch.cat(batch, 1) for batch in loader])

    first = batches(0, 0)
    assert torch.equal(first, batches(0, 0))
    both = [batch[batch[:, 0].argsort()] for batch in (first, batches(0, 1), batches(1, 0))]
    for other in both[1:]:
        assert (both[0] - other).abs().min() > 0 and (both[0] - other).abs().max() < 20
    # Two views of one row: near each other, and drawn apart; the noise has unit variance.
    assert 1 < (first[:, :3] - first[:, 3:]).std() < 1.9
    errors = both[0][:, :3] - torch.from_numpy(NUMBERED[:]).float()
    assert errors.std() == pytest.approx(1, abs=0.25) and len(np.unique(errors)) > 100
    assert (NUMBERED[:] == 100.0 * np.arange(50)[:, None]).all()


def test_views_outside_of_batches_are_fixed_and_x_may_be_the_row_itself() -> None:
    pairs = views(NUMBERED, noisy, both=False)
    x, x_prime = pairs.tensors(np.arange(10, 20))
    np.testing.assert_array_equal(x, NUMBERED[10:20])
    assert torch.equal(x_prime, pairs.tensors(np.arange(10, 20))[1])
    assert not torch.equal(x_prime, pairs.tensors(np.arange(10, 20), draw=(1,))[1])


def test_rows_that_are_held_out_are_others_than_the_fitted() -> None:
    fit, held_out = views(Recording.of(np.zeros((10, 2)), mask=np.arange(10) != 4), noisy).split(0.3)
    assert fit.first.tolist() == fit.second.tolist() == [0, 1, 2, 3, 5, 6]
    assert held_out.first.tolist() == [7, 8, 9] and held_out.tensors()[0].abs().min() > 0


def test_latents_keep_what_views_share_and_ignore_what_they_change() -> None:
    rng = np.random.default_rng(0)
    kept, changed = rng.uniform(-1, 1, size=(2, 1500, 2))
    mix = rng.normal(size=(4, 6))
    data = np.concatenate([kept, changed], 1) @ mix
    across = torch.from_numpy(mix[2:]).float()

    def transform(rows: Tensor, generator: torch.Generator) -> Tensor:
        assert rows.dtype == torch.float32
        return rows + 2 * torch.randn(len(rows), 2, generator=generator) @ across

    recording = Recording.of(data)
    pairs = views(recording, transform)
    settings = {"max_steps": 70, "restarts": 1, "batch_size": 128, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est = rp.RPMEstimator(**settings).fit(recording, pairs=pairs)
    z = est.transform(data)
    decode = LinearRegression()
    assert decode.fit(z[:1000], kept[:1000]).score(z[1000:], kept[1000:]) > 0.9
    assert decode.fit(z[:1000], changed[:1000]).score(z[1000:], changed[1000:]) < 0.1
    assert float(est.elbo(recording, pairs=pairs)) == float(est.elbo(recording, pairs=pairs)) > 1
    assert "as declared" in est.describe()


def test_a_transform_that_gives_no_view_of_each_row_says_so() -> None:
    with pytest.raises(ValueError, match=r"each of 50 rows.*\(49, 3\)"):
        views(NUMBERED, lambda rows, generator: rows[1:]).tensors()
