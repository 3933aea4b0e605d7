"""The library against exact sums over a finite world: no sampling anywhere, agreement to 1e-10."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from finite_world import FiniteWorld, cells, random_base
from recparam import bounds
from recparam.couplings import Coupling
from recparam.marginals import Recognised
from recparam.marginals.bank import Queries
from recparam.priors import JointCategoricalPrior, Prior
from recparam.recognition import recognise

SEEDS = [0, 1, 2]
PRIORS = ["bilinear", "sum", "rbf", "optimal", "table"]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class OneHotMLP(nn.Module):
    """A small network on one-hot observations."""

    def __init__(self, values: int, outputs: int) -> None:
        super().__init__()
        self.values = values
        self.layers = nn.Sequential(nn.Linear(values, 5), nn.Tanh(), nn.Linear(5, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(nn.functional.one_hot(x, self.values).to(torch.get_default_dtype()))


@dataclass
class Case:
    """The same random world twice: as the library's objects, and as the oracle's tables."""

    networks: list[nn.Module]
    base: Tensor
    widths: tuple[int, ...]
    deterministic: bool = False

    @property
    def world(self) -> FiniteWorld:
        with torch.no_grad():
            return self.differentiable_world()

    def differentiable_world(self) -> FiniteWorld:
        sizes = self.base.shape
        tables = [self.networks[j % len(self.networks)](torch.arange(size)) for j, size in enumerate(sizes)]
        return FiniteWorld(self.base, [t if self.deterministic else t.softmax(-1) for t in tables])

    @property
    def observations(self) -> list[Tensor]:
        return cells(self.base)[0]

    def model(self, prior: Prior) -> rp.RPM:
        kind = rp.Deterministic if self.deterministic else rp.Categorical
        models = [kind(network) for network in self.networks]
        observations, weights = cells(self.base)
        marginal = rp.DatasetMarginal(*observations, weights=weights)
        return rp.RPM(models[0] if len(models) == 1 else models, prior, marginal=marginal).eval()


def make_case(seed: int, *, views: int = 2, deterministic: bool = False) -> Case:
    """Even seeds: one small embedding per view, all sizes different. Odd seeds: a shared MLP."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if seed % 2:
        values, outputs = (4, 3) if views == 2 else (2, 3)
        networks: list[nn.Module] = [OneHotMLP(values, outputs)]
        base, widths = random_base(generator, *[values] * views), (outputs,) * views
    else:
        sizes, widths = ((4, 3), (3, 2)) if views == 2 else ((3, 2, 2), (2, 2, 2))
        networks = [nn.Embedding(x, z) for x, z in zip(sizes, widths, strict=True)]
        base = random_base(generator, *sizes, empty=min(seed // 2, 2))  # from seed 2 on, some cells are empty
    if deterministic:
        assert not seed % 2
        networks = [
            nn.Embedding.from_pretrained(torch.eye(z)[torch.randint(z, (x,))])
            for x, z in zip(base.shape, widths, strict=True)
        ]
    else:
        with torch.no_grad():  # sharper than the usual initialisation, so that no quantity is near zero
            for parameter in (p for network in networks for p in network.parameters()):
                parameter.mul_(3)
    return Case(networks, base, widths, deterministic)


def make_coupling(name: str, widths: tuple[int, ...]) -> tuple[Coupling, Tensor]:
    """A random coupling and its log f table over one-hot latents, written out by hand."""
    d, d_prime = widths[:2]
    theta = 2 * torch.randn(d, d_prime)
    if name == "bilinear":
        return rp.Bilinear(d, d_prime, theta=theta), theta
    # On dimensions 0 and 1 of both latents a one-hot vector is e_0, e_1 or zero, with these squared distances.
    scale = torch.rand(2) + 0.5
    rbf = rp.OnDimensions(rp.GaussianRBF(scale), [0, 1])
    at = torch.zeros(d, d_prime)
    for k in range(d):
        for m in range(d_prime):
            for i in range(2):
                at[k, m] -= 0.5 * ((k == i) != (m == i)) / scale[i] ** 2
    if name == "rbf":
        return rbf, at
    # A bilinear part that reads z_1, z_0 and z'_1 only: theta's rows in that order.
    part = torch.randn(2, 1)
    table = torch.zeros(d, d_prime)
    table[1, 1], table[0, 1] = part[0, 0], part[1, 0]
    bilinear = rp.OnDimensions(rp.Bilinear(2, 1, theta=part), [1, 0], dims_prime=[1])
    return rp.CouplingSum([rbf, bilinear, rp.Bilinear(d, d_prime, theta=theta)]), at + table + theta


def make_prior(name: str, case: Case) -> tuple[Prior, Tensor]:
    """A random prior and its table P(z, z'), ... from the oracle."""
    world = case.world
    if name == "optimal":
        return rp.OptimalPrior(), world.joint().detach()
    if name == "table":
        prior = JointCategoricalPrior(*case.widths)
        with torch.no_grad():
            prior.logits.copy_(2 * torch.randn(case.widths))
        return prior, prior.logits.detach().flatten().softmax(0).reshape(case.widths)
    coupling, log_f = make_coupling(name, case.widths)
    return rp.InfoNCEPrior(coupling), world.infonce_prior([log_f] * (len(case.widths) - 1)).detach()


def close(value: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(value.detach(), torch.as_tensor(expected).detach(), rtol=0, atol=1e-10)


def every_case(views: int = 2) -> list[Case]:
    return [make_case(seed, views=views) for seed in SEEDS]


def all_pairs(case: Case) -> tuple[rp.RecognitionJoint, tuple[Tensor, ...]]:
    """The recognition joint, and every (z, z') as one-hot queries (1, K K', ...)."""
    observations, weights = cells(case.base)
    model = case.model(rp.OptimalPrior())
    distributions = [model.encode(x, index=j) for j, x in enumerate(observations)]
    joint = rp.RecognitionJoint(rp.Bank(distributions, recognise(distributions), weights=weights), situation="exact")
    index = torch.cartesian_prod(*(torch.arange(width) for width in case.widths)).unbind(1)
    return joint, tuple(torch.eye(width)[i][None] for width, i in zip(case.widths, index, strict=True))


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_elbo_is_below_the_evidence_by_the_divergence_from_the_posterior(seed: int, prior_name: str) -> None:
    """Eq. 1: log P(x, x') - L(x, x') = KL(Q || P(z, z'|x, x')) >= 0, for every observation."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    model, world = case.model(prior), case.world
    elbo = model.elbo(*case.observations).per_observation + world.const().flatten()
    evidence = model.log_marginal(*case.observations).per_observation + world.const().flatten()
    close(elbo, world.elbo(table).flatten())
    close(evidence, world.evidence(table).log().flatten())
    close(evidence - elbo, world.gap(table).flatten())
    assert bool((evidence - elbo >= 0).all()) and float((evidence - elbo).detach().max()) > 1e-3


@pytest.mark.parametrize("views", [2, 3])
def test_the_recognition_joint_and_its_marginals(views: int) -> None:
    """Eqs. 3, 4 and 11: R(z, z', ...) and every R(z_j) of the bank are the sums over all observations."""
    for case in every_case(views):
        joint, latents = all_pairs(case)
        world = case.world
        close(joint.log_joint(latents)[0].exp(), world.joint().flatten())
        everything = world.everything()
        close(everything.sum(), 1.0)
        for j, z in enumerate(latents):
            got = joint.log_marginal(j, z)[0].exp().reshape(case.widths)
            others = tuple(axis for axis in range(views) if axis != j)
            close((got - world.marginal(j).reshape([-1 if a == j else 1 for a in range(views)])).abs().max(), 0.0)
            close(world.marginal(j), everything.sum(world.x_axes).sum(others))


@pytest.mark.parametrize("views", [2, 3])
def test_mutual_information(views: int) -> None:
    """Eqs. 5 and 20: the MI (both lines of Eq. 5; total correlation for J = 3), exact on both sides."""
    for case in every_case(views):
        world, model = case.world, case.model(rp.OptimalPrior())
        mi = model.mutual_information(*case.observations)
        assert mi.upper is not None
        for bound in (mi.lower, mi.estimate, mi.upper):
            close(bound.value, world.mutual_information())
            assert bound.of == "mi" and bound.kind == "exact"
            assert bound.ceiling is not None and float(bound) <= bound.ceiling
        close(model.elbo(*case.observations).value, world.mutual_information())
        if views == 2:
            conditional = world.joint() / world.marginal(0)[:, None]
            close(mi.estimate.value, (world.joint() * (conditional / world.marginal(1)).log()).sum())


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_mean_elbo(seed: int, prior_name: str) -> None:
    """Eqs. 15 and 16: the ELBO per observation and its mean under R_base(x, x')."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    bound, world = case.model(prior).elbo(*case.observations), case.world
    close(bound.per_observation, (world.elbo(table) - world.const()).flatten())
    close(bound.value, world.mean_elbo(table))
    close(bound.value, (case.base * (world.elbo(table) - world.const())).sum())
    close(torch.stack(list(bound.terms.values())).sum(), bound.value)
    assert bound.of == "elbo" and bound.kind == "exact"
    assert bound.ceiling is not None and float(bound) <= bound.ceiling


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_elbo_is_mutual_information_less_a_divergence(seed: int, prior_name: str) -> None:
    """Eqs. 17, 18 and 19: L - const = MI - KL, and the KL vanishes for the optimal prior alone."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    parts, world = case.model(prior).decompose(*case.observations), case.world
    close(parts.mi.value, world.mutual_information())
    close(parts.kl.value, world.divergence(table))
    close(parts.elbo.value, parts.mi.value - parts.kl.value)
    assert (parts.elbo.kind, parts.mi.kind, parts.kl.kind) == ("exact", "exact", "exact")
    if prior_name == "optimal":
        close(parts.kl.value, 0.0)
    else:
        assert float(parts.kl) > 1e-3


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("prior_name", PRIORS)
def test_the_log_ratio_is_that_of_a_normalised_prior(prior_name: str, views: int) -> None:
    """Eqs. 21 and 22 (and 19): exp(l) R(z) R(z') is the prior's table, sums to one, and P(z) = R(z)."""
    for case in every_case(views):
        prior, table = make_prior(prior_name, case)
        observations, weights = cells(case.base)
        model, world = case.model(prior), case.world
        distributions = [model.encode(x, index=j) for j, x in enumerate(observations)]
        particles = recognise(distributions)
        joint = rp.RecognitionJoint(rp.Bank(distributions, particles, weights=weights), situation="exact")
        terms = prior.terms(Recognised(particles, joint, Queries(torch.arange(len(weights))), weights))
        log_ratio = terms.log_ratio  # (S, B): every z, z' by every observation
        close(torch.stack(list(terms.named.values())).sum(0), log_ratio)
        close(log_ratio, log_ratio[:, :1].expand_as(log_ratio))
        got = log_ratio[:, 0].reshape(case.widths).exp() * world.product_of_marginals()
        close(got, table)
        close(got.sum(), 1.0)
        if prior_name not in ("table",):
            close(got.flatten(1).sum(1), world.marginal(0))


@pytest.mark.parametrize("name", ["bilinear", "sum", "rbf"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_infonce_elbo_is_infinite_infonce(seed: int, name: str) -> None:
    """Eqs. 23, 24 and 25: the ELBO of the InfoNCE prior is the infinite-sample objective; Eq. 7: below the MI."""
    case = make_case(seed)
    coupling, log_f = make_coupling(name, case.widths)
    model, world = case.model(rp.InfoNCEPrior(coupling)), case.world
    elbo = model.elbo(*case.observations)
    close(elbo.value, world.infinite_infonce(log_f))
    close(elbo.terms["log_f"], (world.joint() * log_f).sum())
    log_z = (log_f.exp() * world.marginal(1)).sum(1).log()
    close(elbo.terms["minus_log_Z"], -(world.marginal(0) * log_z).sum())

    observations, weights = cells(case.base)
    distributions = [model.encode(x, index=j) for j, x in enumerate(observations)]
    particles = recognise(distributions)
    joint = rp.RecognitionJoint(rp.Bank(distributions, particles, weights=weights), situation="exact")
    objective = bounds.infinite_infonce(
        coupling, Recognised(particles, joint, Queries(torch.arange(len(weights))), weights)
    )
    close(objective.value, elbo.value)
    assert (objective.of, objective.kind, elbo.kind) == ("mi", "lower", "exact")
    assert float(objective) < float(world.mutual_information())


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_evidence_is_a_distribution(seed: int, prior_name: str) -> None:
    """Eqs. 9, 10, 48-50: exp(log_marginal + const) is P(x, x') of the model joint and sums to one."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    bound, world = case.model(prior).log_marginal(*case.observations), case.world
    evidence = (bound.per_observation + world.const().flatten()).exp()
    close(evidence, world.evidence(table).flatten())
    close(evidence.sum(), 1.0)
    close(bound.value, (case.base.flatten() * bound.per_observation).sum())
    assert (bound.of, bound.kind) == ("log_marginal", "exact")


@pytest.mark.parametrize("prior_name", ["bilinear", "table"])
@pytest.mark.parametrize("seed", SEEDS)
def test_leave_one_out_of_summed_latents_is_an_upper_bound_of_the_evidence(seed: int, prior_name: str) -> None:
    """Eq. 50: log-sum-exp is convex in the means that leave a row out. The mean over all batches of two rows."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    model, share = case.model(prior), case.base.flatten()
    truth = (case.base * (case.world.evidence(table).log() - case.world.const()).nan_to_num(0, 0, 0)).sum()
    model.marginal = rp.BatchMarginal()
    places = (share > 0).nonzero()[:, 0]
    mean = torch.zeros(())
    for a, b in itertools.product(places.tolist(), repeat=2):
        bound = model.log_marginal(*(x[[a, b]] for x in case.observations), side="upper")
        assert (bound.of, bound.kind) == ("log_marginal", "upper")
        mean = mean + share[a] * share[b] * bound.value.detach()
    assert float(mean) > float(truth) + 1e-3
    some = [x[:6] for x in case.observations]
    assert {model.log_marginal(*some, side=side).kind for side in (None, "lower")} == {"estimate"}
    optimal = case.model(rp.OptimalPrior())
    optimal.marginal = rp.BatchMarginal()
    assert optimal.log_marginal(*some, side="upper").kind == "estimate"


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("seed", [0, 2, 4, 6])
def test_deterministic_elbo_is_the_log_likelihood(seed: int, views: int) -> None:
    """Eq. 51: with deterministic encoders log P(x, x') is the ELBO, and both are the oracle's."""
    case = make_case(seed, views=views, deterministic=True)
    coupling, log_f = make_coupling("bilinear", case.widths)
    model, world = case.model(rp.InfoNCEPrior(coupling)), case.world
    # A latent value that no observation is encoded to has R(z) = 0: leave it out of the oracle's tables.
    used = [world.marginal(j) > 0 for j in range(views)]
    world = FiniteWorld(case.base, [t[:, u] for t, u in zip(world.recognition, used, strict=True)])
    steps = [log_f[used[t]][:, used[t + 1]] for t in range(views - 1)]
    evidence = world.evidence(world.infonce_prior(steps)).log() - world.const()
    elbo, log_marginal = model.elbo(*case.observations), model.log_marginal(*case.observations)
    close(log_marginal.per_observation, elbo.per_observation)
    close(elbo.per_observation, evidence.flatten())
    close(elbo.value, (case.base * evidence).sum())
    assert elbo.kind == log_marginal.kind == "exact"
    mi = model.mutual_information(*case.observations)
    assert (mi.lower.of, mi.lower.kind, mi.upper) == ("mi", "lower", None)
    close(mi.lower.value, elbo.value)
    assert float(mi.lower) <= float(world.mutual_information()) + 1e-12


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_three_observations(seed: int, prior_name: str) -> None:
    """Eqs. 1, 15, 16, 18 and 50 for a chain of J = 3."""
    case = make_case(seed, views=3)
    prior, table = make_prior(prior_name, case)
    model, world = case.model(prior), case.world
    elbo, evidence = model.elbo(*case.observations), model.log_marginal(*case.observations)
    parts = model.decompose(*case.observations)
    close(elbo.per_observation, (world.elbo(table) - world.const()).flatten())
    close(elbo.value, world.mean_elbo(table))
    close(evidence.per_observation, (world.evidence(table).log() - world.const()).flatten())
    close((evidence.per_observation + world.const().flatten()).exp().sum(), 1.0)
    close(evidence.per_observation - elbo.per_observation, world.gap(table).flatten())
    close(parts.kl.value, world.divergence(table))
    assert elbo.ceiling is not None and float(elbo) <= elbo.ceiling
    assert {elbo.kind, evidence.kind, parts.elbo.kind, parts.mi.kind, parts.kl.kind} == {"exact"}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unnormalised_prior_has_no_divergence(seed: int) -> None:
    """Eq. 18: MI - ELBO is a KL only if P sums to one; with mass e^10 it is the KL less 10, below zero."""

    class Unnormalised(JointCategoricalPrior):
        def log_prob(self, *latents: Tensor) -> Tensor:
            return super().log_prob(*latents) + 10

    case = make_case(seed)
    _, table = make_prior("table", case)
    prior = Unnormalised(*case.widths)
    with torch.no_grad():
        prior.logits.copy_(table.log())
    parts = case.model(prior).decompose(*case.observations)
    close(parts.kl.value, case.world.divergence(table) - 10)
    assert float(case.world.divergence(table)) > 0 > float(parts.kl)


@pytest.mark.parametrize("quantity", ["elbo", "log_marginal"])
@pytest.mark.parametrize("prior_name", ["bilinear", "optimal", "table"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients(seed: int, prior_name: str, quantity: str) -> None:
    """Eqs. 16 and 50, differentiated: network and prior get the gradient of the oracle's sum."""
    case = make_case(seed)
    prior, _ = make_prior(prior_name, case)
    model, world = case.model(prior), case.differentiable_world()
    parameters = list(model.parameters())
    if prior_name == "optimal":
        table = world.joint()
    else:
        own = next(iter(prior.parameters()))
        table = (
            world.infonce_prior([own]) if prior_name == "bilinear" else own.flatten().softmax(0).reshape(case.widths)
        )
    per_cell = world.elbo(table) if quantity == "elbo" else world.evidence(table).log()
    expected = torch.autograd.grad((case.base * (per_cell - world.const())).sum(), parameters)
    got = torch.autograd.grad(getattr(model, quantity)(*case.observations).value, parameters)
    for a, b in zip(got, expected, strict=True):
        close(a, b)
    assert max(float(g.abs().max()) for g in got) > 1e-4


def test_chosen_rows_have_the_values_of_the_whole() -> None:
    """Eqs. 15 and 50 on rows of the data set: the same values per observation, weighted by R_base."""
    case = make_case(1)
    rows = torch.tensor([5, 0, 11, 5])
    chosen = [x[rows] for x in case.observations]
    weights = case.base.flatten()[rows]
    for prior_name in PRIORS:
        model = case.model(make_prior(prior_name, case)[0])
        for method in (model.elbo, model.log_marginal):
            whole, part = method(*case.observations), method(*chosen, rows=rows)
            close(part.per_observation, whole.per_observation[rows])
            close(part.value, (weights * part.per_observation).sum() / weights.sum())
            assert part.kind == "exact"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_conditional_on_a_grid_of_all_values(seed: int) -> None:
    """Eqs. 21b and 26: with log R(z') as the base, the predicted density is P(z'|z) exactly."""
    case = make_case(seed)
    world = case.world
    grids = [torch.eye(width) for width in case.widths]
    for prior_name in ("bilinear", "table"):
        prior, table = make_prior(prior_name, case)
        got = case.model(prior).predict(*grids, base=world.marginal(1).log())
        close(got, table / table.sum(1, keepdim=True))
