"""Products of couplings over groups of dimensions, and the step length."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import recparam as rp
from recparam.couplings import Coupling
from recparam.estimator import FitWarning
from recparam.ops import pairwise_infonce

THREE = [[0, 1], [2, 3], [4, 5]]
DOUBLE = torch.float64


def latents(rows: int = 9, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, dim, generator=generator, dtype=DOUBLE)
    return z, z + torch.randn(rows, dim, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("make", [lambda: rp.StepLength(1.2, width=0.4), lambda: rp.GaussianRBF(0.6)])
@pytest.mark.parametrize("shared", [True, False])
def test_groups_are_the_sum_of_their_dimensions(make: Any, shared: bool) -> None:
    z, z_prime = latents()
    groups = rp.Groups(make().double(), THREE, shared=shared)
    total = rp.CouplingSum([rp.OnDimensions(make().double(), dims) for dims in THREE])
    torch.testing.assert_close(groups(z, z_prime), total(z, z_prime))
    torch.testing.assert_close(groups.score()(z, z_prime), total.score()(z, z_prime))
    torch.testing.assert_close(
        rp.InfoNCEPrior(groups).log_ratio(z, z_prime), rp.InfoNCEPrior(total).log_ratio(z, z_prime)
    )
    count = sum(p.numel() for p in make().parameters())
    assert sum(p.numel() for p in groups.parameters()) == count * (1 if shared else 3)
    assert len(groups.state_dict()) == len(make().state_dict()) * (1 if shared else 3)


def test_shared_parameters_gather_the_gradients_of_all_groups() -> None:
    z, z_prime = latents()
    shared, own = (rp.Groups(rp.StepLength(1.0).double(), THREE, shared=s) for s in (True, False))
    for groups in (shared, own):
        groups(z, z_prime).sum().backward()
    each = [part.log_radius.grad for part in own.couplings]
    torch.testing.assert_close(shared.couplings[0].log_radius.grad, torch.stack(each).sum(0))


def test_values_that_start_from_data() -> None:
    """A step starts at the paired rows' median, whatever the unpaired ones are; shared, at the geometric mean."""
    z, _ = latents(500)
    generator = torch.Generator().manual_seed(1)
    angle = 6.3 * torch.rand(500, 3, generator=generator, dtype=DOUBLE)
    length = torch.tensor([0.1, 0.2, 0.4], dtype=DOUBLE)
    step = (torch.stack([angle.cos(), angle.sin()], -1) * length[:, None]).flatten(1)
    own = rp.Groups(rp.StepLength().double(), THREE, shared=False)
    shared = rp.Groups(rp.StepLength().double(), THREE)
    for groups in (own, shared):
        assert not groups.initialised
        groups.initialise(z, z + step)
        assert groups.initialised
    radii = torch.stack([part.radius for part in own.couplings])
    torch.testing.assert_close(radii, length)
    torch.testing.assert_close(shared.couplings[0].radius, torch.tensor(0.2, dtype=DOUBLE))
    torch.testing.assert_close(shared.couplings[0].width, torch.tensor(0.1, dtype=DOUBLE))
    narrow = rp.StepLength(width=0.3)
    narrow.initialise(z.float(), (z + step).float())
    assert narrow.width.item() == pytest.approx(0.3)


def test_gradients_are_finite_where_latents_coincide() -> None:
    z = torch.zeros(4, 2, requires_grad=True)
    bank = torch.zeros(5, 2, requires_grad=True)
    f = rp.StepLength(0.5)
    f(z, bank[:4]).sum().backward()
    assert torch.equal(z.grad, torch.zeros(4, 2))  # type: ignore[arg-type]
    pairwise_infonce(f.score(), z, bank).sum().backward()
    for value in (z.grad, bank.grad, f.log_radius.grad, f.log_width.grad):
        assert value is not None and bool(torch.isfinite(value).all())


def test_a_prediction_stands_apart_from_what_the_coupling_learns_later() -> None:
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.StepLength(1.0, width=0.2)))
    x, x_prime = torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.1]])
    predicted = model.predictive(x, x_prime)
    assert predicted.sample(5).indices.unique().tolist() == [0]
    before = predicted.log_prob(torch.tensor([0]))
    with torch.no_grad():
        model.prior.coupling.log_radius.fill_(torch.tensor(2.0).log())  # type: ignore[union-attr]
    assert torch.equal(predicted.log_prob(torch.tensor([0])), before)
    assert model.predictive(x, x_prime).sample(5).indices.unique().tolist() == [1]
    assert int(model.predict(x, x_prime).argmax()) == 1
    assert model.match(torch.zeros(3, 2), x_prime).log_prob().shape == (3,)


def test_an_estimator_with_a_composed_prior_is_saved_and_loaded(tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.cumsum(torch.randn(300, 4, generator=generator), 0).numpy()

    def prior() -> rp.InfoNCEPrior:
        return rp.InfoNCEPrior(rp.Groups(rp.StepLength(), [[0, 1], [2, 3]]))

    est = rp.RPMEstimator(prior=prior(), latent_dim=4, max_steps=20, restarts=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # too few rows to learn from, which is not the point
        est.fit(data)
    assert "|z[0,1] - z'[0,1]|" in est.describe()
    est.save(tmp_path / "model")
    again = rp.RPMEstimator.load(tmp_path / "model", prior=prior())
    assert again.score(data) == est.score(data)
    radius = again.prior_.coupling.couplings[0].radius
    torch.testing.assert_close(radius, est.prior_.coupling.couplings[0].radius)


def sample(coupling: Coupling, width: int = 6) -> torch.Tensor:
    return coupling(torch.zeros(2, width), torch.ones(2, width))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rp.Groups(rp.StepLength(1.0), [[0, 1], [1, 2]]), r"overlap; got dimensions \[1\]"),
        (lambda: rp.Groups(rp.StepLength(1.0), []), "groups as lists"),
        (lambda: rp.Groups(rp.StepLength(1.0), [[0], []]), "each group as distinct indices"),
        (lambda: rp.Groups(rp.StepLength(1.0), [[0, 0]]), "each group as distinct indices"),
        (lambda: sample(rp.Groups(rp.StepLength(1.0), [[0, 1], [3, 4]])), r"\[2, 5\] are in no group.*rest='free'"),
        (lambda: sample(rp.Groups(rp.StepLength(1.0), [[0, 7]], rest="free")), "wide enough.*got widths 6 and 6"),
        (lambda: sample(rp.Groups(rp.Bilinear(3), THREE)), "Bilinear.*got 2 and 2"),
        (lambda: rp.StepLength(0.0), "radius > 0"),
        (lambda: rp.StepLength(1.0, width=-1.0), "width > 0"),
        (lambda: sample(rp.StepLength()).sum() + rp.StepLength()(torch.ones(3, 2), torch.ones(3, 2)), "median step"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_free_dimensions_have_no_part() -> None:
    z, z_prime = latents()
    groups = rp.Groups(rp.GaussianRBF(1.0).double(), THREE[:2], rest="free")
    torch.testing.assert_close(groups(z, z_prime), groups(z, torch.cat([z_prime[:, :4], z[:, 4:] + 9], 1)))
