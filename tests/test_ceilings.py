"""A value that sits at its ceiling says so, once, where it is looked at, and with what to raise."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld, standard
from recparam.bounds import CeilingWarning, warn_at_ceiling
from recparam.couplings import Coupling
from recparam.marginals import Marginal
from recparam.priors import JointCategoricalPrior, Prior


def model(
    world: GaussianWorld, prior: Prior | None = None, marginal: Marginal | None = None, *, rho: float = 0.9
) -> rp.RPM:
    prior = rp.InfoNCEPrior(critic(world.dim, rho)) if prior is None else prior
    return rp.RPM(world.recognition(), prior, marginal=marginal).double().eval()


def critic(dim: int, rho: float) -> Coupling:
    """The optimal f for unit Gaussians of correlation rho, a function of z apart."""
    theta = rho / (1 + rho) * torch.eye(dim)
    return rp.GaussianRBF(lengthscale=(1 - rho**2) ** 0.5 / rho) + rp.Bilinear(dim, theta=theta)


def batch(world: GaussianWorld, size: int, *, steps: int = 2) -> list[Tensor]:
    return world.sample(size, torch.Generator().manual_seed(0), steps=steps)


def test_it_says_what_to_raise() -> None:
    world = standard(20)
    x, x_prime = batch(world, 64)
    fitted = model(world)
    words = (
        r"ELBO - const is at its ceiling of 4\.159 nats, which is all that 64 rows can show\. "
        r"Use a larger batch: with 174 rows the ceiling is 5\.159"
    )
    with pytest.warns(CeilingWarning, match=words):
        bound = fitted.elbo(x, x_prime)
    assert bound.ceiling == pytest.approx(math.log(64))
    assert issubclass(CeilingWarning, UserWarning)
    # as many rows as it names do lift the ceiling, here with more to show
    with pytest.warns(CeilingWarning):
        more = fitted.elbo(*batch(world, 174))
    assert more.ceiling is not None
    assert more.ceiling > bound.ceiling + 1 - 1e-3
    assert float(more) > bound.ceiling


def test_every_quantity_with_a_ceiling_warns() -> None:
    world = standard(20)
    x, x_prime = batch(world, 64)
    fitted = model(world)
    with pytest.warns(CeilingWarning, match=r"log P\(x, x'\)"):
        fitted.log_marginal(x, x_prime)
    with pytest.warns(CeilingWarning, match="MI is at its ceiling"):
        fitted.mutual_information(x, x_prime)
    with pytest.warns(CeilingWarning, match="MI is at its ceiling"):
        fitted.decompose(x, x_prime, critic=critic(20, 0.9).double())
    with pytest.warns(CeilingWarning, match="MI is at its ceiling"):
        fitted.infonce(x, x_prime)
    with pytest.warns(CeilingWarning, match="Use a larger data set"):
        model(world, marginal=rp.DatasetMarginal(x, x_prime)).elbo(x, x_prime)
    queue = model(world, marginal=rp.QueueMarginal(8, widths=[20, 20]))
    with pytest.warns(CeilingWarning, match="Use a larger queue"):
        queue.elbo(x, x_prime)
    noisy = standard(20, variance=0.01)
    with pytest.warns(CeilingWarning, match="MI is at its ceiling"):
        model(noisy).mutual_information(x, x_prime)
    one_hot = rp.RPM(rp.Categorical(nn.Embedding.from_pretrained(30 * torch.eye(4))), JointCategoricalPrior(4, 4))
    with torch.no_grad():
        one_hot.prior.get_parameter("logits").copy_(30 * torch.eye(4))
    with pytest.warns(CeilingWarning, match="with 11 rows the ceiling is 2.386"):
        one_hot.eval().elbo(torch.arange(4), torch.arange(4), side="lower")


def test_what_has_no_ceiling_or_is_below_it_is_silent() -> None:
    weak, strong = standard(1), standard(20)
    model(weak).elbo(*batch(weak, 64))
    model(weak).mutual_information(*batch(weak, 64))
    x, x_prime = batch(strong, 64)
    above = model(strong).elbo(x, x_prime, side="upper")
    assert above.ceiling is None
    assert float(above) > math.log(64)
    for name in ("elbo", "log_marginal"):
        getattr(model(strong), name)(x, x_prime, side="upper")
    model(strong).infonce(x, x_prime, constant=1.0)  # a limit of the caller's own


def test_a_training_step_is_silent_and_a_look_is_not() -> None:
    world = standard(20)
    x, x_prime = batch(world, 64)
    fitted = model(world).train()
    fitted.elbo(x, x_prime).value.backward()
    with torch.no_grad(), pytest.warns(CeilingWarning):
        fitted.elbo(x, x_prime)
    with pytest.warns(CeilingWarning):
        fitted.eval().elbo(x, x_prime)


def test_a_loop_over_batches_warns_once() -> None:
    """Python's default filter repeats a warning whose text differs: the text tells nothing that a batch changes."""
    world, generator = standard(20), torch.Generator().manual_seed(0)
    fitted = model(world)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        values = [float(fitted.elbo(*world.sample(64, generator))) for _ in range(5)]
    assert len(set(values)) == 5
    assert [warning.category for warning in caught] == [CeilingWarning]


def test_a_chain_of_three_is_judged_by_its_mean_step() -> None:
    """Two steps at log B each: 0.1 nats a step of 2 log B; the rows that are named lift it by one nat a step."""
    world = standard(20)
    with pytest.warns(CeilingWarning, match=r"ceiling of 8\.318 .* with 174 rows the ceiling is 10\.318"):
        model(world).elbo(*batch(world, 64, steps=3))

    def look(value: float) -> None:
        bound = rp.Bound(torch.tensor(value), torch.tensor([value]), "elbo", "estimate", 2.0)
        warn_at_ceiling(bound, rows=3, steps=2)

    look(1.79)
    look(math.nan)
    with pytest.warns(CeilingWarning):
        look(1.81)


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("dim", [5, 20])
def test_at_the_best_f_a_value_at_its_ceiling_is_short_of_the_truth(dim: int, size: int) -> None:
    """Why 0.1 nats: where it warns, the MI lies above the ceiling, not only above the value."""
    warned = []
    for rho in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99):
        world = standard(dim, rho=rho)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lower = model(world, rho=rho).mutual_information(*batch(world, size)).lower
        assert lower.ceiling is not None
        warned.append(bool(caught))
        assert not caught or world.mi() > lower.ceiling + 1
    assert warned == sorted(warned)  # with a stronger dependence
    assert warned[-1] and not warned[0]
