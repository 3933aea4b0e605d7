"""The kernel against a float64 oracle written with loops, in value and gradient, and its extreme inputs."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recparam.ops import (
    BlockScore,
    DotProduct,
    GaussianDensity,
    IntegratedDistance,
    IntegratedDotProduct,
    OnColumns,
    Score,
    SquaredDistance,
    SumOfScores,
    pairwise_logmeanexp,
    pairwise_logsumexp,
    pairwise_moments,
    pairwise_topk,
)
from recparam.ops.precision import full_precision

DIM = 3
Pair = Callable[[Tensor, Tensor], Tensor]


def make(name: str, dtype: torch.dtype) -> tuple[Score, Pair]:
    """A score, and the same as a function of one row and one column."""
    weight = torch.tensor([[0.5, -1.0, 0.3], [0.2, 0.7, -0.4], [1.1, 0.1, -0.6]], dtype=dtype)
    length = torch.tensor([0.7, 1.3, 2.0], dtype=dtype)
    scale = torch.tensor(2.5, dtype=dtype)
    scores: dict[str, tuple[Score, Pair]] = {
        "dot": (DotProduct(), lambda z, b: z @ b),
        "weighted dot": (DotProduct(weight, scale), lambda z, b: scale.double() * (z @ weight.double() @ b)),
        "cosine": (DotProduct(scale=scale, normalise=True), lambda z, b: scale.double() * z @ b / z.norm() / b.norm()),
        "squared distance": (SquaredDistance(scale), lambda z, b: -0.5 * ((z - b) / scale.double()).square().sum()),
        "scaled distance": (SquaredDistance(length), lambda z, b: -0.5 * ((z - b) / length.double()).square().sum()),
        "callable": (BlockScore(lambda z, b: -torch.cdist(z, b, p=1)), lambda z, b: -(z - b).abs().sum()),
        "columns": (OnColumns(DotProduct(), [0, 2], slice(1, 3)), lambda z, b: z[0] * b[1] + z[2] * b[2]),
        "sum": (
            SumOfScores([DotProduct(), SquaredDistance(length)]),
            lambda z, b: z @ b - 0.5 * ((z - b) / length.double()).square().sum(),
        ),
        "density": (
            GaussianDensity(),
            lambda z, b: torch.distributions.Normal(b[:DIM], b[DIM:], validate_args=False).log_prob(z).sum(),
        ),
        "integrated distance": (
            IntegratedDistance(length),
            lambda z, b: (
                -0.5 * ((z - b[:DIM]).square() / (length.double().square() + b[DIM:].square())).sum()
                - 0.5 * (b[DIM:] / length.double()).square().log1p().sum()
            ),
        ),
        "integrated dot": (
            IntegratedDotProduct(weight),
            lambda z, b: z @ weight.double() @ b[:DIM] + 0.5 * (z @ weight.double() * b[DIM:]).square().sum(),
        ),
    }
    return scores[name]


NAMES = [
    "dot",
    "weighted dot",
    "cosine",
    "squared distance",
    "scaled distance",
    "callable",
    "columns",
    "sum",
    "density",
    "integrated distance",
    "integrated dot",
]


def oracle(pair: Pair, z: Tensor, bank: Tensor, log_weights: Tensor | None, keep: Tensor | None) -> Tensor:
    """One entry at a time, in float64, by the definition."""
    rows = []
    for a, row in enumerate(z):
        entries = [
            pair(row, column) + (0 if log_weights is None else log_weights[m])
            for m, column in enumerate(bank)
            if keep is None or keep[a, m]
        ]
        rows.append(torch.logsumexp(torch.stack(entries), 0))
    return torch.stack(rows)


def inputs(name: str, sizes: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    z, bank = torch.randn(sizes[0], DIM, dtype=dtype), torch.randn(sizes[1], DIM, dtype=dtype)
    if name == "density" or name.startswith("integrated"):
        bank = torch.cat([bank, bank.abs() + 0.5], -1)
    return z, bank


def gradients(value: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Gradients of an uneven sum, so that no row's error can hide behind another's."""
    return list(torch.autograd.grad(value @ torch.arange(1, len(value) + 1).to(value), tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (5, 1), (4, 7)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name: str, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    score, pair = make(name, dtype)
    z, bank = (t.requires_grad_() for t in inputs(name, sizes, dtype))
    log_weights = torch.randn(sizes[1], dtype=dtype, requires_grad=True)
    exact = [t.detach().double().requires_grad_() for t in (z, bank, log_weights)]
    value = pairwise_logsumexp(score, z, bank, log_weights=log_weights)
    truth = oracle(pair, exact[0], exact[1], exact[2], None)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(value.double(), truth, rtol=tolerance, atol=tolerance)
    assert value.dtype == dtype
    for got, expected in zip(gradients(value, z, bank, log_weights), gradients(truth, *exact), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out(name: str) -> None:
    """Columns of the row's own identity leave the sum; several may share one, or none."""
    score, pair = make(name, torch.float64)
    z, bank = (t.requires_grad_() for t in inputs(name, (3, 6), torch.float64))
    row_owner, bank_owner = torch.tensor([0, 1, 9]), torch.tensor([0, 0, 1, 2, 1, 3])
    keep = row_owner[:, None] != bank_owner[None, :]
    log_weights = torch.randn(6, dtype=torch.float64).log_softmax(0)
    value = pairwise_logsumexp(score, z, bank, log_weights=log_weights, row_owner=row_owner, bank_owner=bank_owner)
    truth = oracle(pair, z, bank, log_weights, keep)
    torch.testing.assert_close(value, truth)
    for got, expected in zip(gradients(value, z, bank), gradients(truth, z, bank), strict=True):
        torch.testing.assert_close(got, expected)
    mean = pairwise_logmeanexp(score, z, bank, log_weights=log_weights, row_owner=row_owner, bank_owner=bank_owner)
    kept = torch.stack([log_weights[keep[a]].logsumexp(0) for a in range(3)])
    torch.testing.assert_close(mean, truth - kept)


def test_mean_of_equal_scores_is_that_score() -> None:
    z, bank, weights = torch.zeros(4, 2), torch.zeros(4, 2), torch.randn(4)
    owner = torch.arange(4)
    torch.testing.assert_close(pairwise_logmeanexp(DotProduct(), z, bank, log_weights=weights), torch.zeros(4))
    left_out = pairwise_logmeanexp(DotProduct(), z, bank, log_weights=weights, row_owner=owner, bank_owner=owner)
    torch.testing.assert_close(left_out, torch.zeros(4))


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
@pytest.mark.parametrize("name", ["squared distance", "scaled distance"])
def test_distance_keeps_its_digits_far_from_the_origin(name: str, offset: float) -> None:
    """The expansion |z|^2 - 2 z.z' + |z'|^2 is wrong by whole nats here."""
    score, pair = make(name, torch.float32)
    z, bank = torch.randn(20, DIM) + offset, torch.randn(30, DIM) + offset
    truth = oracle(pair, z.double(), bank.double(), None, None) - math.log(30)
    value = pairwise_logsumexp(score, z, bank).double() - math.log(30)
    assert float(((value - truth) / truth).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_scores_stay_finite(size: float, dtype: torch.dtype) -> None:
    z = torch.full((2, 1), size, dtype=dtype, requires_grad=True)
    bank = torch.tensor([[1.0], [1.0], [-1.0], [0.5]], dtype=dtype, requires_grad=True)
    value = pairwise_logsumexp(DotProduct(), z, bank)
    expected = abs(size) + (math.log(2) if size > 0 else 0.0)
    torch.testing.assert_close(value, torch.full((2,), expected, dtype=dtype))
    grad_z, grad_bank = torch.autograd.grad(value.sum(), (z, bank))
    # at 1e4 the log-sum-exp itself is rounded to 1e-3 nats in float32, and its softmax with it
    torch.testing.assert_close(grad_z, torch.full_like(grad_z, math.copysign(1.0, size)), rtol=1e-3, atol=0.0)
    assert bool(torch.isfinite(grad_bank).all())


def test_columns_of_weight_zero_take_no_part() -> None:
    """log_weights of -inf: the column neither counts nor receives a gradient."""
    z, bank = (t.requires_grad_() for t in inputs("dot", (4, 5), torch.float64))
    log_weights = torch.tensor([0.0, -torch.inf, 0.3, -torch.inf, -1.0], dtype=torch.float64)
    kept = torch.tensor([0, 2, 4])
    value = pairwise_logmeanexp(DotProduct(), z, bank, log_weights=log_weights)
    expected = pairwise_logmeanexp(DotProduct(), z, bank[kept], log_weights=log_weights[kept])
    torch.testing.assert_close(value, expected)
    grad_z, grad_bank = gradients(value, z, bank)
    assert bool(torch.isfinite(grad_z).all())
    assert bool((grad_bank[[1, 3]] == 0).all())
    assert bool((grad_bank[kept] != 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    score, _ = make(name, torch.float64)
    z, bank = (t.requires_grad_() for t in inputs(name, (3, 4), torch.float64))
    log_weights = torch.randn(4, dtype=torch.float64, requires_grad=True)
    owner = torch.arange(4)

    def mean(z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        return pairwise_logmeanexp(score, z, bank, log_weights=log_weights, row_owner=owner[:3], bank_owner=owner)

    assert torch.autograd.gradcheck(mean, (z, bank, log_weights))


def test_gradient_of_a_score_s_own_tensors() -> None:
    """Weight, scale and lengthscale learn through the kernel."""
    weight, scale = torch.randn(DIM, DIM, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    length = torch.rand(DIM, dtype=torch.float64) + 0.5
    z, bank = inputs("dot", (3, 4), torch.float64)

    def total(weight: Tensor, scale: Tensor, length: Tensor) -> Tensor:
        return pairwise_logsumexp(SumOfScores([DotProduct(weight, scale), SquaredDistance(length)]), z, bank)

    assert torch.autograd.gradcheck(total, tuple(t.requires_grad_() for t in (weight, scale, length)))


def test_cosine_of_a_zero_vector_is_zero() -> None:
    value = pairwise_logsumexp(DotProduct(normalise=True), torch.zeros(1, DIM), torch.randn(4, DIM))
    assert float(value) == pytest.approx(math.log(4))


BAD = {
    "empty z": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(0, 2), torch.zeros(3, 2)), "z of shape"),
    "empty bank": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(3, 2), torch.zeros(0, 2)), "bank of shape"),
    "one owner": (
        lambda: pairwise_logsumexp(DotProduct(), torch.zeros(3, 2), torch.zeros(3, 2), row_owner=torch.arange(3)),
        "row_owner and bank_owner together",
    ),
    "nothing left": (
        lambda: pairwise_logsumexp(
            DotProduct(),
            torch.zeros(2, 2),
            torch.zeros(2, 2),
            row_owner=torch.tensor([0, 1]),
            bank_owner=torch.tensor([1, 1]),
        ),
        r"row 1 has none.*at least two",
    ),
    "score of a wrong shape": (
        lambda: pairwise_logsumexp(BlockScore(lambda z, b: z @ b.T[:, :1]), torch.zeros(2, 2), torch.zeros(3, 2)),
        r"score to return shape \(2, 3\); got \(2, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("newer", [False, True])
def test_full_precision_puts_settings_aside_and_back(newer: bool) -> None:
    settings, gpu = torch.backends.cuda.matmul, torch.device("cuda")
    if newer and not hasattr(settings, "fp32_precision"):
        pytest.skip("this torch has the older setting only")
    rounded = (lambda: settings.fp32_precision == "tf32") if newer else (lambda: settings.allow_tf32)
    before = settings.fp32_precision if newer else torch.get_float32_matmul_precision()
    if newer:
        settings.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), full_precision(gpu):
            assert not rounded()
            raise KeyError
        assert rounded()
        with full_precision(torch.device("cpu")):
            assert rounded()  # no business of a product on the CPU
    finally:
        if newer:
            settings.fp32_precision = before
        else:
            torch.set_float32_matmul_precision(before)


def test_autocast_does_not_round_what_is_selected() -> None:
    torch.manual_seed(0)
    z, bank = torch.randn(30, 4) * 3, torch.randn(40, 4) * 3
    expected = pairwise_topk(DotProduct(), z, bank, 3), pairwise_moments(DotProduct(), z, bank, covariance=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pairwise_topk(DotProduct(), z, bank, 3), pairwise_moments(DotProduct(), z, bank, covariance=True)
    for one, other in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(one, other)
