"""MI - KL of deterministic latents through a critic: a lower bound on the KL, against the closed form."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld, mixed, standard
from recparam.bounds import Bound, decompose
from recparam.couplings import Coupling
from recparam.recognition import DensityError

RHO, SIZE, BATCHES = 0.9, 128, 20
MATCHED, OVERCONFIDENT, TIMID = 0.46, 0.2, 1.5


def optimal_critic(dim: int) -> Coupling:
    """log R(z, z') / (R(z) R(z')) up to a function of z, which I_inf does not see.

    For unit Gaussians with correlation rho that is rho z z' / (1 - rho^2) - rho^2 z'^2 / 2 (1 - rho^2): an RBF of
    theta^2 = (1 - rho^2) / rho^2 and, for the rest of z z', a bilinear form.
    """
    theta = RHO / (1 + RHO) * torch.eye(dim, dtype=torch.float64)
    return (rp.GaussianRBF(lengthscale=(1 - RHO**2) ** 0.5 / RHO) + rp.Bilinear(dim, theta=theta)).double()


@cache
def splits(dim: int, scale: float) -> tuple[list[rp.Decomposition], list[Bound]]:
    """Independent batches, split with the optimal critic, and the lower side of their ELBO."""
    world, generator = standard(dim, rho=RHO), torch.Generator().manual_seed(0)
    model = rp.RPM(world.recognition(), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=scale))).double()
    batches = [world.sample(SIZE, generator) for _ in range(BATCHES)]
    with torch.no_grad():
        parts = [model.decompose(*batch, critic=optimal_critic(dim)) for batch in batches]
        lower = [model.elbo(*batch, side="lower") for batch in batches]
    return parts, lower


def mean(values: list[float]) -> tuple[float, float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std()) / len(tensor) ** 0.5


@pytest.mark.parametrize("scale", [MATCHED, OVERCONFIDENT, TIMID])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_critic_bounds_the_divergence_from_below(dim: int, scale: float) -> None:
    world = standard(dim, rho=RHO)
    truth = world.mi() - world.rbf(scale)
    parts, _ = splits(dim, scale)
    for split in parts:
        assert (split.elbo.of, split.mi.of, split.kl.of) == ("elbo", "mi", "kl")
        assert (split.elbo.kind, split.mi.kind, split.kl.kind) == ("upper", "lower", "lower")
        assert float(split.elbo) == pytest.approx(float(split.mi) - float(split.kl))
    centre, error = mean([float(split.kl) for split in parts])
    assert centre < truth + (-3 if dim == 3 else 3) * error
    # how the batches scatter is what the bound says of itself
    assert error * BATCHES**0.5 == pytest.approx(parts[0].kl.standard_error, rel=1.0)


@pytest.mark.parametrize("scale", [OVERCONFIDENT, TIMID])
def test_with_the_optimal_critic_it_comes_near_the_divergence(scale: float) -> None:
    world = standard(1, rho=RHO)
    truth = world.mi() - world.rbf(scale)
    centre, error = mean([float(split.kl) for split in splits(1, scale)[0]])
    assert truth > 0.5
    assert centre > 0.9 * truth - 3 * error


def test_the_difference_of_two_lower_bounds_exceeds_the_divergence() -> None:
    """What the naive claim does: of the ELBO, too, a lower bound is subtracted."""
    world = standard(3, rho=RHO)
    truth = world.mi() - world.rbf(MATCHED)
    parts, lower = splits(3, MATCHED)
    assert {bound.kind for bound in lower} == {"lower"}
    differences = [float(split.mi) - float(bound) for split, bound in zip(parts, lower, strict=True)]
    # Rare batches give enormous values; lowered to 1 nat above the truth, they do not swamp the standard error.
    naive, error = mean([min(difference, truth + 1) for difference in differences])
    assert naive > truth + 5 * error
    assert naive > 5 * truth
    # the library calls such a difference an estimate
    assert decompose(lower[0], parts[0].mi).kl.kind == "estimate"
    assert mean([float(split.kl) for split in parts])[0] < truth


def test_the_prior_s_own_coupling_proves_no_more_than_a_divergence_above_zero() -> None:
    world, generator = standard(2, rho=RHO), torch.Generator().manual_seed(0)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=OVERCONFIDENT))
    model = rp.RPM(world.recognition(), prior).double()
    with torch.no_grad():
        parts = [model.decompose(*world.sample(64, generator), critic=prior) for _ in range(5)]
    assert max(float(split.kl) for split in parts) < 0 < world.mi() - world.rbf(OVERCONFIDENT)


def test_over_the_whole_data_set_the_elbo_is_exact_and_the_critic_s_mi_is_not() -> None:
    """Deterministic latents of a data set: MI = log N, of which the critic's bound is short."""
    world, generator = standard(2, rho=RHO), torch.Generator().manual_seed(0)
    batch = world.sample(32, generator)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=TIMID))
    model = rp.RPM(world.recognition(), prior, marginal=rp.DatasetMarginal(*batch)).double()
    split = model.decompose(*batch, critic=optimal_critic(2))
    assert (split.elbo.kind, split.mi.kind, split.kl.kind) == ("exact", "lower", "lower")
    assert split.mi.ceiling == pytest.approx(torch.tensor(32.0).log().item())
    assert 0 < float(split.kl) < split.mi.ceiling - float(split.elbo)


def test_a_critic_of_stochastic_latents() -> None:
    """Where densities are known a critic may be given all the same; its bound is the lower of the two."""
    world, generator = GaussianWorld(mixed(2), 0.1), torch.Generator().manual_seed(0)
    model = rp.RPM(world.recognition(), rp.JointGaussianPrior(2, correlation=0.3)).double()
    truth = world.mi() - world.joint_gaussian(0.3)
    values: dict[str, list[float]] = {"batch": [], "data set": []}
    with torch.no_grad():
        for _ in range(BATCHES):
            batch = world.sample(128, generator)
            split = model.decompose(*batch, critic=optimal_critic(2), generator=generator)
            assert (split.mi.kind, split.kl.kind) == ("lower", "lower")
            values["batch"].append(float(split.kl))
        model.marginal = rp.DatasetMarginal(*batch)
        exact = model.decompose(*batch, generator=generator)
        for _ in range(BATCHES):
            split = model.decompose(*batch, critic=optimal_critic(2), generator=generator)
            assert (split.elbo.kind, split.mi.kind, split.kl.kind) == ("exact", "lower", "lower")
            values["data set"].append(float(split.mi))
    centre, error = mean(values["batch"])
    assert centre < truth - 3 * error
    centre, error = mean(values["data set"])
    assert exact.mi.kind == "exact"
    assert centre < float(exact.mi) - 3 * error


def test_chains_of_three() -> None:
    """TC = 2 MI for a Markov chain: the bound stays below its KL."""
    world, generator = standard(1, rho=RHO), torch.Generator().manual_seed(0)
    model = rp.RPM(world.recognition(), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=TIMID))).double()
    with torch.no_grad():
        parts = [
            model.decompose(*world.sample(256, generator, steps=3), critic=optimal_critic(1)) for _ in range(BATCHES)
        ]
    truth = 2 * (world.mi() - world.rbf(TIMID))
    centre, error = mean([float(split.kl) for split in parts])
    assert {split.kl.kind for split in parts} == {"lower"}
    assert 0.9 * truth - 3 * error < centre < truth + 3 * error


def test_dependent_rows_leave_an_estimate() -> None:
    x = torch.randn(8, 1)
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)))
    copies = rp.Labels(identities=torch.arange(8) // 2)
    split = model.decompose(x, x, critic=rp.GaussianRBF(lengthscale=1.0), labels=copies)
    assert (split.elbo.kind, split.mi.kind, split.kl.kind) == ("upper", "estimate", "estimate")


def test_bad_critics_and_none() -> None:
    def split(critic: object, x: Tensor = torch.randn(4, 2)) -> object:  # noqa: B008
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)))
        return model.decompose(x, x, critic=critic)  # type: ignore[arg-type]

    with pytest.raises(DensityError, match=r"critic=rp.GaussianRBF.*rp\.EpsilonGaussian.*Eq\. 46"):
        split(None)
    with pytest.raises(ValueError, match="waits for data"):
        split(rp.GaussianRBF())
    with pytest.raises(ValueError, match=r"widths \(3, 3\)"):
        split(rp.Bilinear(3))
