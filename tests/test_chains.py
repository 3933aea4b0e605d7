"""Priors over windows: couplings that read several earlier latents, against loops over time and bank."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld
from recparam.couplings import Coupling, chain_steps

DOUBLE = torch.float64


def chain(length: int = 4, rows: int = 7, dim: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, dim, generator=generator, dtype=DOUBLE) for _ in range(length)]


def by_loops(log_f: Callable[..., Tensor], order: int, z: list[Tensor], t: int, *, keep: bool = True) -> Tensor:
    """log f less the log-mean of f over the bank, of one step of a chain, row by row and column by column."""
    rows = len(z[0])
    values = []
    for i in range(rows):
        before = [z[t - k][i] for k in range(order, 0, -1)]
        all_f = [log_f(*before, z[t][j]) for j in range(rows) if keep or j != i]
        values.append(log_f(*before, z[t][i]) - torch.stack(all_f).exp().mean().log())
    return torch.stack(values)


def velocity(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    return -0.5 * (after - (2 * now - before)).square().sum() / 0.7**2


def near(now: Tensor, after: Tensor) -> Tensor:
    return -0.5 * (after - now).square().sum() / 0.5**2


def rbf(lengthscale: float) -> rp.GaussianRBF:
    """With a lengthscale in double precision."""
    coupling = rp.GaussianRBF(1.0).double()
    with torch.no_grad():
        coupling.log_lengthscale.fill_(math.log(lengthscale))
    return coupling


VELOCITY = rp.After(rp.ConstantVelocity(), rbf(0.7))
NEAR = rbf(0.5)


def both(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    return velocity(before, now, after) + near(now, after)


@pytest.mark.parametrize("side", [None, "upper"])
def test_an_order_two_chain_is_its_loops_over_time_and_bank(side: Any) -> None:
    z, keep = chain(), side is None
    later = by_loops(velocity, 2, z, 2, keep=keep) + by_loops(velocity, 2, z, 3, keep=keep)
    for first, start in ((None, torch.zeros(7)), (NEAR, by_loops(near, 1, z, 1, keep=keep))):
        value = rp.InfoNCEPrior(VELOCITY, first=first).log_ratio(*z, side=side)
        torch.testing.assert_close(value, start + later, rtol=0, atol=1e-10)


def test_a_sum_scores_the_first_steps_by_what_reads_no_further_back() -> None:
    z = chain()
    expected = by_loops(near, 1, z, 1) + by_loops(both, 2, z, 2) + by_loops(both, 2, z, 3)
    # The factor that fits goes before `first`, which would change the value.
    prior = rp.InfoNCEPrior(VELOCITY + NEAR, first=rp.Cosine())
    torch.testing.assert_close(prior.log_ratio(*z), expected, rtol=0, atol=1e-10)
    assert prior.scored_steps(4) == 3 and rp.InfoNCEPrior(VELOCITY).scored_steps(4) == 2


def test_two_time_scales_read_each_their_own_latent() -> None:
    z = chain()
    slow = rp.AtLag(rp.OnDimensions(rbf(0.9), [0]), 3)
    fast = rp.OnDimensions(rbf(0.5), [1])

    def of_fast(now: Tensor, after: Tensor) -> Tensor:
        return -0.5 * (after[1] - now[1]).square() / 0.5**2

    def of_both(earliest: Tensor, _: Tensor, now: Tensor, after: Tensor) -> Tensor:
        return of_fast(now, after) - 0.5 * (after[0] - earliest[0]).square() / 0.9**2

    expected = by_loops(of_fast, 1, z, 1) + by_loops(of_fast, 1, z, 2) + by_loops(of_both, 3, z, 3)
    torch.testing.assert_close(rp.InfoNCEPrior(fast + slow).log_ratio(*z), expected, rtol=0, atol=1e-10)
    alone = rp.InfoNCEPrior(slow).log_ratio(*z)
    slow_alone = by_loops(lambda a, _b, _c, d: -0.5 * (d[0] - a[0]).square() / 0.9**2, 3, z, 3)
    torch.testing.assert_close(alone, slow_alone, rtol=0, atol=1e-10)


def test_a_lag_of_an_order_two_coupling() -> None:
    z = torch.arange(8, dtype=DOUBLE).reshape(1, 8) ** 2 / 10
    lagged, after = rp.AtLag(VELOCITY, 3), torch.tensor([[0.3, 0.1]], dtype=DOUBLE)
    assert lagged.order == 4
    torch.testing.assert_close(lagged(z, after), VELOCITY(z[:, :4], after))
    torch.testing.assert_close(lagged.score()(z, after)[0], VELOCITY(z[:, :4], after))


@pytest.mark.parametrize(
    ("transition", "expected"),
    [
        (rp.ConstantVelocity(), lambda a, b: 2 * b - a),
        (rp.Damped(0.3), lambda a, b: b + 0.3 * (b - a)),
        (rp.LinearAR(2, 2), lambda a, b: b),
    ],
)
def test_where_transitions_lead(transition: nn.Module, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b, _, _ = chain()
    torch.testing.assert_close(transition.double()(torch.cat([a, b], -1)), expected(a, b))


def test_a_linear_ar_names_its_matrices_from_the_latest() -> None:
    a, b, _, _ = chain()
    ar = rp.LinearAR(2, 2).double()
    with torch.no_grad():
        ar.weight.copy_(torch.arange(8, dtype=DOUBLE).reshape(2, 4))
        ar.offset.fill_(0.5)
    latest, earlier = ar.matrices
    torch.testing.assert_close(ar(torch.cat([a, b], -1)), b @ latest.T + a @ earlier.T + 0.5)


def test_learned_transitions_follow_a_rotation_that_no_pair_could_tell() -> None:
    """Points on a circle that turn either way: where one goes next needs two of them."""
    generator = torch.Generator().manual_seed(0)
    start, turn = 6.3 * torch.rand(256, generator=generator), (torch.randint(2, (256,), generator=generator) - 0.5)
    x = [torch.stack([torch.cos(start + k * turn), torch.sin(start + k * turn)], -1) for k in range(3)]
    values = {}
    torch.manual_seed(0)
    for name, transition in {"AR": rp.LinearAR(2, 2), "staying": rp.LinearAR(1, 2)}.items():
        prior = rp.InfoNCEPrior(rp.After(transition, rp.GaussianRBF(lengthscale=0.2)))
        optimiser = torch.optim.Adam(prior.parameters(), lr=0.05)
        scored = x if name == "AR" else x[1:]
        for _ in range(100):
            optimiser.zero_grad()
            (-prior.log_ratio(*scored).mean()).backward()
            optimiser.step()
        values[name] = prior.log_ratio(*scored).mean().item()
        if name == "AR":  # z_{t+1} = 2 cos(1/2) z_t - z_{t-1}
            expected = torch.stack([1.755 * torch.eye(2), -torch.eye(2)])
            torch.testing.assert_close(transition.matrices.detach(), expected, rtol=0, atol=0.2)
    assert values["AR"] > values["staying"] + 0.5


def test_the_ceiling_counts_the_steps_that_are_scored() -> None:
    """At the best f imaginable, whose own term is all of its denominator, every scored step is at log B."""
    z = [3.0 * k + 10 * torch.arange(8.0)[:, None] for k in range(5)]
    sharp = rp.After(rp.ConstantVelocity(), rp.GaussianRBF(lengthscale=0.01))
    for first, steps in ((None, 3), (rp.StepLength(3.0, width=0.01), 4)):
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(sharp, first=first)).eval()
        with pytest.warns(rp.CeilingWarning):
            bound = model.elbo(*z)
        assert bound.ceiling == pytest.approx(steps * math.log(8))
        assert float(bound) == pytest.approx(bound.ceiling, abs=1e-4)
    random = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(sharp)).train()
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        bound = random.elbo(*(0.02 * torch.randn(8, 1, generator=generator) for _ in range(5)))
        assert float(bound) <= 3 * math.log(8) + 1e-5


def test_over_a_data_set_the_chain_is_exact_and_bounds_the_total_correlation() -> None:
    world = GaussianWorld(torch.eye(2, dtype=DOUBLE), 0.0, rho=0.8)
    x = world.sample(400, torch.Generator().manual_seed(0), steps=3)
    # The chain is of order one: the best f of two earlier latents ignores the first. It is N(rho z_t, 1 - rho^2) over
    # N(0, 1), which is a Gaussian around z_t / rho.
    ar = rp.LinearAR(2, 2)
    with torch.no_grad():
        ar.weight.div_(0.8)
    width = (1 - 0.8**2) ** 0.5 / 0.8
    first = rp.After(rp.LinearAR(1, 2), rp.GaussianRBF(lengthscale=width))
    with torch.no_grad():
        first.transition.weight.div_(0.8)  # type: ignore[attr-defined]
    prior = rp.InfoNCEPrior(rp.After(ar, rp.GaussianRBF(lengthscale=width)), first=first).double()
    model = rp.RPM(world.recognition(), prior, marginal=rp.DatasetMarginal(*x)).eval()
    bound = model.elbo(*x)
    assert bound.kind == "exact"
    assert float(bound) == pytest.approx(world.total_correlation(3), abs=0.12)
    assert float(model.mutual_information(*x).lower) == float(bound)
    unscored = rp.RPM(world.recognition(), rp.InfoNCEPrior(prior.coupling), marginal=rp.DatasetMarginal(*x)).eval()
    assert float(unscored.elbo(*x)) == pytest.approx(world.total_correlation(2), abs=0.12)


def test_values_that_start_from_data_use_contexts() -> None:
    z = chain(length=3, rows=50)
    prior = rp.InfoNCEPrior(rp.After(rp.ConstantVelocity(), rp.StepLength()), first=rp.StepLength()).double()
    prior.initialise(*z)
    missed = torch.linalg.vector_norm(z[2] - (2 * z[1] - z[0]), dim=-1).median()
    torch.testing.assert_close(prior.coupling.coupling.radius, missed)  # type: ignore[union-attr]
    steps = torch.linalg.vector_norm(torch.cat([z[1] - z[0], z[2] - z[1]]), dim=-1).median()
    torch.testing.assert_close(prior.first.radius, steps)  # type: ignore[union-attr]


def test_training_moves_every_part_of_a_chain() -> None:
    net = nn.Linear(3, 2)
    coupling = rp.After(rp.NeuralTransition(2, 2, hidden=4), rp.GaussianRBF()) + rp.AtLag(rp.GaussianRBF(), 3)
    model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(coupling, first=rp.Cosine()))
    (-model.elbo(*(torch.randn(9, 3) for _ in range(4))).value).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name


def test_p_of_the_next_latent_on_a_grid_takes_the_context() -> None:
    grid = torch.linspace(-4, 4, 81)[:, None]
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(VELOCITY)).float()
    probabilities = model.predict(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), grid)
    torch.testing.assert_close(probabilities @ grid, torch.tensor([[2.0], [-2.0]]), rtol=0, atol=0.05)
    predicted = rp.Prediction(model.prior.coupling.score(), torch.tensor([[0.0, 1.0]]), grid)
    assert predicted.mean().item() == pytest.approx(2.0, abs=0.05)


def test_formulas() -> None:
    prior = rp.InfoNCEPrior(rp.After(rp.LinearAR(2, 2), rp.GaussianRBF(0.5)) + rp.AtLag(rp.Cosine(0.1), 3))
    assert prior.formula() == (
        "P(z_{t+1}|z_{t-2}, z_{t-1}, z_t) = R(z_{t+1}) f(z_{t-2}, z_{t-1}, z_t, z_{t+1}) / Z(z_{t-2}, z_{t-1}, z_t), "
        "log f(z_{t-2}, z_{t-1}, z_t, z_{t+1}) = -1/2 |(A_1 z_t + A_2 z_{t-1} + b) - z_{t+1}|^2 / 0.5^2 "
        "+ cos(z_{t-2}, z_{t+1}) / 0.1"
    )
    assert rp.InfoNCEPrior(rp.Bilinear(2)).formula() == (
        "P(z'|z) = R(z') f(z, z') / Z(z), log f(z, z') = z^T theta z'"
    )


MODEL = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(VELOCITY))


def two() -> list[Tensor]:
    return chain(length=2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MODEL.elbo(*two()), "more than 2 latents.*order 2; got 2"),
        (lambda: MODEL.predictive(*two()), "2 earlier latents side by side.*got widths 2 and 2"),
        (lambda: MODEL.match(*two()), "more than 2 latents"),
        (lambda: MODEL.predict(torch.zeros(1, 2), torch.zeros(3, 2)), "got widths 2 and 2"),
        (lambda: rp.InfoNCEPrior(VELOCITY).check_widths([2, 3, 3]), r"one width.*\[2, 3, 3\]"),
        (lambda: rp.InfoNCEPrior(NEAR, first=VELOCITY), "order 1"),
        (lambda: rp.AtLag(NEAR, 0), "lag >= 1; got 0"),
        (lambda: rp.After(rp.ConstantVelocity(), VELOCITY), "order 1.*got one of order 2"),
        (lambda: rp.After(rp.LinearAR(2, 3), NEAR)(torch.zeros(4), torch.zeros(2)), "width 3 .*LinearAR; got 2"),
        (lambda: rp.After(rp.NeuralTransition(2, 3), NEAR)(torch.zeros(4), torch.zeros(2)), "width 3.*got 2"),
        (lambda: rp.LinearAR(0, 3), "order >= 1"),
        (lambda: rp.NeuralTransition(1, 3, hidden=0), "hidden >= 1"),
        (lambda: rp.Damped(math.nan), "damping as a finite number"),
        (lambda: rp.ConstantVelocity()(torch.zeros(3)), "divisible by 2; got width 3"),
        ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_steps_of_a_coupling_of_order_one_are_all() -> None:
    coupling: Coupling = rp.GaussianRBF(1.0)
    assert [(s.index, s.coupling) for s in chain_steps(coupling, None, 4)] == [(t, coupling) for t in (1, 2, 3)]
