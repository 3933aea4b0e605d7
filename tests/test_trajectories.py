"""Trajectories of a prior, against its own probabilities, and their picture."""

from typing import Any

import pytest
import torch

import recparam as rp

GRID = torch.linspace(-2, 2, 5)[:, None]
PLANE = torch.cartesian_prod(torch.linspace(-4, 4, 9), torch.linspace(-4, 4, 9))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def index_of(path: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    return (path[:, :, None] == base).all(-1).double().argmax(-1)


def test_each_step_has_the_probabilities_of_the_prior() -> None:
    near = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.2))
    path = index_of(rp.trajectories(near, GRID, 3, num=20_000, generator=seeded()), GRID)
    table = torch.softmax(-0.5 * ((GRID - GRID.T) / 1.2).square(), 1)  # Eq. 21 on a finite R
    torch.testing.assert_close(path[:, 0].bincount() / 20_000, torch.full((5,), 0.2), rtol=0, atol=0.015)
    for t in (1, 2):
        for z in range(5):
            following = path[path[:, t - 1] == z, t].bincount(minlength=5).double()
            torch.testing.assert_close((following / following.sum()).float(), table[z], rtol=0, atol=0.03)


def test_first_steps_are_those_that_the_prior_scores() -> None:
    """Order two: with `first` the second latent is near, without it is of R; then the velocity stays."""
    line = torch.arange(0, 400.0)[:, None]
    steady = rp.After(rp.ConstantVelocity(), rp.GaussianRBF(lengthscale=0.05))
    started = rp.InfoNCEPrior(steady, first=rp.StepLength(radius=1.0, width=0.05))
    path = rp.trajectories(started, line, 3, num=200, generator=seeded())[:, :, 0]
    assert bool(((path[:, 1] - path[:, 0]).abs() == 1).all())
    inside = (2 * path[:, 1] - path[:, 0] >= 0) & (2 * path[:, 1] - path[:, 0] < 400)
    assert inside.sum() > 150 and bool((path[inside, 2] == (2 * path[:, 1] - path[:, 0])[inside]).all())
    free = rp.trajectories(rp.InfoNCEPrior(steady), line, 3, num=4000, generator=seeded())[:, :, 0]
    assert abs(float((free[:, 1] - free[:, 0]).abs().mean()) - 400 / 3) < 8  # of two independent uniform draws


def test_densities_are_drawn_on_the_base_as_on_a_grid() -> None:
    table = rp.JointCategoricalPrior(3, 3)
    table.logits.data = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0.5, 0]])
    path = index_of(rp.trajectories(table, torch.eye(3), 2, num=30_000, generator=seeded()), torch.eye(3))
    found = torch.zeros(3, 3).index_put_((path[:, 0], path[:, 1]), torch.ones(()), accumulate=True) / 30_000
    torch.testing.assert_close(found, table.logits.detach().flatten().softmax(0).view(3, 3), rtol=0, atol=0.01)
    normal = rp.JointGaussianPrior(1, correlation=0.9)
    drawn = rp.trajectories(normal, torch.linspace(-5, 5, 501)[:, None], 2, num=20_000, generator=seeded())[:, :, 0]
    assert abs(float(torch.corrcoef(drawn.T)[0, 1]) - 0.9) < 0.01 and abs(float(drawn[:, 1].var()) - 1) < 0.05


def test_the_same_generator_gives_the_same_trajectories() -> None:
    prior = rp.InfoNCEPrior(rp.StepLength(radius=1.0, width=0.3))
    one, other = (rp.trajectories(prior, PLANE, 6, num=4, generator=seeded()) for _ in range(2))
    assert one.shape == (4, 6, 2) and torch.equal(one, other) and not one.requires_grad


@pytest.mark.parametrize(
    ("prior", "base", "steps", "words"),
    [
        (rp.InfoNCEPrior(rp.GaussianRBF(1.0)), PLANE, 1, "steps >= 2; got 1"),
        (rp.InfoNCEPrior(rp.GaussianRBF(1.0)), PLANE * float("nan"), 3, "base"),
        (rp.InfoNCEPrior(rp.GaussianRBF()), PLANE, 3, "lengthscale is set"),
        (rp.InfoNCEPrior(rp.Bilinear(3)), PLANE, 3, "3"),
        (rp.InfoNCEPrior(rp.After(rp.ConstantVelocity(), rp.GaussianRBF(1.0))), PLANE, 2, "more than 2 latents"),
        (rp.OptimalPrior(), PLANE, 3, "OptimalPrior"),
        (rp.InfoNCEPrior(rp.JointCritic(2)), PLANE.double(), 3, "base of dtype torch.float32"),
        (rp.JointGaussianPrior(2), PLANE + 1e20, 3, "within reach of JointGaussianPrior"),
        (rp.JointCategoricalPrior(2, 2), PLANE, 3, "one-hot|widths"),
        (rp.JointCategoricalPrior(3, 3, 3), torch.eye(3), 3, "widths"),
    ],
)
def test_bad_input_is_named(prior: Any, base: torch.Tensor, steps: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rp.trajectories(prior, base, steps)


@pytest.mark.parametrize(
    ("prior", "base", "dims", "axes"),
    [
        (rp.InfoNCEPrior(rp.StepLength(radius=1.0, width=0.2)), PLANE, None, 6),
        (rp.InfoNCEPrior(rp.After(rp.Damped(), rp.GaussianRBF(0.5))), PLANE, None, 6),
        (rp.InfoNCEPrior(rp.GaussianRBF(1.0)), torch.randn(60, 5, generator=seeded()), None, 6),
        (rp.InfoNCEPrior(rp.GaussianRBF(1.0)), torch.randn(60, 5, generator=seeded()), (3, 1), 6),
        (rp.JointGaussianPrior(1), GRID, None, 2),
    ],
)
def test_picture_of_a_prior(prior: Any, base: torch.Tensor, dims: Any, axes: int) -> None:
    figure = rp.draw_prior(prior, base, steps=5, dims=dims)
    assert len(figure.axes) == axes
    drawn = rp.trajectories(prior, base, 5, num=3, generator=seeded())
    if axes == 2:
        assert figure.axes[1].lines[0].get_ydata() == pytest.approx(drawn[0, :, 0].numpy())
    elif dims or base.shape[1] == 2:
        wanted = drawn[1][:, list(dims or (0, 1))].numpy()
        assert figure.axes[4].lines[0].get_xydata() == pytest.approx(wanted)
        assert figure.axes[3].get_xlabel() == f"$z_{(dims or (0, 1))[0] + 1}$"
    else:
        assert figure.axes[0].get_xlabel() == "PC 1"


def test_what_has_no_picture_is_refused() -> None:
    prior = rp.InfoNCEPrior(rp.GaussianRBF(1.0))
    for base in (torch.randn(1, 5), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="base"):
            rp.draw_prior(prior, base)


@pytest.mark.parametrize("dims", [(0, 0), (0, 2), (-1, 0)])
def test_dims_are_two_latents(dims: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two different latents of 0 to 1"):
        rp.draw_prior(rp.InfoNCEPrior(rp.GaussianRBF(1.0)), PLANE, dims=dims)
    with pytest.raises(ValueError, match="steps >= 3; got 2"):
        rp.draw_prior(rp.InfoNCEPrior(rp.After(rp.Damped(), rp.GaussianRBF(1.0))), PLANE, steps=2)


def test_priors_with_densities_print_their_formula() -> None:
    assert rp.JointGaussianPrior(2, correlation=0.5).formula().endswith("rho = [0.5, 0.5]")
    assert rp.JointCategoricalPrior(2, 3).formula() == "P(z, z') = softmax(theta)[z, z'], theta 2 x 3"
    assert rp.OptimalPrior().formula() == "P(z, z') = R(z, z')"
