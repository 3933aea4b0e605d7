"""Every number labelled a bound lies on its side of the closed-form truth, and the naive claims fail as said."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import recparam as rp
from gaussian_world import GaussianWorld, mixed, standard
from recparam.bounds import infinite_infonce
from recparam.marginals import Marginal
from recparam.priors import Prior, Side

SIZE, BATCHES = 64, 20

# In D = 20 the batch shows a quarter of the information: values at their ceiling are part of what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::recparam.bounds.CeilingWarning")


class Truth(NamedTuple):
    """A model in a world, and what its bounds are bounds of."""

    world: GaussianWorld
    prior: Prior
    elbo: float

    def model(self, marginal: Marginal | None = None) -> rp.RPM:
        return rp.RPM(self.world.recognition(), self.prior, marginal=marginal).double()


MATCHED, OVERCONFIDENT = 0.46, 0.2  # lengthscales; the optimal one at rho = 0.9 is sqrt((1 - rho^2) / rho) = 0.46
INFONCE = ("rbf matched", "rbf overconfident", "bilinear soft", "bilinear sharp")
DENSITY = ("joint Gaussian good", "joint Gaussian poor", "optimal")


@cache
def truth(name: str, dim: int) -> Truth:
    """InfoNCE priors with deterministic latents; priors that need densities with epsilon-Gaussian ones."""
    world = GaussianWorld(mixed(dim), 0.0 if name in INFONCE else 0.1)
    eye = torch.eye(dim, dtype=torch.float64)
    if name.startswith("rbf"):
        scale = MATCHED if name == "rbf matched" else OVERCONFIDENT
        return Truth(world, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=scale)), world.rbf(scale))
    if name.startswith("bilinear"):
        theta = (0.3 if name == "bilinear soft" else 1.0) * eye
        return Truth(world, rp.InfoNCEPrior(rp.Bilinear(dim, theta=theta)), world.bilinear(theta))
    if name.startswith("joint"):
        rho = 0.9 if name == "joint Gaussian good" else 0.3
        return Truth(world, rp.JointGaussianPrior(dim, correlation=rho), world.joint_gaussian(rho))
    return Truth(world, rp.OptimalPrior(), world.mi())


def mean(values: Tensor) -> tuple[float, float]:
    """Mean over independent batches and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def assert_below(values: Tensor, limit: float, *, strict: bool) -> None:
    """The expectation lies below the limit: by more than three standard errors if `strict`.

    Far below, values are raised to 50 nats under the limit. That moves the mean towards the limit, never away
    from it, and keeps the rare, enormous values of 1 - log a - Zhat / a from swamping the standard error.
    """
    centre, error = mean(values.clamp(min=limit - 50))
    assert centre < limit + (-3 if strict else 3) * error, f"{centre:.3f} +- {error:.3f} is not below {limit:.3f}"


def elbos(case: Truth, side: Side, kind: str, *, bank: bool = False, steps: int = 2) -> Tensor:
    """The bound's value on independent batches; its label is checked on each."""
    generator = torch.Generator().manual_seed(0)
    model, values = case.model(), []
    with torch.no_grad():
        for _ in range(BATCHES):
            if bank:
                model.marginal = rp.DatasetMarginal(*case.world.sample(SIZE, generator, steps=steps))
            bound = model.elbo(*case.world.sample(SIZE, generator, steps=steps), side=side, generator=generator)
            assert (bound.of, bound.kind) == ("elbo", kind)
            if bound.ceiling is not None and isinstance(case.prior, rp.InfoNCEPrior):
                assert float(bound) <= bound.ceiling + 1e-9
            values.append(float(bound))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 5, 20])
@pytest.mark.parametrize("name", [*INFONCE, *DENSITY])
def test_upper_side_of_the_elbo(name: str, dim: int) -> None:
    case = truth(name, dim)
    values = elbos(case, "upper", "upper")
    assert_below(-values, -case.elbo, strict=dim > 1 and name != "bilinear soft")


@pytest.mark.parametrize("dim", [1, 5, 20])
@pytest.mark.parametrize("name", [*INFONCE, *DENSITY])
def test_lower_side_of_the_elbo(name: str, dim: int) -> None:
    case = truth(name, dim)
    values = elbos(case, "lower", "lower")
    assert_below(values, case.elbo, strict=dim > 1 and name not in ("bilinear soft", "bilinear sharp"))
    assert_below(values, case.world.mi(), strict=dim > 1)  # what bounds the ELBO from below so bounds the MI


@pytest.mark.parametrize("dim", [1, 5, 20])
@pytest.mark.parametrize("name", ["joint Gaussian good", "joint Gaussian poor"])
def test_training_objective_of_a_joint_prior_is_a_lower_bound(name: str, dim: int) -> None:
    case = truth(name, dim)
    assert_below(elbos(case, None, "lower"), case.elbo, strict=dim > 1)


@pytest.mark.parametrize("dim", [1, 5, 20])
@pytest.mark.parametrize("name", INFONCE)
def test_infonce_is_a_lower_bound_of_the_mi_under_its_ceiling(name: str, dim: int) -> None:
    case = truth(name, dim)
    model, values = case.model(), []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(BATCHES):
            mi = model.mutual_information(*case.world.sample(SIZE, generator))
            assert (mi.lower.of, mi.lower.kind, mi.upper) == ("mi", "lower", None)
            assert mi.lower.ceiling == pytest.approx(math.log(SIZE))
            assert float(mi.lower) <= math.log(SIZE) + 1e-9
            values.append(float(mi.lower))
    assert_below(torch.tensor(values), case.world.mi(), strict=dim > 1)


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_mutual_information_with_densities_is_enclosed(dim: int) -> None:
    case = truth("joint Gaussian poor", dim)  # the prior does not matter
    model, lower, upper = case.model(), [], []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(BATCHES // 2):
            mi = model.mutual_information(*case.world.sample(SIZE, generator), generator=generator)
            assert mi.upper is not None
            assert (mi.lower.kind, mi.estimate.kind, mi.upper.kind) == ("lower", "estimate", "upper")
            lower.append(float(mi.lower))
            upper.append(float(mi.upper))
    assert_below(torch.tensor(lower), case.world.mi(), strict=True)
    assert_below(-torch.tensor(upper), -case.world.mi(), strict=True)


@pytest.mark.parametrize("name", ["rbf matched", "bilinear sharp", "joint Gaussian good"])
def test_an_independent_bank_gives_upper_bounds(name: str) -> None:
    case = truth(name, 5)
    # Only the caller knows that the bank does not hold the scored rows: the side is to be asked for.
    assert_below(-elbos(case, "upper", "upper", bank=True), -case.elbo, strict=True)
    elbos(case, None, "estimate", bank=True)


@pytest.mark.parametrize("name", ["rbf matched", "rbf overconfident"])
def test_an_independent_bank_gives_lower_bounds_with_infonce(name: str) -> None:
    case = truth(name, 5)
    assert_below(elbos(case, "lower", "lower", bank=True), case.elbo, strict=True)


def test_a_chain_of_three_has_twice_the_elbo() -> None:
    case = truth("rbf matched", 5)
    assert_below(-elbos(case, "upper", "upper", steps=3), -2 * case.elbo, strict=True)
    assert_below(elbos(case, "lower", "lower", steps=3), 2 * case.elbo, strict=True)
    elbos(case, None, "estimate", steps=3)  # stays under its ceiling, 2 log B


def test_decomposition_bounds_the_divergence_from_below() -> None:
    case = truth("joint Gaussian poor", 5)
    generator = torch.Generator().manual_seed(0)
    model, values = case.model(), []
    with torch.no_grad():
        for _ in range(BATCHES):
            parts = model.decompose(*case.world.sample(SIZE, generator), generator=generator)
            assert (parts.elbo.kind, parts.mi.kind, parts.kl.kind) == ("upper", "lower", "lower")
            assert float(parts.elbo) == pytest.approx(float(parts.mi) - float(parts.kl))
            values.append(float(parts.kl))
    assert_below(torch.tensor(values), case.world.mi() - case.elbo, strict=True)


def test_data_set_with_drawn_latents() -> None:
    """Under the empirical base R is a known mixture: Z is a finite sum of Gaussian integrals."""
    dim, scale, rows = 2, 0.3, 12
    world = GaussianWorld(mixed(dim), 0.1)
    generator = torch.Generator().manual_seed(0)
    data = world.sample(rows, generator)
    means = [x @ world.weight.T for x in data]
    z = means[0] + 0.1**0.5 * torch.randn(4000, rows, dim, generator=generator, dtype=torch.float64)
    spread = scale**2 + 0.1
    distance = torch.cdist(z, means[1].expand(4000, -1, -1)).square()
    log_z = dim * math.log(scale / spread**0.5) + (-0.5 * distance / spread).logsumexp(-1) - math.log(rows)
    log_f = -0.5 * ((means[0] - means[1]).square().sum(-1).mean() + 2 * dim * 0.1) / scale**2
    elbo = float(log_f - log_z.mean())

    case = Truth(world, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=scale)), elbo)
    model = case.model(rp.DatasetMarginal(*data))
    with torch.no_grad():
        for side, kind, sign in ((None, "upper", -1), ("upper", "upper", -1), ("lower", "lower", 1)):
            bounds = [model.elbo(*data, side=side, generator=generator) for _ in range(60)]
            assert {bound.kind for bound in bounds} == {kind}
            assert_below(sign * torch.tensor([float(b) for b in bounds]), sign * elbo, strict=True)


# What is not a bound, and why nothing here is labelled as one


def test_self_included_infonce_is_no_lower_bound_of_the_elbo() -> None:
    """D = 5, a lengthscale a quarter of the right one: the own row in Z hides how overconfident f is."""
    world = standard(5)
    case = Truth(world, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=0.05)), world.rbf(0.05))
    centre, error = mean(elbos(case, None, "estimate"))
    assert case.elbo < -150
    assert centre > case.elbo + 50
    assert centre - case.elbo > 20 * error
    # the side that is asked for by name does hold
    with pytest.warns(UserWarning, match="valid but vacuous"):
        lower = elbos(case, "lower", "lower")
    assert_below(lower, case.elbo, strict=False)


def test_leave_one_out_infonce_exceeds_what_it_estimates() -> None:
    """In D = 20 it passes I_inf and the MI itself, so it is an upper bound of the ELBO and none of the MI."""
    case = truth("rbf matched", 20)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        mi = case.model().mutual_information(*case.world.sample(SIZE, generator))
    assert (mi.estimate.kind, mi.estimate.ceiling) == ("estimate", None)
    assert float(mi.estimate) > case.world.mi() + 10 > case.elbo
    # with a critic that knows little it stays under the MI: no upper bound of the MI either
    weak = truth("bilinear soft", 20)
    centre, error = mean(elbos(weak, "upper", "upper"))
    assert weak.elbo < centre < weak.world.mi() - 20 * error


def test_an_independent_bank_is_no_bound_of_the_mi() -> None:
    case = truth("rbf matched", 20)
    generator = torch.Generator().manual_seed(0)
    model = case.model(rp.DatasetMarginal(*case.world.sample(SIZE, generator)))
    with torch.no_grad():
        recognised = model._recognised(case.world.sample(SIZE, generator), None, None, None, 1, None)
        bound = infinite_infonce(case.prior.coupling, recognised)  # type: ignore[arg-type]
        mi = model.mutual_information(*case.world.sample(SIZE, generator))
    assert float(bound) > case.world.mi()
    assert bound.kind == "estimate"
    assert mi.lower.kind == "lower"  # the library turns to the scored pairs instead
    assert float(mi.lower) <= math.log(SIZE) < case.world.mi()


def test_self_included_density_ratio_falls_on_either_side() -> None:
    above, below = truth("optimal", 5), truth("optimal", 20)
    assert mean(elbos(above, None, "estimate"))[0] > above.elbo + 0.5
    assert mean(elbos(below, None, "estimate"))[0] < below.elbo - 5


def test_importance_weighting_is_no_bound_with_estimated_marginals() -> None:
    case = truth("joint Gaussian good", 5)
    generator = torch.Generator().manual_seed(0)
    batch = case.world.sample(SIZE, generator)
    with torch.no_grad():
        sampled = case.model().log_marginal(*batch, num_samples=3, generator=generator)
        exact = case.model(rp.DatasetMarginal(*batch)).log_marginal(*batch, num_samples=3, generator=generator)
    assert (sampled.of, sampled.kind) == ("log_marginal", "estimate")
    assert exact.kind == "lower"
