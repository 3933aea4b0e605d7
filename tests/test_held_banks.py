"""Held banks: the same numbers as encoding at each call, in chunks, and what they are called once they are old."""

import copy
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound
from recparam.priors import Prior
from recparam.recognition import RecognitionModel
from recparam.testing import INPUT_WIDTH, RECOGNITION_MODELS


class Counted(nn.Module):
    """A small network with batch norm that notes how many rows each pass has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUT_WIDTH, 2), nn.BatchNorm1d(2))
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        return self.layers(x)


def observations(count: int = 11) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, INPUT_WIDTH, generator=generator) for _ in range(2)]


def prior() -> Prior:
    return rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))


def counted(*, hold: bool = True, chunk: int = 4) -> tuple[rp.RPM, Counted, rp.DatasetMarginal, list[Tensor]]:
    torch.manual_seed(0)
    data, net = observations(), Counted()
    marginal = rp.DatasetMarginal(*data, hold=hold, chunk=chunk)
    return rp.RPM(rp.Deterministic(net), prior(), marginal=marginal).eval(), net, marginal, data


@pytest.mark.parametrize("latents", RECOGNITION_MODELS)
@pytest.mark.parametrize("rows", [None, [4, 0, 9]], ids=["all rows", "some rows"])
def test_values_are_those_of_encoding_at_each_call(latents: str, rows: Sequence[int] | None) -> None:
    torch.manual_seed(0)
    recognition: RecognitionModel = RECOGNITION_MODELS[latents](3)
    data, weights = observations(), torch.linspace(1, 2, 11)
    index = None if rows is None else torch.tensor(rows)
    scored = data if index is None else [x[index] for x in data]
    bounds: list[Bound] = []
    for hold in (False, True):
        marginal = rp.DatasetMarginal(*data, weights=weights, hold=hold, chunk=4)
        model = rp.RPM(recognition, prior(), marginal=marginal)
        with torch.no_grad():
            for _ in range(2):
                bound = model.elbo(*scored, rows=index, num_samples=3, generator=torch.Generator().manual_seed(1))
        bounds.append(bound)
    torch.testing.assert_close(bounds[0].per_observation, bounds[1].per_observation)
    assert bounds[0].kind == bounds[1].kind
    assert bounds[0].ceiling == bounds[1].ceiling


def test_the_data_set_passes_once_and_in_chunks() -> None:
    model, net, marginal, (x, x_prime) = counted()
    with torch.no_grad():
        for _ in range(3):
            assert model.elbo(x[:5], x_prime[:5], rows=torch.arange(5)).kind == "exact"
        # the scored rows and, twice, two of them again; both views of a chunk in one pass: 4 + 4, 4 + 4, 3 + 3 rows
        assert net.passes == [10, 4, 4, 8, 8, 6, *[10, 4, 4] * 2]
        marginal.refresh()
        model.elbo(x[:5], x_prime[:5])
    assert net.passes[12:] == [10, 4, 4, 8, 8, 6]


def test_encoding_leaves_batch_norm_as_it_is() -> None:
    model, net, _, (x, x_prime) = counted()
    model.train()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        net.layers[1].eval()
        model.elbo(x, x_prime)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert net.training and not net.layers[1].training


def step(model: rp.RPM, x: Tensor, x_prime: Tensor) -> Bound:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    bound = model.elbo(x, x_prime)
    (-bound.value).backward()
    optimiser.step()
    return bound


def test_a_bank_older_than_the_encoder_warns_and_is_no_longer_exact() -> None:
    model, net, marginal, data = counted()
    with torch.no_grad():
        assert model.elbo(*data).kind == "exact"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step(model, *data).kind == "estimate"  # not old, but without the bank's gradient
    with torch.no_grad():
        for side in (None, "upper", "lower"):
            with pytest.warns(UserWarning, match=r"older than the encoder.*marginal\.refresh\(\)"):
                old = model.elbo(*data, side=side)
            assert old.kind == "estimate" and old.ceiling is None
        with pytest.warns(UserWarning, match="older"):
            assert model.log_marginal(*data).kind == "estimate"
        with pytest.warns(UserWarning, match="older"):
            assert model.mutual_information(*data).lower.kind == "lower"  # of the scored batch, the bank unused
        marginal.refresh()
        fresh = model.elbo(*data)
        assert fresh.kind == "exact" and float(fresh) != float(old)
        net.layers[1].running_mean.data += 0.5  # a buffer, changed where no version counter sees it
        with pytest.warns(UserWarning, match="older"):
            model.elbo(*data)


def test_its_age_is_counted_in_training_steps() -> None:
    model, _, marginal, data = counted()
    net = model.recognition[0]
    assert isinstance(net, RecognitionModel)
    net.requires_grad_(True)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    step(model, *data)
    for expected in (1, 2):
        with torch.no_grad(), pytest.warns(UserWarning, match="older"):
            recognised = model._recognised(data, {})
        assert recognised.joint.bank.staleness == expected
        with pytest.warns(UserWarning, match="older"):
            step(model, *data)
    marginal.refresh()
    with torch.no_grad():
        assert model._recognised(data, {}).joint.bank.age is None


def test_the_gradient_is_that_of_the_scored_rows_alone() -> None:
    model, net, _, data = counted()
    assert (bound := model.elbo(*data)).kind == "estimate" and bound.ceiling is None
    bound.value.backward()
    held = net.layers[0].weight.grad
    fresh, other, _, _ = counted(hold=False)
    other.load_state_dict(net.state_dict())
    reference = fresh.elbo(*data)
    assert reference.kind == "exact"
    torch.testing.assert_close(reference.value, bound.value)
    reference.value.backward()
    assert held is not None and bool(torch.isfinite(held).all())
    assert not torch.allclose(held, other.layers[0].weight.grad, rtol=0.1)
    z = [net(x).detach() for x in data]
    z_prime = net(data[1])
    log_z = (-0.5 * torch.cdist(net(data[0]), z[1]).square()).logsumexp(1)
    by_hand = (-0.5 * (net(data[0]) - z_prime).square().sum(1) - log_z).mean()
    net.zero_grad()
    by_hand.backward()
    torch.testing.assert_close(held, net.layers[0].weight.grad)


def test_another_dtype_encodes_anew() -> None:
    model, _, _, data = counted()
    with torch.no_grad():
        single = model.elbo(*data)
        double = rp.RPM(model.recognition[0].double(), model.prior.double(), marginal=model.marginal).eval()
        held = [x.double() for x in data]
        with pytest.raises(ValueError, match="dtype"):
            double.elbo(*held)  # the data set itself is in single precision
        model.float()
    assert float(model.elbo(*data)) == pytest.approx(float(single), rel=1e-6)


class Odd(RecognitionModel):
    """A recognition model whose distribution is not one of the library's."""

    def _distribution(self, parameters: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Laplace(parameters, torch.ones_like(parameters)), 1)


def test_bad_input() -> None:
    data = observations()
    with pytest.raises(ValueError, match="whole number chunk >= 1; got 0"):
        rp.DatasetMarginal(*data, hold=True, chunk=0)
    model = rp.RPM(Odd(nn.Identity()), prior(), marginal=rp.DatasetMarginal(*data, hold=True))
    with pytest.raises(ValueError, match="Dirac, diagonal Gaussian or categorical.*Independent.*hold=False"):
        model.elbo(*data)
