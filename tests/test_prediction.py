"""P(z'|z) over candidates: against a dense softmax, in a world where it is known, and calibrated where it should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.model.calibration import Calibration, calibration
from test_kernel import Largest

NOISE = 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def couplings() -> dict[str, rp.GaussianRBF | rp.Bilinear | rp.Cosine]:
    built = {"rbf": rp.GaussianRBF(0.7), "bilinear": rp.Bilinear(3), "cosine": rp.Cosine()}
    return {name: coupling.double() for name, coupling in built.items()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["rbf", "bilinear", "cosine"])
def test_against_a_dense_softmax(name: str, weighted: bool) -> None:
    coupling = couplings()[name]
    z, bank = draw(5, 3), draw(40, 3, seed=1)
    weights = torch.rand(40, generator=seeded(2), dtype=torch.float64) if weighted else torch.ones(40).double()
    weights[7] = 0.0 if weighted else 1.0
    ahead = rp.Prediction(coupling.score(), z, bank, weights)
    log_f = coupling(z[:, None], bank).detach()
    p = (log_f + weights.log()).softmax(1)
    columns = torch.arange(40).expand(5, 40)
    torch.testing.assert_close(ahead.log_prob(columns).exp(), p)
    torch.testing.assert_close(ahead.log_prob(columns[0, :5]).exp(), p[range(5), range(5)])
    mean = p @ bank
    torch.testing.assert_close(ahead.mean(), mean)
    outer = torch.einsum("am,mi,mj->aij", p, bank, bank) - mean[:, :, None] * mean[:, None]
    torch.testing.assert_close(ahead.covariance(), outer)
    target = torch.tensor([3, 0, 20, 7, 39])
    above = (p * (log_f > log_f.gather(1, target[:, None]))).sum(1)
    torch.testing.assert_close(ahead.rank_probability(target), above + p[range(5), target])
    torch.testing.assert_close(ahead.ranks(bank[target])[0], above)  # the same as vectors
    for level in (0.3, 0.8):
        found = ahead.credible_set(level)
        log_mean = (log_f + (weights / weights.sum()).log()).logsumexp(1, keepdim=True)
        inside = log_f - log_mean >= found.threshold[:, None] - 1e-9
        torch.testing.assert_close((p * inside).sum(1), found.mass)
        torch.testing.assert_close((weights / weights.sum() * inside).sum(1), found.share)
        assert bool((found.mass >= level).all())
        smallest = torch.where(inside & (weights > 0), log_f, torch.inf).amin(1, keepdim=True)
        assert bool(((p * (log_f > smallest)).sum(1) < level).all())  # without the last, too little
        contained = torch.stack([found.contains(columns[:, m]) for m in range(40)], 1)
        assert bool((contained == inside)[:, weights > 0].all())


def test_draws_have_the_probabilities() -> None:
    z, bank = draw(2, 1), draw(6, 1, seed=1)
    ahead = rp.Prediction(rp.GaussianRBF(0.7).double().score(), z, bank, torch.arange(6).double())
    drawn = ahead.sample(20_000, generator=seeded())
    share = torch.stack([(drawn.indices == m).double().mean(1) for m in range(6)], 1)
    p = ahead.log_prob(torch.arange(6).expand(2, 6)).exp()
    assert float((share - p).abs().max()) < 5 * 0.5 / 20_000**0.5
    assert torch.equal(drawn.latents, bank[drawn.indices]) and torch.equal(drawn.rows, drawn.indices)
    assert torch.equal(drawn.indices, ahead.sample(20_000, generator=seeded()).indices)


def world(lengthscale: float, *, count: int = 1000) -> tuple[rp.Prediction, Tensor, Tensor]:
    """z' = z + noise over a uniform R(z'), held-out z and z' well inside: P(z'|z) is N(z, NOISE^2)."""
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale)))
    x_prime = 20 * torch.rand(5000, 1, generator=seeded(1)) - 10
    x = 14 * torch.rand(count, 1, generator=seeded(2)) - 7
    followed = x + NOISE * torch.randn(count, 1, generator=seeded(3))
    return model.predictive(x, x_prime), x, followed


def covers(result: Calibration) -> list[bool]:
    return [
        c.low is not None and c.high is not None and c.low <= level <= c.high
        for c, level in zip(result.coverage, result.levels, strict=True)
    ]


def test_moments_in_a_linear_gaussian_world() -> None:
    ahead, x, _ = world(NOISE, count=200)
    assert float((ahead.mean() - x).abs().max()) < 6 * NOISE / 300**0.5
    assert float((ahead.covariance().sqrt() / NOISE - 1).abs().mean()) < 0.05


def test_the_right_lengthscale_is_calibrated() -> None:
    ahead, _, followed = world(NOISE)
    result = calibration(ahead, followed)
    assert all(covers(result)) and result.gap < 3 * result.expected_gap and result.count == 1000
    for share, width in zip(result.shares, (0.674, 1.282, 1.96), strict=True):
        assert share == pytest.approx(2 * width * NOISE / 20, rel=0.1)


@pytest.mark.parametrize(("factor", "sign"), [(0.5, -1), (2.0, 1)], ids=["too short", "too long"])
def test_a_wrong_lengthscale_is_not_and_errs_in_its_direction(factor: float, sign: int) -> None:
    ahead, _, followed = world(factor * NOISE)
    result = calibration(ahead, followed)
    truth = [float(torch.special.erf(torch.tensor(factor * q / 2**0.5))) for q in (0.6745, 1.2816, 1.96)]
    assert not any(covers(result))
    for coverage, level, expected in zip(result.coverage, result.levels, truth, strict=True):
        assert sign * (coverage.mean - level) > 0
        assert coverage.mean == pytest.approx(expected, abs=0.05)
    assert result.gap > 5 * result.expected_gap


def test_coverage_of_few_candidates_is_the_level_on_average() -> None:
    z, bank = draw(4000, 1), draw(5, 1, seed=1)
    bank[1] = bank[0]  # a tie
    ahead = rp.Prediction(rp.GaussianRBF(1.0).double().score(), z, bank)
    target = ahead.sample(1, generator=seeded(3)).indices[:, 0]
    assert all(covers(calibration(ahead, target, confidence=0.999)))
    inside = ahead.credible_set(0.5).contains(target).double().mean()
    assert float(inside) > 0.6  # the sets themselves hold more than their level


def test_rows_of_sampled_and_enumerated_latents() -> None:
    x, x_prime = draw(4, 2).float(), draw(6, 2, seed=1).float()
    weights = torch.arange(1.0, 7.0)
    gaussian = rp.RPM(rp.Gaussian(nn.Linear(2, 4)), rp.InfoNCEPrior(rp.GaussianRBF(1.0)))
    ahead = gaussian.predictive(x, x_prime, weights=weights, num_samples=3, generator=seeded())
    assert len(ahead.candidates) == 18 and ahead.weights is not None
    assert float(ahead.weights.reshape(3, 6).sum(0)[5]) == pytest.approx(6 / 21)
    assert bool((ahead.sample(50, generator=seeded()).rows < 6).all())

    table = rp.Categorical(nn.Linear(2, 3))
    coupling = rp.Bilinear(3, theta=draw(3, 3, seed=4).float())
    ahead = rp.RPM(table, rp.InfoNCEPrior(coupling)).predictive(x, x_prime, generator=seeded())
    assert bool((ahead.z.sum(1) == 1).all()) and bool(((ahead.z == 0) | (ahead.z == 1)).all())
    p = ahead.log_prob(torch.arange(18).expand(4, 18)).exp()
    f = (ahead.z @ coupling.theta).exp().detach()  # of each value of z'
    truth = f @ table(x_prime).mean.detach().T  # E_{R(z'|x'_n)}[f], all x' of equal weight
    assert ahead.rows is not None
    by_row = torch.zeros(4, 6).index_add(1, ahead.rows, p)
    torch.testing.assert_close(by_row, truth / truth.sum(1, keepdim=True))


def test_a_prediction_outlives_training() -> None:
    coupling = rp.Bilinear(2)
    ahead = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(coupling)).predictive(
        draw(3, 2).float(), draw(9, 2, seed=1).float()
    )
    before = ahead.mean()
    with torch.no_grad():
        coupling.theta.mul_(3)
    assert torch.equal(before, ahead.mean())


def test_no_matrix_of_all_pairs_is_ever_made() -> None:
    n = 2500
    ahead = rp.Prediction(rp.GaussianRBF(1.0).double().score(), draw(n, 2), draw(n, 2, seed=1))
    with Largest() as largest:
        ahead.mean(), ahead.covariance(), ahead.log_prob(torch.arange(n)), ahead.sample(2)
        ahead.rank_probability(draw(n, 2, seed=2)), ahead.rank_probability(torch.arange(n)), ahead.credible_set(0.9)
    assert n < largest.entries <= n * n / 4


GOOD = rp.Prediction(rp.GaussianRBF(1.0).double().score(), draw(4, 2), draw(6, 2, seed=1))
SCORE = GOOD.score


def predictive(prior: Any = None, **options: Any) -> Any:
    model = rp.RPM(
        options.pop("recognition", rp.Deterministic(nn.Identity())), prior or rp.InfoNCEPrior(rp.GaussianRBF(1.0))
    )
    return model.predictive(*options.pop("data", (torch.zeros(3, 2), torch.ones(4, 2))), **options)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: GOOD.sample(0), "num >= 1; got 0"),
    (lambda: GOOD.credible_set(1.0), "level between 0 and 1"),
    (lambda: GOOD.log_prob(torch.tensor([0, 1, 2, 6])), "indices from 0 to 5"),
    (lambda: GOOD.log_prob(torch.tensor([0, 1])), "indices of shape (4,) or (4, k)"),
    (lambda: GOOD.rank_probability(torch.tensor([0, 1])), "targets as indices of shape (4,)"),
    (lambda: GOOD.rank_probability(draw(4, 3)), "targets of shape (4, 2)"),
    (lambda: GOOD.rank_probability(draw(4, 2).float()), "Use targets.to(prediction.z)"),
    (lambda: GOOD.rank_probability(draw(4, 2) * torch.nan), "finite values in targets"),
    (lambda: rp.Prediction(SCORE, draw(4, 2), draw(6, 2) * torch.nan), "finite values in candidates"),
    (lambda: rp.Prediction(SCORE, draw(4, 2), draw(6, 2).float()), "Use candidates.to(z)"),
    (lambda: rp.Prediction(SCORE, draw(4, 2), draw(6, 2), -torch.ones(6)), "weights of shape (6,)"),
    (lambda: rp.Prediction(SCORE, draw(4, 2), draw(6, 2), rows=torch.arange(5)), "rows as whole numbers of shape (6,)"),
    (lambda: predictive(rp.OptimalPrior()), "an InfoNCE prior"),
    (lambda: predictive(rp.InfoNCEPrior(rp.GaussianRBF())), "lengthscale is set"),
    (lambda: predictive(rp.InfoNCEPrior(rp.Bilinear(3))), "widths (3, 3)"),
    (lambda: predictive(data=(torch.zeros(3, 2), torch.zeros(0, 2))), "x_prime with at least one row"),
    (lambda: predictive(data=(torch.zeros(3, 2) * torch.nan, torch.zeros(4, 2))), "finite values in x"),
    (lambda: predictive(num_samples=0), "num_samples >= 1"),
    (lambda: predictive(weights=torch.zeros(4)), "weights of shape (4,)"),
    (lambda: predictive(recognition=[rp.Deterministic(nn.Identity())] * 2, index=1), "index from 0 to 0"),
    (lambda: calibration(GOOD, draw(4, 2), levels=()), "levels with at least one"),
    (lambda: calibration(GOOD, draw(4, 2), levels=(0.5, 1.0)), "levels between 0 and 1"),
    (lambda: calibration(GOOD, draw(4, 2), confidence=1.0), "confidence between 0 and 1"),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()
