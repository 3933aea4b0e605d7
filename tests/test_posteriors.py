"""Free posteriors (Eq. 12) in the finite world, posteriors that are none, bad input and state."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Uniform

import recparam as rp
from gaussian_world import GaussianWorld, mixed
from recparam.priors import JointCategoricalPrior, Prior
from recparam.recognition import DensityError, Particles, RecognitionModel, RecognitionPosterior
from recparam.recognition.posteriors import Posterior
from recparam.utils.storage import load_state, save_state
from test_finite_world import PRIORS, SEEDS, Case, make_case, make_prior

close = torch.testing.assert_close
TIGHT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# The finite world: every number is a sum


def filled(posterior: rp.PairPosterior, offsets: Tensor) -> rp.PairPosterior:
    with torch.no_grad():
        posterior.offsets.copy_(offsets)
    return posterior


class PairTable(nn.Module):
    """A network on (x, x', ...) as free as can be: a row of parameters for every value of the tuple."""

    def __init__(self, sizes: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(*sizes, outputs))

    def forward(self, *x: Tensor) -> Tensor:
        return self.table[x]


def per_pair(case: Case, offsets: Tensor | None = None) -> rp.PairPosterior:
    """A posterior with a table for each cell of the base, zero unless given."""
    posterior = rp.PairPosterior(case.base.numel(), case.widths, family="categorical")
    if offsets is not None:
        with torch.no_grad():
            posterior.offsets.copy_(offsets)
    return posterior


def free_model(case: Case, prior: Prior, posterior: Posterior) -> rp.RPM:
    model = case.model(prior)
    model.posterior = posterior
    return model


def q_table(case: Case, offsets: Tensor) -> Tensor:
    """Q of random offsets as the oracle's table: R(z|x) R(z'|x') exp t, normalised."""
    world = case.differentiable_world()
    weight = world.conditional() * offsets.reshape(*case.base.shape, *case.widths).exp()
    return weight / weight.sum(world.z_axes, keepdim=True)


def ascend(model: rp.RPM, observations: list[Tensor]) -> None:
    """One step along the natural gradient of every pair's ELBO in its table t.

    The gradient is q (l - t - mean): over q, a step of length one leads from any t to l, up to a constant.
    """
    (table,) = model.posterior.parameters()
    encoded = [model.encode(x, index=j) for j, x in enumerate(observations)]
    q = model.posterior(encoded, observations).log_weights.exp().T
    (gradient,) = torch.autograd.grad(model.elbo(*observations).per_observation.sum(), [table])
    with torch.no_grad():
        table += (gradient.reshape(q.shape) / q).reshape(table.shape)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_evidence_less_the_elbo_is_the_divergence_from_the_posterior(
    seed: int, prior_name: str, views: int
) -> None:
    """Eqs. 1 and 12: for any Q, log P(x, x') - L = KL(Q || P(z, z'|x, x')); Eq. 50 is the evidence whatever Q."""
    case = make_case(seed, views=views)
    prior, table = make_prior(prior_name, case)
    offsets = torch.randn(case.base.numel(), torch.Size(case.widths).numel())
    model, world = free_model(case, prior, per_pair(case, offsets)), case.world
    q = q_table(case, offsets).detach()
    elbo, evidence = model.elbo(*case.observations), model.log_marginal(*case.observations)
    close(elbo.per_observation + world.const().flatten(), world.elbo(table, q).flatten(), **TIGHT)
    close(evidence.per_observation + world.const().flatten(), world.evidence(table).log().flatten(), **TIGHT)
    close(evidence.per_observation - elbo.per_observation, world.gap(table, q).flatten(), **TIGHT)
    close(elbo.value, (case.base.flatten() * elbo.per_observation).sum(), **TIGHT)
    close(torch.stack(list(elbo.terms.values())).sum(), elbo.value, **TIGHT)
    assert (elbo.kind, evidence.kind) == ("exact", "exact") and "log_R_minus_log_Q" in elbo.terms
    assert elbo.ceiling is not None and float(elbo) <= elbo.ceiling
    assert float((evidence.per_observation - elbo.per_observation).detach().max()) > 1e-3


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_exact_posterior_the_elbo_is_the_evidence(seed: int, prior_name: str, views: int) -> None:
    """Then what is gained over Eq. 15 is all of KL(R || P(z, z'|x, x'))."""
    case = make_case(seed, views=views)
    prior, table = make_prior(prior_name, case)
    world = case.world
    offsets = (world.posterior(table) / world.conditional()).log().flatten(views).reshape(case.base.numel(), -1)
    model = free_model(case, prior, per_pair(case, offsets))
    elbo, gap = model.elbo(*case.observations), model.posterior_gap(*case.observations)
    close(elbo.per_observation + world.const().flatten(), world.evidence(table).log().flatten(), **TIGHT)
    close(elbo.per_observation, model.log_marginal(*case.observations).per_observation, **TIGHT)
    close(gap.per_observation, world.gap(table).flatten(), **TIGHT)
    close(gap.value, (case.base * world.gap(table)).sum(), **TIGHT)
    close(torch.stack(list(gap.terms.values())).sum(), gap.value, **TIGHT)
    assert (gap.of, gap.kind) == ("gap", "exact") and float(gap) > 1e-4
    assert str(gap).startswith("ELBO(Q) - ELBO(R) = ")


@pytest.mark.parametrize("amortised", [False, True], ids=["per pair", "amortised"])
@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_optimum_is_the_exact_posterior(seed: int, prior_name: str, *, amortised: bool) -> None:
    """Reached from the recognition model by the gradient, for each pair or by a network on (x, x')."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    outputs = torch.Size(case.widths).numel()
    posterior: Posterior = per_pair(case)
    if amortised:
        posterior = rp.AmortisedPosterior(PairTable(case.base.shape, outputs), family="categorical")
    model, world = free_model(case, prior, posterior), case.world
    assert float(model.posterior_gap(*case.observations)) == pytest.approx(0, abs=1e-14)
    for _ in range(2):  # the second heals the rounding of the first
        ascend(model, case.observations)
    elbo, evidence = model.elbo(*case.observations), model.log_marginal(*case.observations)
    close(elbo.per_observation, evidence.per_observation, **TIGHT)
    close(model.posterior_gap(*case.observations).per_observation, world.gap(table).flatten(), **TIGHT)


@pytest.mark.parametrize("prior_name", ["bilinear", "optimal", "table"])
@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_reach_posterior_recognition_and_prior(seed: int, prior_name: str) -> None:
    """Eq. 12, differentiated: psi, phi and theta get the gradient of the oracle's sum."""
    case = make_case(seed)
    prior, _ = make_prior(prior_name, case)
    model = free_model(case, prior, per_pair(case, torch.randn(case.base.numel(), torch.Size(case.widths).numel())))
    world, parameters = case.differentiable_world(), list(model.parameters())
    if prior_name == "optimal":
        table = world.joint()
    else:
        own = next(iter(prior.parameters()))
        table = (
            world.infonce_prior([own]) if prior_name == "bilinear" else own.flatten().softmax(0).reshape(case.widths)
        )
    per_cell = world.elbo(table, q_table(case, model.posterior.offsets)) - world.const()  # type: ignore[arg-type]
    expected = torch.autograd.grad((case.base * per_cell).sum(), parameters)
    got = torch.autograd.grad(model.elbo(*case.observations).value, parameters)
    for a, b in zip(got, expected, strict=True):
        close(a, b, **TIGHT)
    assert min(float(g.abs().max()) for g in got) > 1e-4


def test_parameters_of_zero_are_the_recognition_model() -> None:
    """Value and gradient of Eq. 15, with enumerated latents and with drawn ones."""
    case = make_case(1)
    prior, _ = make_prior("table", case)
    models = [case.model(prior), free_model(case, prior, per_pair(case))]
    grads = [torch.autograd.grad(m.elbo(*case.observations).value, list(m.recognition.parameters())) for m in models]
    for a, b in zip(*grads, strict=True):
        close(a, b, **TIGHT)
    world = GaussianWorld(mixed(2), 0.1)
    x = world.sample(6, torch.Generator().manual_seed(0))
    model = rp.RPM(world.recognition(), rp.JointGaussianPrior(2), posterior=rp.PairPosterior(6, [2, 2]))
    assert model.elbo(*x).terms["log_R_minus_log_Q"].detach() == pytest.approx(0, abs=1e-12)


def test_rows_choose_the_pairs() -> None:
    """With a data set rows index both; with a batch they are the posterior's alone."""
    case = make_case(1)
    rows = torch.tensor([5, 0, 11, 5])
    offsets = torch.randn(case.base.numel(), torch.Size(case.widths).numel())
    chosen = [x[rows] for x in case.observations]
    model = free_model(case, make_prior("bilinear", case)[0], per_pair(case, offsets))
    whole, part = model.elbo(*case.observations), model.elbo(*chosen, rows=rows)
    close(part.per_observation, whole.per_observation[rows], **TIGHT)
    model.marginal = rp.BatchMarginal()
    got = model.elbo(*chosen, rows=rows)
    model.posterior = rp.PairPosterior(4, case.widths, family="categorical")
    with torch.no_grad():
        model.posterior.offsets.copy_(offsets[rows])
    close(got.per_observation, model.elbo(*chosen).per_observation, **TIGHT)
    assert got.kind == "estimate" and got.ceiling is None


def test_what_is_said_of_the_recognition_model_does_not_depend_on_q() -> None:
    case = make_case(0)
    prior, _ = make_prior("table", case)
    offsets = torch.randn(case.base.numel(), torch.Size(case.widths).numel())
    plain, free = case.model(prior), free_model(case, prior, per_pair(case, offsets))
    x = case.observations
    close(free.mutual_information(*x).estimate.value, plain.mutual_information(*x).estimate.value)
    for part in ("elbo", "mi", "kl"):
        close(getattr(free.decompose(*x), part).value, getattr(plain.decompose(*x), part).value)


# Posteriors that are not absolutely continuous, and other bad input


class Box(RecognitionModel):
    """A uniform distribution of width two around the network's output."""

    def _distribution(self, parameters: Tensor) -> Distribution:
        checked = Uniform(parameters - 1, parameters + 1, validate_args=self.training)
        return Independent(checked, 1, validate_args=self.training)


class Flat(Posterior):
    """A posterior of a user's own: Q is the recognition table made uniform, wherever R_phi is."""

    def forward(self, distributions, observations, **options) -> Particles:  # type: ignore[no-untyped-def]
        own = RecognitionPosterior()(distributions, observations, **options)
        log_q = torch.zeros_like(own.log_weights).log_softmax(0)
        return Particles(own.latents, log_q, exact=True, log_correction=own.log_weights - log_q)


class Impossible(nn.Module):
    """Logits under which the first value has probability zero, up to float64."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([-1e308, 0.0, 0.0]).expand(len(x), 3) + 0 * x.sum()


def test_a_posterior_of_ones_own() -> None:
    case = make_case(0)
    prior, table = make_prior("table", case)
    world, model = case.world, free_model(case, prior, Flat())
    q = torch.ones_like(world.conditional()) / torch.Size(case.widths).numel()
    close(model.elbo(*case.observations).per_observation + world.const().flatten(), world.elbo(table, q).flatten())


def test_q_outside_the_support_of_the_recognition_model_is_an_error() -> None:
    x = torch.randn(5, 2)
    for checked in (True, False):
        model = rp.RPM(Box(nn.Identity()), rp.JointGaussianPrior(2), posterior=rp.PairPosterior(5, [2, 2]))
        with pytest.raises(ValueError, match="absolutely continuous.*posterior=None"):
            model.train(checked).elbo(x, x, num_samples=20)
    # Q within the box: e is at most 4.5 in these draws
    narrow = filled(rp.PairPosterior(5, [2, 2]), torch.cat([torch.zeros(5, 4), torch.full((5, 4), -1.5)], 1))
    model = rp.RPM(Box(nn.Identity()), rp.JointGaussianPrior(2), posterior=narrow).eval()
    torch.manual_seed(0)
    assert bool(model.elbo(x, x).value.isfinite())


def test_q_where_the_recognition_table_is_zero_is_an_error() -> None:
    class Sure(rp.Categorical):
        def _distribution(self, parameters: Tensor) -> Distribution:
            probabilities = parameters.softmax(-1)
            return torch.distributions.OneHotCategorical(
                logits=torch.where(probabilities > 0, parameters, -torch.inf), validate_args=False
            )

    x = torch.randn(4, 2)
    prior = rp.InfoNCEPrior(rp.Bilinear(3, theta=torch.randn(3, 3)))
    with pytest.raises(ValueError, match="respect to the recognition models; got Q > 0 where.*4 of 4 rows"):
        rp.RPM(Sure(Impossible()), prior, posterior=Flat()).elbo(x, x)
    # the library's own tables are zero wherever R_phi is
    table = filled(rp.PairPosterior(4, [3, 3], family="categorical"), torch.randn(4, 9))
    bound = rp.RPM(Sure(Impossible()), prior, posterior=table).elbo(x, x)
    assert bool(bound.value.isfinite())
    (gradient,) = torch.autograd.grad(bound.value, [table.offsets])
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


def test_q_where_the_prior_is_zero_is_an_error() -> None:
    prior = JointCategoricalPrior(2, 2)
    with torch.no_grad():
        prior.logits[0, 1] = -torch.inf
    x = torch.randn(4, 2)
    model = rp.RPM(rp.Categorical(nn.Identity()), prior, posterior=rp.PairPosterior(4, [2, 2], family="categorical"))
    with pytest.raises(ValueError, match=r"respect to the prior; got Q > 0 where log P\(z, z'\).*posterior=None"):
        model.elbo(x, x)
    assert bool(model.log_marginal(x, x).value.isfinite())  # the evidence does exist


X = torch.zeros(4, 2, dtype=torch.float64)


def free_gaussian(posterior: Posterior | None) -> rp.RPM:
    return rp.RPM(rp.EpsilonGaussian(nn.Identity(), epsilon=1.0), rp.JointGaussianPrior(2), posterior=posterior)


def gaussian(posterior: Posterior, **options: Any) -> rp.Bound:
    return free_gaussian(posterior).elbo(X, X, **options)


def categorical(posterior: Posterior) -> rp.Bound:
    return rp.RPM(rp.Categorical(nn.Identity()), JointCategoricalPrior(2, 2), posterior=posterior).elbo(X, X)


BAD = [
    (
        "Dirac",
        lambda: rp.RPM(
            rp.Deterministic(nn.Identity()),
            rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)),
            posterior=rp.PairPosterior(4, [2, 2]),
        ).elbo(X, X),
        DensityError,
        "Eq. 12.*absolutely continuous.*posterior=None.*Eq. 46",
    ),
    ("table of Gaussians", lambda: gaussian(rp.PairPosterior(4, [2, 2], family="categorical")), ValueError,
     "posterior's family, 'categorical'; got.*Independent.*Use family='gaussian'"),
    ("Gaussian of tables", lambda: categorical(rp.PairPosterior(4, [2, 2])), ValueError,
     "family, 'gaussian'; got.*OneHot.*Use family='categorical'"),
    ("mixed", lambda: rp.RPM(
        [rp.Gaussian(nn.Linear(2, 4)), rp.Categorical(nn.Identity())],
        rp.OptimalPrior(),
        posterior=rp.PairPosterior(4, [2, 2]),
    ).elbo(X, X), ValueError, "latents of one kind"),
    ("width", lambda: gaussian(rp.AmortisedPosterior(rp.MLP(4, 6))), ValueError, r"\(4, 8\).*gaussian.*got \(4, 6\)"),
    ("full width", lambda: gaussian(rp.AmortisedPosterior(rp.MLP(4, 8), family="full gaussian")), ValueError,
     r"\(4, 14\).*got \(4, 8\)"),
    ("NaN", lambda: gaussian(filled(rp.PairPosterior(4, [2, 2]), torch.full((4, 8), torch.nan))), ValueError,
     "finite values in the parameters of the posterior"),
    ("net of one", lambda: gaussian(rp.AmortisedPosterior(rp.MLP(2, 8))), ValueError, r"\(B, 2\); got \[\(4, 2\)"),
    ("float32", lambda: gaussian(rp.AmortisedPosterior(rp.MLP(4, 8).float())), ValueError, "x of dtype torch.float32"),
    ("no pairs", lambda: rp.PairPosterior(0, [2, 2]), ValueError, "num_pairs >= 1; got 0"),
    ("width of nothing", lambda: rp.PairPosterior(4, [2, 0]), ValueError, r"widths\[1\] >= 1; got 0"),
    ("one width", lambda: rp.PairPosterior(4, [2]), ValueError, r"at least two whole numbers; got \[2\]"),
    ("other pairs", lambda: gaussian(rp.PairPosterior(5, [2, 2])), ValueError, "rows= .*the 5 of.*4 pairs"),
    ("rows", lambda: gaussian(rp.PairPosterior(4, [2, 2]), rows=torch.arange(1, 5)), ValueError, "indices from 0 to 3"),
    ("draws", lambda: gaussian(rp.PairPosterior(4, [2, 2]), num_samples=0), ValueError, "num_samples >= 1; got 0"),
    ("K", lambda: free_gaussian(None).log_marginal(X, X, num_samples=0), ValueError, "num_samples >= 1; got 0"),
    ("closed form", lambda: rp.RPM(
        rp.Gaussian(nn.Linear(2, 4)), rp.InfoNCEPrior(rp.Bilinear(2)), posterior=rp.PairPosterior(4, [2, 2])
    ).double().elbo(X, X, expectation="analytic"), ValueError, "'sampled' with a free posterior.*got 'analytic'"),
    ("gap to itself", lambda: free_gaussian(None).posterior_gap(X, X), ValueError, "free posterior; got Q = R"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input(call, kind, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=words):
        call()


# State


MAKERS = [lambda: rp.PairPosterior(4, [2, 2]), lambda: rp.AmortisedPosterior(rp.MLP(4, 8))]


@pytest.mark.parametrize("make", MAKERS, ids=["per pair", "amortised"])
def test_a_free_posterior_is_saved_with_its_model(make: Callable[[], Posterior], tmp_path: Path) -> None:
    x = torch.randn(2, 4, 2)
    model = free_gaussian(make())
    for parameter in model.posterior.parameters():
        nn.init.normal_(parameter, std=0.3)
    save_state(tmp_path / "model.safetensors", tensors=model.state_dict(), meta={})
    other = free_gaussian(make())
    other.load_state_dict(load_state(tmp_path / "model.safetensors")[0])
    got, expected = (m.elbo(*x, generator=torch.Generator().manual_seed(0)) for m in (other, model))
    close(got.per_observation, expected.per_observation)
    with pytest.raises(RuntimeError, match="posterior"):  # torch's own words: the model without it is another
        free_gaussian(None).load_state_dict(model.state_dict())
