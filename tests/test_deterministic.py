"""Appendix B: points need no density under an InfoNCE prior; under a parametric one the value follows epsilon."""

import doctest
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld, standard
from recparam.bounds import CeilingWarning
from recparam.marginals import Marginal
from recparam.priors import Prior
from recparam.recognition import DensityError

F64 = torch.float64
PAGE = Path(__file__).parent.parent / "docs" / "deterministic.md"


@pytest.mark.parametrize("marginal", ["batch", "data set", "other data", "queue"])
def test_a_density_is_never_asked_of_points(marginal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: rp.Dirac, value: Tensor) -> NoReturn:
        raise AssertionError("log_prob of a Dirac was called")

    monkeypatch.setattr(rp.Dirac, "log_prob", refuse)
    pair = standard(2).sample(16, torch.Generator().manual_seed(0))
    banks: dict[str, Callable[[], Marginal]] = {
        "batch": rp.BatchMarginal,
        "data set": lambda: rp.DatasetMarginal(*pair),
        "other data": lambda: rp.DatasetMarginal(*(x + 1 for x in pair)),
        "queue": lambda: rp.QueueMarginal(8, widths=[2, 2]),
    }
    for coupling in (rp.GaussianRBF(), rp.Bilinear(2), rp.Cosine(temperature=1.0)):
        recognition = rp.Deterministic(nn.Linear(2, 2))
        model = rp.RPM(recognition, rp.InfoNCEPrior(coupling), marginal=banks[marginal]()).double()
        for side in (None,) if marginal == "queue" else (None, "upper", "lower"):
            assert math.isfinite(float(model.elbo(*pair, side=side)))
        model.elbo(*pair).value.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        with torch.no_grad():
            assert float(model.log_marginal(*pair)) == pytest.approx(float(model.elbo(*pair)), abs=1e-12)
            assert model.mutual_information(*pair).upper is None
            assert model.match(*pair).log_prob().isfinite().all()
        assert bool(model.predictive(*pair).mean().isfinite().all())
        assert math.isfinite(float(model.decompose(*pair, critic=rp.GaussianRBF(lengthscale=1.0).double()).kl))
        if marginal == "batch":
            assert math.isfinite(float(model.infonce(*pair)))


def value(prior: Prior, pair: list[Tensor], epsilon: float, *, draws: int = 1) -> rp.Bound:
    """The ELBO over the data set as its own base, the same noise at every epsilon."""
    recognition = rp.EpsilonGaussian(nn.Identity(), epsilon=epsilon)
    model = rp.RPM(recognition, prior, marginal=rp.DatasetMarginal(*pair)).double()
    with torch.no_grad():
        return model.elbo(*pair, num_samples=draws, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rows", [8, 40])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_over_the_empirical_base_the_value_falls_like_d_log_epsilon(dim: int, rows: int) -> None:
    """Far below the distances between points; slope and line, with what docs/deterministic.md says of both."""
    pair = standard(dim).sample(rows, torch.Generator().manual_seed(0))
    prior = rp.JointGaussianPrior(dim, correlation=0.6).double()
    closest = min(float(torch.pdist(x).min()) for x in pair)
    high, low = (closest / 100) ** 2, (closest / 10_000) ** 2  # epsilon is a variance
    bounds = [value(prior, pair, epsilon, draws=50) for epsilon in (high, low)]
    assert [bound.kind for bound in bounds] == ["exact", "exact"]
    fall = float(bounds[0]) - float(bounds[1])
    assert fall / (math.log(high) - math.log(low)) == pytest.approx(dim, abs=2e-2)
    with torch.no_grad():
        line = prior.log_prob(*pair).mean() + 2 * math.log(rows) + dim * math.log(2 * math.pi * math.e * low)
    # what is left is the noise of |z - g(x)|^2 / 2 epsilon: chi-squared with D (rows x draws) degrees of freedom
    spread = (dim / (rows * 50)) ** 0.5
    assert float(bounds[1]) == pytest.approx(float(line), abs=4 * spread)


@pytest.mark.parametrize("dim", [1, 3])
def test_with_the_true_marginal_it_settles(dim: int) -> None:
    """At E[log P] + h(z) + h(z'), from the world's covariances, while the empirical value goes on falling."""
    eye = torch.eye(dim, dtype=F64)
    truth = [GaussianWorld(eye, 10.0**power).joint_gaussian(0.6) for power in (-3, -6, -9, -12)]
    limit = standard(dim).joint_gaussian(0.6)
    assert abs(truth[0] - limit) < 0.02 * dim
    assert max(abs(later - limit) for later in truth[1:]) < 1e-4
    pair = standard(dim).sample(20, torch.Generator().manual_seed(0))
    prior = rp.JointGaussianPrior(dim, correlation=0.6)
    assert float(value(prior, pair, 1e-12)) < float(value(prior, pair, 1e-9)) - 6 * dim < limit - 12


def test_a_sparse_bank_encloses_the_settled_value_from_afar() -> None:
    world, epsilon = standard(2), 1e-6
    pair = world.sample(32, torch.Generator().manual_seed(0))
    recognition = rp.EpsilonGaussian(nn.Identity(), epsilon=epsilon)
    model = rp.RPM(recognition, rp.JointGaussianPrior(2, correlation=0.9)).double()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        lower, upper = (model.elbo(*pair, side=side, generator=draws) for side in ("lower", "upper"))
    limit = world.joint_gaussian(0.9)
    assert float(lower) < limit - 10
    assert float(upper) > limit + 1000


def test_under_the_optimal_prior_epsilon_cancels() -> None:
    pair = standard(2).sample(20, torch.Generator().manual_seed(0))
    for epsilon in (1e-6, 1e-12):
        with pytest.warns(CeilingWarning, match="ceiling of 2.996"):
            bound = value(rp.OptimalPrior(), pair, epsilon)
        assert float(bound) == pytest.approx(math.log(20), abs=1e-6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: rp.Dirac(x).log_prob(x),
        lambda x: rp.RPM(rp.Deterministic(nn.Identity()), rp.JointGaussianPrior(2)).elbo(x, x),
        lambda x: rp.RPM(rp.Deterministic(nn.Identity()), rp.OptimalPrior()).mutual_information(x, x),
        lambda x: rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.Bilinear(2))).decompose(x, x),
    ],
)
def test_errors_point_to_the_page(ask: Callable[[Tensor], object]) -> None:
    with pytest.raises(DensityError, match=f"see docs/{PAGE.name}"):
        ask(torch.randn(4, 2))
    assert PAGE.is_file()


def test_the_page_s_examples_give_what_they_print() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried and not failed
