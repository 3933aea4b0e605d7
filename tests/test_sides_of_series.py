"""The lower and the upper side against a bank that is a series: which order of its rows makes them honest."""

import math

import numpy as np
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import standard
from quick_fits import quick
from recparam.marginals.bank import halves_in_turn
from recparam.model.sides import Against, sides_of_latents

RHO, ROWS = 0.9, 64
WORLD = standard(1, rho=RHO)
PRIOR = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)).double()


def series(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return neighbours (x_t, x_{t+1}) of a stationary AR(1) series, in order of time."""
    x = torch.stack([step[0] for step in WORLD.sample(1, generator, steps=rows + 1)])
    return x[:-1], x[1:]


@torch.no_grad()
def test_two_stretches_of_a_series_enclose_the_truth_and_neighbours_in_turn_do_not() -> None:
    """Over many stationary AR(1) banks of 7 correlation times: mean lower < truth < mean upper."""
    generator, truth = torch.Generator().manual_seed(0), WORLD.rbf(1.0)
    found = []
    points = [rp.Deterministic(nn.Identity()) for _ in range(2)]
    for _ in range(120):
        bank, scored = series(ROWS, generator), WORLD.sample(30, generator)
        sides = sides_of_latents(PRIOR, scored, Against(bank), labels=None, context=1, sides=("lower", "upper"))
        in_turn = rp.RPM(points, PRIOR, marginal=rp.DatasetMarginal(*bank)).elbo(*scored, side="lower")
        found.append([float(side) for side in (*sides, in_turn)])
    values = np.array(found)
    lower, upper, in_turn = values.mean(0)
    errors = values.std(0) / math.sqrt(len(values))
    assert 0 < lower < truth - 2 * errors[0]
    assert upper > truth + 2 * errors[1]
    assert in_turn > truth + 2 * errors[2]  # even rows of a series know the odd ones


@torch.no_grad()
def test_sides_are_in_order_at_every_row_whatever_the_bank() -> None:
    generator = torch.Generator().manual_seed(0)
    z, z_prime = WORLD.sample(50, generator)
    drifting = torch.linspace(-2, 4, ROWS, dtype=torch.float64)[:, None]
    for bank in (drifting, 0 * drifting, *(series(ROWS, generator)[1] for _ in range(3))):
        against = Against((bank, bank))
        lower, upper = sides_of_latents(
            PRIOR, (z, z_prime), against, labels=None, context=1, sides=("lower", "upper")
        )
        assert bool((lower.per_observation <= upper.per_observation + 1e-12).all())


def test_each_half_of_the_order_is_a_stretch() -> None:
    assert halves_in_turn(6).tolist() == [0, 3, 1, 4, 2, 5]
    assert halves_in_turn(5).tolist() == [0, 3, 1, 4, 2]


def test_an_estimator_splits_its_bank_in_time_also_where_lags_come_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    rows = np.tanh(np.cumsum(0.3 * rng.normal(size=(300, 4)), axis=0))
    fitted = quick(max_steps=3, lag=(1, 2), bank_size=200).fit(rows[:200])
    lower, upper = (fitted.elbo(rows[200:], side=side) for side in ("lower", "upper"))
    assert (lower.kind, upper.kind) == ("lower", "upper")
    assert bool((lower.per_observation <= upper.per_observation + 1e-5).all())
    bank = fitted._head.bank[1]
    before, after = bank[: len(bank) // 2], bank[len(bank) // 2 :]
    assert float((bank[1:] - bank[:-1]).norm(dim=1).median()) < float((bank - bank.mean(0)).norm(dim=1).mean()) / 2
    x, x_prime = (torch.from_numpy(fitted.transform(rows[200 + t : 299 + t])) for t in range(2))
    score, log_f = fitted.prior_.coupling.score(), fitted.prior_.coupling(x, x_prime)
    a, b = (score(x, half).logsumexp(1) - math.log(len(half)) for half in (before, after))
    expected = log_f + 1 - (a + b) / 2 - (a - b).cosh()
    torch.testing.assert_close(lower.per_observation[:99], expected.detach(), rtol=1e-3, atol=1e-3)
