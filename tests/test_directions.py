"""Every number labelled a bound lies on its side of the closed-form truth, and the naive claims fail as said."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import recparam as rp
from gaussian_world import GaussianWorld, mixed, standard
from recparam.bounds import infinite_infonce
from recparam.marginals import Marginal
from recparam.marginals.joint import Situation
from recparam.priors import Prior, Side, directions

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


@pytest.mark.parametrize("bank", [False, True])
@pytest.mark.parametrize(("dim", "strict"), [(1, False), (5, True), (20, True)])
def test_the_lower_side_of_infonce_bounds_the_mi_too(dim: int, strict: bool, bank: bool) -> None:
    """By its own label, with the batch as bank or other data, and without a ceiling."""
    case = truth("rbf matched", dim)
    assert isinstance(case.prior, rp.InfoNCEPrior)
    model, generator, values = case.model(), torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(BATCHES):
            if bank:
                model.marginal = rp.DatasetMarginal(*case.world.sample(SIZE, generator))
            recognised = model._recognised(case.world.sample(SIZE, generator), {})
            bound = infinite_infonce(case.prior.coupling, recognised, side="lower")
            assert (bound.of, bound.kind, bound.ceiling) == ("mi", "lower", None)
            values.append(float(bound))
    assert_below(torch.tensor(values, dtype=torch.float64), case.world.mi(), strict=strict)


# Three observations: total correlation in place of the MI, and twice the ceiling


def test_a_chain_of_three_has_twice_the_elbo() -> None:
    case = truth("rbf matched", 5)
    assert_below(-elbos(case, "upper", "upper", steps=3), -2 * case.elbo, strict=True)
    assert_below(elbos(case, "lower", "lower", steps=3), 2 * case.elbo, strict=True)
    elbos(case, None, "estimate", steps=3)  # stays under its ceiling, 2 log B


@pytest.mark.parametrize("name", ["rbf matched", "rbf overconfident", "bilinear sharp"])
def test_infonce_of_a_chain_bounds_the_total_correlation(name: str) -> None:
    case = truth(name, 5)
    model, generator, values = case.model(), torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(BATCHES):
            mi = model.mutual_information(*case.world.sample(SIZE, generator, steps=3))
            assert (mi.lower.of, mi.lower.kind, mi.estimate.kind, mi.upper) == ("mi", "lower", "estimate", None)
            assert mi.lower.ceiling == pytest.approx(2 * math.log(SIZE))
            assert float(mi.lower) <= 2 * math.log(SIZE) + 1e-9
            values.append(float(mi.lower))
    assert_below(torch.tensor(values), case.world.total_correlation(3), strict=True)
    assert max(values) > math.log(SIZE) or name != "rbf matched"  # more than a pair could show


@pytest.mark.parametrize("rho", [0.9, 0.3])
def test_joint_prior_of_a_chain_is_enclosed(rho: float) -> None:
    world = GaussianWorld(mixed(5), 0.1)
    case = Truth(world, rp.JointGaussianPrior(5, correlation=rho), world.joint_gaussian(rho, steps=3))
    sides: list[Side] = [None, "lower"]
    for side in sides:
        lower = elbos(case, side, "lower", steps=3)
        assert_below(lower, case.elbo, strict=True)
        assert_below(lower, 2 * math.log(SIZE), strict=False)
    assert_below(-elbos(case, "upper", "upper", steps=3), -case.elbo, strict=True)


def test_optimal_prior_of_a_chain_is_enclosed() -> None:
    """The latents of a stochastic encoder are no Markov chain: the joint mixture has to hold all three."""
    world = GaussianWorld(mixed(3), 0.1)
    case = Truth(world, rp.OptimalPrior(), world.total_correlation(3))
    assert case.elbo > 2 * world.mi() + 0.01
    assert_below(elbos(case, "lower", "lower", steps=3), case.elbo, strict=True)
    assert_below(-elbos(case, "upper", "upper", steps=3), -case.elbo, strict=True)
    elbos(case, None, "estimate", steps=3)


def test_a_joint_prior_stays_below_its_ceiling() -> None:
    """In D = 20 the self-included value is log B and the ELBO far above it; a single batch may pass it by its draws."""
    case = truth("joint Gaussian good", 20)
    values = elbos(case, None, "lower")
    assert case.elbo > math.log(SIZE) + 3
    assert_below(values, math.log(SIZE), strict=False)
    with torch.no_grad():
        bound = case.model().elbo(*case.world.sample(SIZE, torch.Generator().manual_seed(0)))
    assert bound.ceiling == pytest.approx(math.log(SIZE))


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
    # nor is it an upper one: where there is more than log B to show, it stops there
    rich = truth("rbf matched", 20)
    assert mean(elbos(rich, None, "estimate"))[0] < math.log(SIZE) + 1e-9 < rich.elbo - 5
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
        recognised = model._recognised(case.world.sample(SIZE, generator), {})
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


@pytest.mark.parametrize(("dim", "rho"), [(5, 0.9), (5, 0.3)])
def test_importance_weighting_is_no_bound_with_estimated_marginals(dim: int, rho: float) -> None:
    """Eq. 50 with K draws is below the log-likelihood only if R(z) is exact: left out of the bank it is above."""
    world, generator = GaussianWorld(mixed(dim), 0.1), torch.Generator().manual_seed(0)
    model = rp.RPM(world.recognition(), rp.JointGaussianPrior(dim, correlation=rho)).double()
    excess = []
    with torch.no_grad():
        for _ in range(BATCHES):
            batch = world.sample(SIZE, generator)
            for side in ("upper", None):
                bound = model.log_marginal(*batch, side=side, num_samples=10, generator=generator)
                assert (bound.of, bound.kind, bound.ceiling) == ("log_marginal", "estimate", None)
                if side == "upper":
                    excess.append(float(bound) - float(world.log_marginal(*batch, rho).mean()))
    assert_below(-torch.tensor(excess), -1.0, strict=True)


class Quadrature(NamedTuple):
    """A data set of 12 pairs in one dimension, and its exact values by Gauss-Hermite sums under its own base."""

    world: GaussianWorld
    data: list[Tensor]
    elbo: dict[str, float]
    log_marginal: dict[str, float]


@cache
def quadrature(rho: float = 0.8, rows: int = 12, nodes: int = 60) -> Quadrature:
    world = standard(1, variance=0.1)
    data = world.sample(rows, torch.Generator().manual_seed(0))
    points, mass = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(nodes))
    z, z_prime = (x + 0.2**0.5 * points for x in data)  # (rows, nodes)
    log_mass = (mass / math.pi**0.5).log()
    scale = math.log(2 * math.pi * 0.1)
    near, near_prime = ((at[..., None] - x[:, 0]).square() / 0.1 for at, x in zip((z, z_prime), data, strict=True))
    log_r, log_r_prime = ((-0.5 * (part + scale)).logsumexp(-1) - math.log(rows) for part in (near, near_prime))
    product = log_r[:, :, None] + log_r_prime[:, None, :]
    log_r_joint = (-0.5 * (near[:, :, None] + near_prime[:, None] + 2 * scale)).logsumexp(-1) - math.log(rows)
    a, b = z[:, :, None], z_prime[:, None, :]
    log_prior = -0.5 * (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2) - 0.5 * math.log(1 - rho**2)
    ratios = {"joint Gaussian": log_prior - math.log(2 * math.pi) - product, "optimal": log_r_joint - product}
    pairs = log_mass[:, None] + log_mass
    elbo = {name: float((pairs.exp() * ratio).sum((1, 2)).mean()) for name, ratio in ratios.items()}
    evidence = {name: float((pairs + ratio).logsumexp((1, 2)).mean()) for name, ratio in ratios.items()}
    return Quadrature(world, data, elbo, evidence)


@pytest.mark.parametrize("name", ["joint Gaussian", "optimal"])
def test_over_the_whole_data_set_drawn_latents_are_exact_and_importance_weights_below(name: str) -> None:
    exact, coarse = quadrature(), quadrature(nodes=40)
    assert exact.elbo[name] == pytest.approx(coarse.elbo[name], abs=1e-6)
    prior = rp.JointGaussianPrior(1, correlation=0.8) if name == "joint Gaussian" else rp.OptimalPrior()
    marginal = rp.DatasetMarginal(*exact.data)
    model = rp.RPM(exact.world.recognition(), prior, marginal=marginal).double()
    generator = torch.Generator().manual_seed(0)
    sides: list[Side] = [None, "upper", "lower"]
    with torch.no_grad():
        for side in sides:
            bounds = [model.elbo(*exact.data, side=side, num_samples=20, generator=generator) for _ in range(8)]
            centre, error = mean(torch.tensor([float(bound) for bound in bounds]))
            assert {bound.kind for bound in bounds} == {"exact"}
            assert abs(centre - exact.elbo[name]) < 4 * error < 0.1
        means = []
        for draws in (1, 3, 30):
            values = [model.log_marginal(*exact.data, num_samples=draws, generator=generator) for _ in range(30)]
            assert {(value.of, value.kind) for value in values} == {("log_marginal", "lower")}
            numbers = torch.tensor([float(value) for value in values])
            assert_below(numbers, exact.log_marginal[name], strict=draws == 1)
            means.append(float(numbers.mean()))
    assert means == sorted(means)
    assert exact.log_marginal[name] - means[-1] < 0.3 * (exact.log_marginal[name] - exact.elbo[name])


def test_a_fit_to_the_scored_batch_is_no_bound() -> None:
    """Directions are for parameters that do not depend on the scored rows: MI = 0, and the fit shows log B."""
    generator = torch.Generator().manual_seed(0)
    x, x_prime, new, new_prime = (torch.randn(16, 64, generator=generator, dtype=torch.float64) for _ in range(4))
    theta = 20 * torch.linalg.pinv(x) @ torch.linalg.pinv(x_prime).T
    model = rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(rp.Bilinear(64, theta=theta))).double()
    with torch.no_grad():
        fitted = model.mutual_information(x, x_prime).lower
        assert fitted.kind == "lower"
        assert float(fitted) > 2.7  # of log 16 = 2.77
        assert float(model.mutual_information(new, new_prime).lower) < 0


# Series: neighbours in time share information


def series(world: GaussianWorld, frames: int, generator: torch.Generator) -> list[Tensor]:
    """Pairs (x_t, x_t+1) of consecutive frames of one recording, whose correlation is rho^k at k frames."""
    frames_SD = torch.cat(world.sample(1, generator, steps=frames + 1))
    return [frames_SD[:-1], frames_SD[1:]]


@pytest.mark.parametrize("bank", ["neighbours", "window", "other recording"])
def test_leave_one_out_of_a_series_needs_a_window_or_other_sessions(bank: str) -> None:
    """Neighbours left in have latents near the own positive: Zhat is too large, and the value below the ELBO."""
    case, frames = truth("rbf matched", 3), 160 if bank == "window" else 32
    generator, values = torch.Generator().manual_seed(0), []
    here, elsewhere = (
        rp.Labels(times=torch.arange(frames), sessions=torch.full((frames,), session)) for session in (0, 7)
    )
    with torch.no_grad():
        for _ in range(40):
            batch = series(case.world, frames, generator)
            marginal: Marginal = rp.BatchMarginal(exclude_within=40.0 if bank == "window" else None)
            if bank == "other recording":
                marginal = rp.DatasetMarginal(*series(case.world, frames, generator), labels=elsewhere)
            bound = case.model(marginal).elbo(*batch, side="upper", labels=here)
            assert (bound.of, bound.kind) == ("elbo", "estimate" if bank == "neighbours" else "upper")
            values.append(float(bound))
    sign = 1 if bank == "neighbours" else -1
    assert_below(sign * torch.tensor(values, dtype=torch.float64), sign * case.elbo, strict=True)


def test_rows_with_times_are_a_series() -> None:
    """Only what was said is known: without labels the same rows are taken to be independent."""
    case, generator = truth("rbf matched", 3), torch.Generator().manual_seed(0)
    batch, other = (series(case.world, 16, generator) for _ in range(2))
    times, ones, apart = torch.arange(16), torch.zeros(16, dtype=torch.long), torch.arange(16)
    model = case.model()
    sides: list[Side] = ["upper", "lower"]
    for side in sides:
        assert model.elbo(*batch, side=side).kind == side
        assert model.elbo(*batch, side=side, labels=rp.Labels(times=times)).kind == "estimate"
        assert model.elbo(*batch, side=side, labels=rp.Labels(times=times, sessions=ones)).kind == "estimate"
        assert model.elbo(*batch, side=side, labels=rp.Labels(times=times, sessions=apart)).kind == side
    assert model.mutual_information(*batch, labels=rp.Labels(times=times)).lower.kind == "estimate"
    model.marginal = rp.DatasetMarginal(*other, labels=rp.Labels(times=times, sessions=ones))
    assert model.elbo(*batch, side="upper", labels=rp.Labels(times=times, sessions=ones)).kind == "estimate"
    assert model.elbo(*batch, side="upper", labels=rp.Labels(times=times, sessions=ones + 1)).kind == "upper"
    assert model.elbo(*batch, side="lower", labels=rp.Labels(times=times, sessions=ones + 1)).kind == "estimate"
    assert model.elbo(*other).kind == "exact"
    # a bank of one frame of each recording: independent of each other, not of the scored frames
    model.marginal = rp.DatasetMarginal(*other, labels=rp.Labels(times=times, sessions=apart))
    assert model.elbo(*batch, side="upper", labels=rp.Labels(times=times, sessions=apart)).kind == "estimate"


def test_the_printed_table_is_the_one_that_counts() -> None:
    """The table in the docstring of the module says what `direction` answers."""
    families = {"InfoNCE": "infonce", "density of its own": "density", "optimal": "optimal"}
    banks = {
        "whole data set": ["exact"],
        "whole data set, latents drawn": ["exact_sampled"],
        "whole data set, also drawn": ["exact", "exact_sampled"],
        "holds the scored rows": ["batch"],
        "other rows": ["independent"],
    }
    rows = [line.strip("| ").split(" | ") for line in (directions.__doc__ or "").splitlines() if line[:2] in ("| ",)]
    family, seen = "", 0
    for cells in rows[1:]:
        if len(cells) == 5:
            family = families[cells[0]]
        bank, *sides = cells[-4:]
        for situation in banks[bank.strip("| ")]:
            for side, said in zip((None, "upper", "lower"), sides, strict=True):
                seen += 1
                if said == "refused":
                    with pytest.raises(ValueError, match="Expected side="):
                        directions.direction(family, Situation(situation), side)
                    continue
                entry = directions.direction(family, Situation(situation), side)
                assert entry.kind == said.split(",")[0]
                if bank != "other rows":  # which has no own row
                    assert (entry.own != "kept") == any(word in said for word in ("left out", "fresh"))
    assert seen == 3 * 3 * 4
