"""Free posteriors and importance weighting in the linear-Gaussian world, where posterior and evidence are known."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import recparam as rp
from gaussian_world import GaussianWorld, KnownMarginal, mixed
from recparam.priors import Kind, Prior, Side
from recparam.recognition.posteriors import Family, Posterior
from test_posteriors import filled

close = torch.testing.assert_close
RHO, VARIANCE = 0.8, 0.3


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gaussian_world(dim: int = 2) -> GaussianWorld:
    return GaussianWorld(mixed(dim), VARIANCE)


def pairs(world: GaussianWorld, size: int = 6, *, seed: int = 0) -> list[Tensor]:
    return world.sample(size, torch.Generator().manual_seed(seed))


def exact_offsets(world: GaussianWorld, x: list[Tensor]) -> Tensor:
    """The exact posterior in the units of the recognition model: shift, log of L's diagonal, L below it."""
    mean, covariance = world.posterior(*x, RHO)
    recognised = torch.cat([part @ world.weight.T for part in x], 1)
    root = torch.linalg.cholesky(covariance) / VARIANCE**0.5
    below = root[*torch.tril_indices(*root.shape, offset=-1)]
    shape = torch.cat([root.diagonal().log(), below])
    return torch.cat([(mean - recognised) / VARIANCE**0.5, shape.expand(len(mean), -1)], 1)


def known(world: GaussianWorld, posterior: Posterior | None = None) -> rp.RPM:
    """The model with the world's own R(z)."""
    prior = rp.JointGaussianPrior(world.dim, correlation=RHO)
    return rp.RPM(world.recognition(), prior, posterior=posterior, marginal=KnownMarginal(world)).eval()


def test_the_closed_form_of_the_evidence_is_that_of_a_grid() -> None:
    world = gaussian_world(1)
    x, x_prime = pairs(world)
    step = 0.02
    axis = torch.arange(-8, 8, step)
    z = torch.cartesian_prod(axis, axis)
    log_prior = rp.JointGaussianPrior(1, correlation=RHO).double().log_prob(z[:, :1], z[:, 1:])
    marginal = MultivariateNormal(torch.zeros(1), world.marginal)
    log_ratio = log_prior - marginal.log_prob(z[:, :1]) - marginal.log_prob(z[:, 1:])
    means = torch.cat([x @ world.weight.T, x_prime @ world.weight.T], 1)
    log_r = MultivariateNormal(means[:, None], VARIANCE * torch.eye(2)).log_prob(z)  # (N, grid)
    integral = (log_r + log_ratio).logsumexp(1) + 2 * torch.tensor(step).log()
    evidence, (mean, covariance) = world.log_marginal(x, x_prime, RHO), world.posterior(x, x_prime, RHO)
    close(evidence, integral.detach(), rtol=0, atol=1e-6)
    weights = (log_r + log_ratio).softmax(1).detach()
    close(mean, weights @ z, rtol=0, atol=1e-6)
    centred = z - mean[0]
    close(covariance, (weights[0, :, None] * centred).T @ centred, rtol=0, atol=1e-6)


def test_at_the_exact_posterior_every_draw_gives_the_evidence() -> None:
    """The ratio of joint and posterior is constant, so that one draw does, of the ELBO and of Eq. 50."""
    world = gaussian_world()
    x = pairs(world)
    evidence = world.log_marginal(*x, RHO)
    model = known(world, filled(rp.PairPosterior(6, [2, 2], family="full gaussian"), exact_offsets(world, x)))
    for bound in (model.elbo(*x), model.log_marginal(*x), model.log_marginal(*x, num_samples=3)):
        close(bound.per_observation, evidence, rtol=0, atol=1e-9)
    assert (model.elbo(*x).kind, model.log_marginal(*x, num_samples=3).kind) == ("exact", "lower")


@pytest.mark.parametrize("family", ["gaussian", "full gaussian"])
def test_the_elbo_of_any_gaussian_is_the_evidence_less_its_divergence(family: Family) -> None:
    world = gaussian_world()
    x = pairs(world)
    evidence, (mean, covariance) = world.log_marginal(*x, RHO), world.posterior(*x, RHO)
    torch.manual_seed(0)
    posterior = rp.PairPosterior(6, [2, 2], family=family)
    offsets = 0.4 * torch.randn_like(posterior.offsets)
    lower = offsets[:, 4:8].exp().diag_embed()
    lower[:, *torch.tril_indices(4, 4, offset=-1)] = offsets[:, 8:] if family == "full gaussian" else 0.0
    recognised = torch.cat([part @ world.weight.T for part in x], 1)
    q = MultivariateNormal(recognised + VARIANCE**0.5 * offsets[:, :4], scale_tril=VARIANCE**0.5 * lower)
    truth = evidence - kl_divergence(q, MultivariateNormal(mean, covariance))
    model = known(world, filled(posterior, offsets))
    with torch.no_grad():
        draws = torch.stack([model.elbo(*x, num_samples=200).per_observation for _ in range(30)])
    assert bool(((draws.mean(0) - truth).abs() < 4 * draws.std(0) / 30**0.5).all())
    assert float(draws.std(0).max()) < 0.5
    assert float((evidence - truth).min()) > 0.05


@pytest.mark.parametrize("amortised", [False, True], ids=["per pair", "amortised"])
def test_the_optimum_is_the_exact_gaussian_posterior(*, amortised: bool) -> None:
    """In the amortised case too: mean and covariance of the posterior are affine functions of (x, x')."""
    world = gaussian_world()
    x = pairs(world, 16)
    posterior: Posterior = rp.PairPosterior(16, [2, 2], family="full gaussian")
    if amortised:
        net = rp.MLP(4, 14, hidden=())
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        posterior = rp.AmortisedPosterior(net, family="full gaussian")
    model = known(world, posterior)
    assert float(model.posterior_gap(*x, num_samples=200).value.detach()) == pytest.approx(0, abs=0.2)
    optimiser = torch.optim.Adam(posterior.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.01, 150)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimiser.zero_grad()
        (-model.elbo(*x, num_samples=64, generator=generator).per_observation.sum()).backward()
        optimiser.step()
        schedule.step()
    evidence = world.log_marginal(*x, RHO)
    close(model.elbo(*x, num_samples=2000).per_observation, evidence, rtol=0, atol=0.02)
    truth = known(world).elbo(*x, num_samples=4000).value.detach()
    gap = model.posterior_gap(*x, num_samples=4000)
    assert float(gap) == pytest.approx(float(evidence.mean() - truth), abs=0.05) and float(gap) > 0.3


def test_gradients_are_those_of_finite_differences() -> None:
    """With the same draws the value is a smooth function of psi, phi and theta."""
    world = gaussian_world(1)
    x = pairs(world, 4)
    torch.manual_seed(0)
    posterior = rp.AmortisedPosterior(rp.MLP(2, 5, hidden=(2,), activation=nn.Tanh), family="full gaussian")
    model = rp.RPM(rp.Gaussian(nn.Linear(1, 2)), rp.JointGaussianPrior(1), posterior=posterior)
    parameters = list(model.parameters())
    for quantity, marginal in ((model.elbo, rp.BatchMarginal()), (model.log_marginal, rp.DatasetMarginal(*x))):
        model.marginal = marginal

        def value(quantity: Callable[..., rp.Bound] = quantity) -> Tensor:
            return quantity(*x, num_samples=2, generator=torch.Generator().manual_seed(1)).value

        for parameter, gradient in zip(parameters, torch.autograd.grad(value(), parameters), strict=True):
            for at in range(parameter.numel()):
                flat, ends = parameter.detach().view(-1), []
                for step in (1e-5, -2e-5):
                    flat[at] += step
                    ends.append(float(value().detach()))
                flat[at] += 1e-5
                assert float(gradient.view(-1)[at]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)


# Importance weighting


def test_importance_weighting_is_a_lower_bound_that_rises_with_k() -> None:
    """With exact marginals, from either proposal; the nearer Q is to the posterior, the nearer the bound."""
    world = gaussian_world()
    x = pairs(world, 200)
    evidence = float(world.log_marginal(*x, RHO).mean())
    offsets = exact_offsets(world, x)
    halfway = filled(rp.PairPosterior(200, [2, 2], family="full gaussian"), 0.5 * offsets)
    generator = torch.Generator().manual_seed(0)
    found: list[list[float]] = []
    for model in (known(world), known(world, halfway)):
        means = []
        for k in (1, 4, 16, 64):
            with torch.no_grad():
                bounds = [model.log_marginal(*x, num_samples=k, generator=generator) for _ in range(20)]
                assert {bound.kind for bound in bounds} == {"lower"}
                values = torch.stack([bound.value for bound in bounds])
            means.append(float(values.mean()))
            assert means[-1] < evidence + 3 * float(values.std()) / 20**0.5
        assert means == sorted(means)
        with torch.no_grad():
            elbo = float(model.elbo(*x, num_samples=80, generator=generator))
        assert means[0] == pytest.approx(elbo, abs=0.05)  # one draw is the ELBO
        assert evidence - means[-1] < 0.2 * (evidence - means[0])
        found.append(means)
    assert all(near > far for far, near in zip(*found, strict=True))


def test_with_estimated_marginals_importance_weighting_exceeds_the_evidence() -> None:
    """The naive claim fails: log of a mean of 1 / Rhat has a bias upwards that no K removes."""
    world = gaussian_world(5)
    prior = rp.JointGaussianPrior(5, correlation=RHO)
    generator = torch.Generator().manual_seed(0)
    differences = []
    with torch.no_grad():
        for _ in range(20):
            x = world.sample(32, generator)
            bound = rp.RPM(world.recognition(), prior).log_marginal(
                *x, num_samples=64, side="upper", generator=generator
            )
            assert (bound.kind, bound.ceiling) == ("estimate", None)
            differences.append(float(bound) - float(world.log_marginal(*x, RHO).mean()))
    excess = torch.tensor(differences)
    assert float(excess.mean()) > 1 + 3 * float(excess.std()) / 20**0.5


@pytest.mark.parametrize("prior", [rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)), rp.OptimalPrior()], ids=["Z", "R"])
def test_kinds_of_importance_weighted_values(prior: Prior) -> None:
    """A sampled Z makes any direction uncertain; exact marginals, and an exact R(z, z'), leave Jensen's alone."""
    world = gaussian_world()
    x = pairs(world, 8)
    torch.manual_seed(0)
    for posterior in (None, rp.AmortisedPosterior(rp.MLP(4, 8))):
        model = rp.RPM(world.recognition(), prior, posterior=posterior, marginal=rp.DatasetMarginal(*x))
        expected = "estimate" if isinstance(prior, rp.InfoNCEPrior) else "lower"
        assert model.log_marginal(*x, num_samples=3).kind == expected
        assert rp.RPM(world.recognition(), prior, posterior=posterior).log_marginal(*x).kind == "estimate"


# Directions with a free Q


def amortised(world: GaussianWorld, shift: float) -> rp.AmortisedPosterior:
    """A fixed Q with a shift of `shift` standard deviations of R in every latent, and half its width."""
    net = rp.MLP(2 * world.dim, 4 * world.dim, hidden=())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        list(net.parameters())[1][: 2 * world.dim] = shift
        list(net.parameters())[1][2 * world.dim :] = -0.7
    return rp.AmortisedPosterior(net)


def values(model: rp.RPM, world: GaussianWorld, side: Side, kind: Kind, *, size: int = 16) -> Tensor:
    generator, found = torch.Generator().manual_seed(1), []
    with torch.no_grad():
        for _ in range(30):
            bound = model.elbo(*world.sample(size, generator), side=side, num_samples=4, generator=generator)
            assert (bound.of, bound.kind, bound.ceiling) == ("elbo", kind, None)
            found.append(float(bound))
    return torch.tensor(found)


DIRECTED: dict[str, Prior] = {
    "joint Gaussian": rp.JointGaussianPrior(5, correlation=RHO),
    "InfoNCE": rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)),
}


def truth(prior: Prior, world: GaussianWorld, shift: float) -> float:
    """The ELBO with R(z) and Z(z) in closed form, over 20,000 pairs."""
    model = rp.RPM(world.recognition(), prior, posterior=amortised(world, shift), marginal=KnownMarginal(world))
    with torch.no_grad():
        return float(model.elbo(*world.sample(20_000, torch.Generator().manual_seed(7))))


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("name", DIRECTED)
def test_leave_one_out_is_an_upper_bound(name: str, shift: float) -> None:
    world = gaussian_world(5)
    model = rp.RPM(world.recognition(), DIRECTED[name], posterior=amortised(world, shift)).double()
    got = values(model, world, "upper", "upper")
    assert float(got.mean()) - truth(DIRECTED[name].double(), world, shift) > 3 * float(got.std()) / 30**0.5


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_lower_side_of_infonce_holds_at_any_latents(shift: float) -> None:
    world, prior = gaussian_world(5), DIRECTED["InfoNCE"].double()
    model = rp.RPM(world.recognition(), prior, posterior=amortised(world, shift))
    got = values(model, world, "lower", "lower", size=64)
    assert truth(prior, world, shift) - float(got.mean()) > 3 * float(got.std()) / 30**0.5


def test_self_included_mixtures_are_no_lower_bound_with_a_free_posterior() -> None:
    """With Q = R they are; latents of another Q are no draws from the bank's mixture, and then they are not."""
    world, prior = gaussian_world(5), DIRECTED["joint Gaussian"].double()
    for side in (None, "lower"):
        model = rp.RPM(world.recognition(), prior, posterior=amortised(world, 1.5))
        got = values(model, world, side, "estimate")
        assert float(got.mean()) - truth(prior, world, 1.5) > 3 * float(got.std()) / 30**0.5


def test_labels_of_the_optimal_prior_and_of_dependent_rows() -> None:
    world = gaussian_world()
    x = pairs(world, 8)
    torch.manual_seed(0)
    posterior = rp.AmortisedPosterior(rp.MLP(4, 8))
    for side in (None, "upper", "lower"):
        model = rp.RPM(world.recognition(), rp.OptimalPrior(), posterior=posterior)
        assert model.elbo(*x, side=side).kind == "estimate"
    model = rp.RPM(world.recognition(), rp.JointGaussianPrior(2), posterior=posterior)
    labels = rp.Labels(identities=torch.tensor([0, 0, 1, 2, 3, 4, 5, 6]))
    assert [model.elbo(*x, side=side, labels=labels).kind for side in (None, "upper", "lower")] == [
        "estimate",
        "upper",
        "estimate",
    ]
    model.marginal = rp.DatasetMarginal(*x)
    assert model.elbo(*x).kind == "exact" and model.posterior_gap(*x).kind == "exact"
    model.marginal = rp.BatchMarginal()
    assert model.posterior_gap(*x, side="upper").kind == "estimate"
