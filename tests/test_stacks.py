"""Several batches at once against the same one by one, and the chains that are scored so."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.ops import AbsoluteDistance, DotProduct, SquaredDistance, blocked, pairwise_infonce, stacks
from recparam.ops.stacks import pairwise_infonce_stacked

SCORES: dict[str, Any] = {
    "dot": lambda: DotProduct(),
    "cosine": lambda: DotProduct(normalise=True, scale=torch.tensor(3.0)),
    "distance": lambda: SquaredDistance(torch.tensor(0.7)),
    "distance, per column": lambda: SquaredDistance(torch.tensor([0.7, 2.0, 1.0])),
    "no product": lambda: AbsoluteDistance(torch.tensor(0.7)),
}


def sides(offset: float = 0.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, bank = (torch.randn(4, n, 3, generator=generator, dtype=torch.float64) + offset for n in (6, 9))
    return z.to(dtype).requires_grad_(), bank.to(dtype).requires_grad_(), torch.tensor([2, 0, 8, 3, 3, 1])


def one_by_one(score: Any, z: Tensor, bank: Tensor, own: Tensor) -> Tensor:
    each = [pairwise_infonce(score, *pair, positives=own) for pair in zip(z, bank, strict=True)]
    return torch.stack(each)


@pytest.mark.parametrize("upstream", ["equal", "equal within each", "of its own"])
@pytest.mark.parametrize("name", SCORES)
def test_a_stack_is_its_batches(name: str, upstream: str) -> None:
    z, bank, own = sides()
    weights = {"equal": torch.ones(4, 6), "equal within each": torch.arange(4.0)[:, None].expand(4, 6)}.get(
        upstream, torch.linspace(-1, 2, 24).view(4, 6)
    )
    found = []
    for way in (one_by_one, lambda *given: pairwise_infonce_stacked(*given[:3], positives=given[3])):
        value = way(SCORES[name](), z, bank, own)
        found.append([value, *torch.autograd.grad((weights * value).sum(), (z, bank), retain_graph=True)])
        again = torch.autograd.grad((weights * value).sum(), (z, bank))  # a second backward
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(again, found[-1][1:], strict=True))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_batches_far_from_each_other_are_as_exact() -> None:
    z, bank, own = sides(dtype=torch.float32)
    shift = torch.tensor([0.0, 3e3, -1e3, 5e3])[:, None, None]
    score = SquaredDistance(torch.tensor(0.7))
    exact = one_by_one(SquaredDistance(torch.tensor(0.7).double()), (z + shift).double(), (bank + shift).double(), own)
    got = pairwise_infonce_stacked(score, z + shift, bank + shift, positives=own)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    z, bank, own = sides(dtype=dtype)
    got = pairwise_infonce_stacked(DotProduct(), z, bank, positives=own)
    assert got.dtype == dtype
    torch.testing.assert_close(got, one_by_one(DotProduct(), z, bank, own), rtol=2e-2, atol=3e-2)


def test_weights_masks_and_own_columns_left_out() -> None:
    z, bank, own = sides()
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.3
    for options in (
        {"keep_positive": False},
        {"log_weights": torch.linspace(-1, 1, 9, dtype=torch.float64)},
        {"leave_out": lambda rows: mask[rows]},
    ):
        got = pairwise_infonce_stacked(DotProduct(), z, bank, positives=own, **options)
        each = [pairwise_infonce(DotProduct(), *pair, positives=own, **options) for pair in zip(z, bank, strict=True)]
        torch.testing.assert_close(got, torch.stack(each), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positives": torch.tensor([0, 1, 2, 3, 4, 9])}, "from 0 to 8; got 0 to 9"),
        ({"positives": torch.tensor([0, 1])}, r"shape \(6,\)"),
        ({"z": torch.full((4, 6, 3), math.nan)}, "finite"),
        ({"bank": torch.zeros(4, 9, 3, dtype=torch.float64)}, "one floating-point dtype"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], words: str) -> None:
    z, bank, own = sides(dtype=torch.float32)
    given = {"z": z, "bank": bank, "positives": own} | change
    with pytest.raises(ValueError, match=words):
        pairwise_infonce_stacked(DotProduct(), **given)


def test_a_second_derivative_is_an_error() -> None:
    z, bank, own = sides()
    value = pairwise_infonce_stacked(DotProduct(), z, bank, positives=own).sum()
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(value, z, create_graph=True)


CHAINS: dict[str, tuple[Any, list[int]]] = {  # and how many steps there are in each call
    "order one": (lambda: rp.GaussianRBF(lengthscale=0.8), [5]),
    "order two": (lambda: rp.After(rp.ConstantVelocity(), rp.GaussianRBF(lengthscale=0.8)), [4]),
    "two lags": (lambda: rp.CouplingSum([rp.Cosine(0.5), rp.AtLag(rp.GaussianRBF(0.8), 2)]), [1, 4]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_steps_of_a_chain_with_one_coupling_are_scored_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = CHAINS[name]
    windows = list(torch.randn(6, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    model = rp.RPM(rp.Deterministic(nn.Linear(2, 2)), rp.InfoNCEPrior(make())).double()
    seen: list[int] = []

    def noted(*given: Any, **options: Any) -> Tensor:
        seen.append(len(given[1]))
        return pairwise_infonce_stacked(*given, **options)

    monkeypatch.setattr("recparam.marginals.joint.pairwise_infonce_stacked", noted)
    found = []
    for size in (blocked.SMALL, 0):  # at once, and one by one
        monkeypatch.setattr(stacks.blocked, "SMALL", size)
        model.zero_grad()
        bound = model.elbo(*windows)
        bound.value.backward()
        found.append([bound.per_observation, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert sorted(seen) == sorted(2 * expected)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_categories_beside_points_of_one_width_are_summed_over() -> None:
    torch.manual_seed(0)
    models = [rp.Deterministic(nn.Linear(5, 2)), rp.Deterministic(nn.Linear(5, 2)), rp.Categorical(nn.Linear(5, 2))]
    model = rp.RPM(models, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.3))).double()
    x = list(torch.randn(3, 24, 5, dtype=torch.float64))
    z, z_prime = (models[j].net(x[j]) for j in range(2))
    chances = models[2].net(x[2]).softmax(1)

    def log_f(a: Tensor, b: Tensor) -> Tensor:
        return -0.5 * ((a[:, None] - b) / 1.3).square().sum(-1)

    first = log_f(z, z_prime)
    to_category = log_f(z_prime, torch.eye(2, dtype=torch.float64))
    by_hand = (
        first.diagonal()
        - first.logsumexp(1)
        + math.log(24)
        + (chances * to_category).sum(1)
        - (to_category + chances.mean(0).log()).logsumexp(1)
    )
    torch.testing.assert_close(model.elbo(*x).per_observation, by_hand, rtol=1e-5, atol=1e-6)
