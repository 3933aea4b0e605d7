"""Samples of the model by resampling: their law and effective size in closed form, and what cannot be sampled."""

import math

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.model.generation import resampled

THETA = 0.5


def normal(n: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(n, 1, generator=generator)


def seeded(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def model(count: int = 2, *, theta: float = THETA) -> rp.RPM:
    """f = exp(theta z z') over standard normal bases: P(z) = N(0, 1) and P(z'|z) = N(theta z, 1)."""
    marginal = rp.EstimatedMarginal(*[normal] * count, num_samples=4096, generator=seeded(), hold=True)
    prior = rp.InfoNCEPrior(rp.Bilinear(1, theta=torch.tensor([[theta]])))
    return rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=marginal)


def test_draws_follow_the_model() -> None:
    drawn = model().sample(20_000, num_candidates=40_000, generator=seeded(1))
    x, x_prime = (each[:, 0].double() for each in drawn.observations)
    # E[F^2] = E[exp(theta^2 z^2)] = 1 / sqrt(1 - 2 theta^2)
    assert drawn.effective_size / 40_000 == pytest.approx(math.sqrt(1 - 2 * THETA**2), rel=0.05)
    error = 1 / min(20_000, drawn.effective_size) ** 0.5
    assert float(x.mean()) == pytest.approx(0, abs=4 * error)
    assert float(x.var()) == pytest.approx(1, abs=4 * 2**0.5 * error)
    assert float(x_prime.var()) == pytest.approx(1 + THETA**2, abs=4 * 2**0.5 * error * (1 + THETA**2))
    rho = THETA / math.sqrt(1 + THETA**2)
    assert float(torch.corrcoef(torch.stack([x, x_prime]))[0, 1]) == pytest.approx(rho, abs=4 * error)
    assert rho > 8 * error  # so that independent draws would fail


def test_a_chain_of_three_is_the_autoregression_that_it_means() -> None:
    theta = 0.4
    drawn = model(3, theta=theta).sample(10_000, num_candidates=20_000, generator=seeded(1))
    correlation = torch.corrcoef(torch.cat(drawn.observations, 1).T)
    variance = [1.0, 1 + theta**2, 1 + theta**2 * (1 + theta**2)]
    covariance = {(0, 1): theta, (0, 2): theta**2, (1, 2): theta * variance[1]}
    error = 1 / min(10_000, drawn.effective_size) ** 0.5
    for (i, j), value in covariance.items():
        expected = value / math.sqrt(variance[i] * variance[j])
        assert float(correlation[i, j]) == pytest.approx(expected, abs=4 * error)
        assert expected > 6 * error


def test_no_coupling_means_independent_draws_of_full_size() -> None:
    drawn = model(theta=0.0).sample(2000, num_candidates=2000, generator=seeded(1))
    assert drawn.effective_size == pytest.approx(2000, rel=1e-4)
    x = torch.cat(drawn.observations, 1)
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 4 / 2000**0.5
    assert repr(drawn) == "Generated(2000 draws of 2000 candidates, effective size 2000.0)"


def test_seeds_chunks_and_gradients() -> None:
    fitted = model()
    first, again = (fitted.sample(50, num_candidates=500, generator=seeded(3)) for _ in range(2))
    chunked = fitted.sample(50, num_candidates=500, chunk=64, generator=seeded(3))
    other = fitted.sample(50, num_candidates=500, generator=seeded(4))
    for j in range(2):
        assert torch.equal(first.observations[j], again.observations[j])
        assert torch.equal(first.observations[j], chunked.observations[j])
        assert not torch.equal(first.observations[j], other.observations[j])
        assert not first.observations[j].requires_grad


def test_noisy_latents_are_averaged() -> None:
    """Latents of variance v about x: F = E[exp l] weighs a pair by its mean over them."""
    base = rp.EstimatedMarginal(normal, normal, num_samples=512, generator=seeded(), hold=True)
    recognition = rp.EpsilonGaussian(nn.Identity(), epsilon=0.1)
    noisy = rp.RPM(recognition, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=0.5)), marginal=base)
    x = torch.cat(noisy.sample(2000, num_candidates=4000, num_samples=8, generator=seeded(1)).observations, 1)
    assert 0.4 < float(torch.corrcoef(x.T)[0, 1]) < 0.95


def pairs(n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
    return normal(n, generator), normal(n, generator)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-torch.inf, "got weight zero for all of 6, an effective sample size of zero. Nothing is sampled"),
        (torch.nan, "got 1 NaN or infinite weights of 6, an effective sample size of zero"),
        (torch.inf, "got 1 NaN or infinite weights of 6"),
    ],
)
def test_an_effective_size_of_zero_is_an_error(value: float, words: str) -> None:
    def log_weight(*observations: Tensor) -> Tensor:
        out = torch.full((len(observations[0]),), value if value == -torch.inf else 0.0)
        out[0] = value
        return out

    with pytest.raises(ValueError, match=words):
        resampled(pairs, log_weight, num=2, num_candidates=6, chunk=6, generator=None)


def test_candidates_of_weight_zero_are_never_drawn() -> None:
    def log_weight(*observations: Tensor) -> Tensor:
        return torch.where(observations[0][:, 0] > 0, -1000.0, -torch.inf)

    drawn = resampled(pairs, log_weight, num=100, num_candidates=60, chunk=7, generator=seeded())
    positive = int((pairs(60, seeded())[0] > 0).sum())
    assert drawn.effective_size == pytest.approx(positive, rel=1e-6)
    assert bool((drawn.observations[0] > 0).all())


def test_a_model_that_cannot_give_the_candidates_gives_no_samples() -> None:
    """Far out, where P(z, z') is zero in single precision and R(z) is not."""
    base = rp.EstimatedMarginal(*[lambda n, generator: torch.full((n, 1), 1e20)] * 2, num_samples=8)
    recognition = rp.EpsilonGaussian(nn.Identity(), epsilon=0.1)
    with pytest.raises(ValueError, match=r"weight zero for all of 10, an effective sample size of zero\. Nothing"):
        rp.RPM(recognition, rp.JointGaussianPrior(1), marginal=base).sample(5, num_candidates=10, generator=seeded())


@pytest.mark.parametrize("name", ["num", "num_candidates", "chunk", "num_samples"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"a whole number {name} >= 1; got {value}"):
        model().sample(**{name: value})  # pyright: ignore[reportArgumentType]
