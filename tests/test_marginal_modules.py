"""Marginals are modules: they move with their model, keep data out of its state, and say what they hold."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.marginals import Marginal
from recparam.testing import MARGINALS

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
Y = X + 0.1


def model_of(marginal: Marginal) -> rp.RPM:
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    return rp.RPM(rp.Deterministic(nn.Linear(2, 2)), prior, marginal=marginal).eval()


@pytest.mark.parametrize("name", MARGINALS)
def test_a_marginal_moves_with_its_model_and_is_copied_with_it(name: str) -> None:
    model = model_of(MARGINALS[name](X, Y))
    with torch.no_grad():
        before = model.elbo(X, Y)
        copied = copy.deepcopy(model).elbo(X, Y)
        model.double()
        after = model.elbo(X.double(), Y.double())
    assert copied.value.item() == before.item() and (copied.kind, copied.ceiling) == (before.kind, before.ceiling)
    assert after.value.dtype == torch.float64
    assert after.item() == pytest.approx(before.item(), abs=1e-5)
    assert after.kind == before.kind


@pytest.mark.parametrize("name", [name for name in MARGINALS if name != "estimated"])  # whose sampler is a lambda
def test_a_marginal_is_pickled_with_its_model(name: str) -> None:
    model = model_of(MARGINALS[name](X, Y))
    with torch.no_grad():
        assert pickle.loads(pickle.dumps(model)).elbo(X, Y).item() == model.elbo(X, Y).item()


@pytest.mark.parametrize("name", MARGINALS)
def test_the_state_of_a_model_holds_no_data_and_only_what_a_queue_remembers(name: str) -> None:
    model = model_of(MARGINALS[name](X, Y))
    added = {key for key in model.state_dict() if key not in model_of(rp.BatchMarginal()).state_dict()}
    assert not list(model.marginal.parameters())
    if name != "queue":
        assert not added and not list(model.marginal.buffers())
        model.load_state_dict(model_of(rp.BatchMarginal()).state_dict())
    else:
        assert added == {f"marginal.{key}" for key in model.marginal.state_dict()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("batch", "BatchMarginal(across_processes=True)"),
        ("data set", "DatasetMarginal(rows=6, hold=False)"),
        ("weighted data set", "DatasetMarginal(rows=6, weighted=True, hold=False)"),
        ("held data set", "DatasetMarginal(rows=6, hold=True)"),
        ("estimated", "EstimatedMarginal(bases=['<lambda>', '<lambda>'], num_samples=32, hold=False)"),
        ("queue", "QueueMarginal(size=8, widths=[2, 2], filled=0)"),
    ],
)
def test_a_repr_says_what_the_bank_is(name: str, text: str) -> None:
    marginal = MARGINALS[name](X, Y)
    assert repr(marginal) == text
    assert f"(marginal): {text}" in repr(model_of(marginal))


def test_a_queue_says_how_much_of_it_is_filled() -> None:
    model = model_of(rp.QueueMarginal(8, widths=[2, 2], exclude_within=None)).train()
    model.elbo(X, Y)
    assert repr(model.marginal) == "QueueMarginal(size=8, widths=[2, 2], filled=6)"
    assert repr(rp.BatchMarginal(exclude_within=2.0)) == "BatchMarginal(exclude_within=2.0, across_processes=True)"


def test_a_held_data_set_takes_the_dtype_and_stays_on_its_device() -> None:
    """It is encoded in chunks, since the model's device may not hold all of it."""
    plain, held = (rp.DatasetMarginal(X, Y, hold=hold).to("meta", torch.float64) for hold in (False, True))
    assert [(x.device.type, x.dtype) for x in plain.observations] == [("meta", torch.float64)] * 2
    assert [(x.device.type, x.dtype) for x in held.observations] == [("cpu", torch.float64)] * 2
    assert torch.equal(held.observations[0], X.double())


def test_moving_to_where_it_is_copies_nothing() -> None:
    marginal = rp.DatasetMarginal(X, Y)
    marginal.to("cpu", torch.float32)
    assert marginal.observations[0] is X


def test_whole_numbers_stay_whole() -> None:
    index = torch.arange(6)
    assert rp.DatasetMarginal(index, X).double().observations[0].dtype == torch.int64


def test_an_unfilled_move_keeps_the_values() -> None:
    """`to_empty` allocates without copying; a data set is not what is to be loaded afterwards."""
    assert torch.equal(rp.DatasetMarginal(X, Y).to_empty(device="cpu").observations[1], Y)


class Base(nn.Module):
    """A base density with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + torch.randn(n, 2, generator=generator, dtype=self.mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.mean).square().sum(-1)


def test_bases_move_with_the_model_and_are_none_of_its_parameters() -> None:
    mixture, base = rp.GaussianMixtureBase.fit(X, components=2), Base()
    model = model_of(rp.EstimatedMarginal(mixture, base, num_samples=16))
    assert "bases=['GaussianMixtureBase', 'Base'], num_samples=16" in repr(model)
    assert not any(p is base.mean for p in model.parameters())
    model.double()
    assert base.mean.dtype == mixture.means.dtype == torch.float64
    assert all(x.dtype == torch.float64 for x in model.marginal.sample_bases(3))
    bound = model.log_prob(X.double(), Y.double())
    assert bound.value.dtype == torch.float64 and bool(bound.value.isfinite())


def test_a_mixture_is_a_module_with_a_state() -> None:
    one, other = (rp.GaussianMixtureBase.fit(x, components=2) for x in (X, Y + 1))
    assert repr(one) == "GaussianMixtureBase(components=2, dim=2)"
    assert set(one.state_dict()) == {"weights", "means", "roots"}
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.log_prob(X), one.log_prob(X))
