"""The kernel against the dense double-precision version: every score, precision, size, offset and magnitude."""

import ast
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recparam.ops import (
    AbsoluteDistance,
    BlockScore,
    DotProduct,
    Exchanged,
    GaussianDensity,
    OnColumns,
    Score,
    SquaredDistance,
    SumOfScores,
    blocked,
    pairwise_infonce,
    pairwise_logmeanexp,
    pairwise_logsumexp,
    pairwise_sample,
    pairwise_topk,
)

SOURCE = Path(__file__).parents[1] / "src" / "recparam"

SCORES: dict[str, Callable[[int, torch.dtype], Score]] = {
    "dot": lambda d, t: DotProduct(),
    "bilinear": lambda d, t: DotProduct(weight=torch.eye(d, dtype=t) + 0.1),
    "cosine": lambda d, t: DotProduct(scale=torch.tensor(10.0, dtype=t), normalise=True),
    "exchanged": lambda d, t: Exchanged(SquaredDistance(torch.linspace(0.5, 2, d, dtype=t))),
    "distance": lambda d, t: SquaredDistance(torch.tensor(1.3, dtype=t)),
    "scaled distance": lambda d, t: SquaredDistance(torch.linspace(0.5, 2, d, dtype=t)),
    "absolute": lambda d, t: AbsoluteDistance(torch.tensor(1.3, dtype=t)),
    "sum": lambda d, t: SumOfScores([OnColumns(DotProduct(), [0], [0]), SquaredDistance(torch.tensor(1.3, dtype=t))]),
    "sum with a callable": lambda d, t: SumOfScores(
        [DotProduct(), BlockScore(lambda z, b: -(z[:, :1] - b[:, 0]).abs())]
    ),
    "callable": lambda d, t: BlockScore(lambda z, b: -((z[:, None] - b).square().sum(-1) + 1).sqrt()),
}
SIZES = [(1, 2, 3), (7, 13, 5), (61, 70, 20), (40, 300, 130)]
Call = Callable[[Score, Tensor, Tensor, str], Tensor]


def own(score: Score, z: Tensor, bank: Tensor, implementation: Any) -> Tensor:
    rows, columns = torch.arange(len(z)), torch.arange(len(bank))
    return pairwise_logmeanexp(score, z, bank, row_owner=rows, bank_owner=columns, implementation=implementation)


def several(score: Score, z: Tensor, bank: Tensor, implementation: Any) -> Tensor:
    columns = torch.arange(len(bank)).clamp_max(len(bank) - 2)  # the last two share an identity
    rows = torch.arange(len(z)) + (1 if len(bank) == 2 else 0)
    return pairwise_logmeanexp(score, z, bank, row_owner=rows, bank_owner=columns, implementation=implementation)


def weighted(score: Score, z: Tensor, bank: Tensor, implementation: Any) -> Tensor:
    weights = torch.linspace(-2, 1, len(bank), dtype=z.dtype)
    weights[-1] = -torch.inf
    return pairwise_logsumexp(score, z, bank, log_weights=weights, implementation=implementation)


def contrast(keep: bool) -> Call:
    def call(score: Score, z: Tensor, bank: Tensor, implementation: Any) -> Tensor:
        weights = torch.linspace(-2, 1, len(bank), dtype=z.dtype)
        positives = torch.arange(len(z)).flip(0)
        return pairwise_infonce(
            score, z, bank, positives=positives, keep_positive=keep, log_weights=weights, implementation=implementation
        )

    return call


CALLS: dict[str, Call] = {
    "plain": lambda score, z, bank, implementation: pairwise_logsumexp(score, z, bank, implementation=implementation),  # pyright: ignore[reportArgumentType]
    "own left out": own,
    "several left out": several,
    "weighted": weighted,
    "contrast": contrast(True),
    "contrast, left out": contrast(False),
}


def inputs(n: int, m: int, d: int, *, near: float = 0.2) -> tuple[Tensor, Tensor]:
    """Double-precision numbers that single precision holds exactly; positives in reverse order are close."""
    generator = torch.Generator().manual_seed(n + m + d)
    z, bank = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)
    bank[:n] = z.flip(0) + near * bank[:n]
    scale = min(1.0, (20 / d) ** 0.5)  # with longer vectors every gradient would be below the smallest number
    return (scale * z).double(), (scale * bank).double()


def run(
    call: Call, score: Score, z: Tensor, bank: Tensor, dtype: torch.dtype, implementation: str, *, even: bool = True
) -> list[Tensor]:
    z, bank = z.to(dtype).clone().requires_grad_(), bank.to(dtype).clone().requires_grad_()
    value = call(score, z, bank, implementation)
    upstream = torch.full_like(value, 1 / len(value)) if even else torch.linspace(1, 2, len(value)).to(value)
    return [value.detach(), *torch.autograd.grad(value @ upstream, (z, bank))]


def errors(got: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Largest error of the value (beyond 1 nat relative) and of each gradient (relative to its largest entry)."""
    scales = [truth[0].abs().clamp_min(1)] + [part.abs().max().clamp_min(1e-30) for part in truth[1:]]
    return [float(((a.double() - b) / s).abs().max()) for a, b, s in zip(got, truth, scales, strict=True)]


def single(score: Score, z: Tensor, bank: Tensor) -> float:
    """The error that rounding the scores alone allows in single precision: 1e-5 up to 25 nats."""
    return max(1e-5, 4e-7 * float(score(z.double(), bank.double()).abs().max()))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", SCORES)
def test_against_dense_double(name: str, call: str) -> None:
    for (n, m, d), offset, even in itertools.product(SIZES, [0.0, 1e3], [True, False]):
        if offset and name in ("cosine", "sum with a callable"):
            continue  # cosines of vectors this far away differ in the seventh digit; a user's callable is the user's
        z, bank = inputs(n, m, d)
        z, bank = (z + offset).float().double(), (bank + offset).float().double()
        truth = run(CALLS[call], SCORES[name](d, torch.float64), z, bank, torch.float64, "dense", even=even)
        limits = {torch.float32: single(SCORES[name](d, torch.float64), z, bank), torch.float64: 1e-10}
        if offset and name in ("dot", "bilinear"):  # scores of 1e6 and more, for which the bank is centred
            limits = {torch.float32: 1e-3, torch.float64: 1e-8}
        for dtype, limit in limits.items():
            got = run(CALLS[call], SCORES[name](d, dtype), z, bank, dtype, "auto", even=even)
            found = errors(got, truth)
            assert max(found) < limit, f"{(n, m, d, offset, even, dtype)}: {found}, limit {limit}"


@pytest.mark.parametrize("name", SCORES)
def test_many_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with blocks of a few rows, the last one uneven."""
    for module in ("blocked", "logsumexp", "score_matrix", "select"):
        for size in ("_BLOCK", "_WIDE_BLOCK", "BLOCK", "SMALL"):
            monkeypatch.setattr(f"recparam.ops.{module}.{size}", 100, raising=False)
    monkeypatch.setattr(blocked, "_LEAST_ROWS", 3)
    z, bank = inputs(61, 70, 20)
    for call, even in itertools.product(CALLS, [True, False]):
        truth = run(CALLS[call], SCORES[name](20, torch.float64), z, bank, torch.float64, "dense", even=even)
        got = run(CALLS[call], SCORES[name](20, torch.float64), z, bank, torch.float64, "auto", even=even)
        assert max(errors(got, truth)) < 1e-12, (call, even)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["dot", "distance", "absolute"])
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    z, bank = (t.to(dtype).double() for t in inputs(20, 30, 5))
    truth = run(CALLS["contrast"], SCORES[name](5, torch.float64), z, bank, torch.float64, "dense")
    got = run(CALLS["contrast"], SCORES[name](5, torch.float32), z, bank, dtype, "auto")
    assert got[0].dtype == got[1].dtype == dtype
    assert max(errors(got, truth)) < 2 * torch.finfo(dtype).eps  # the results are rounded, nothing before


@pytest.mark.parametrize("size", [1e4, 1e6, 1e10])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_scores(size: float, sign: int) -> None:
    """Finite, within what single precision holds of such a score, and never above the ceiling."""
    z, bank = inputs(40, 50, 6)
    z, bank = (z * size).float().double(), (sign * bank).float().double()
    truth = run(CALLS["plain"], DotProduct(), z, bank, torch.float64, "dense")
    got = run(CALLS["plain"], DotProduct(), z, bank, torch.float32, "auto")
    assert max(errors(got, truth)) < 1e-3
    value = pairwise_infonce(DotProduct(), z.float(), bank.float())
    assert bool(torch.isfinite(value).all())
    assert float(value.max()) <= math.log(50) + 1e-6


@pytest.mark.parametrize("name", ["distance", "scaled distance"])
@pytest.mark.parametrize("spread", [1.0, 1e2, 1e3, 1e5])
def test_two_far_clusters(name: str, spread: float) -> None:
    """Expanding the square loses (range / lengthscale)^2 digits; the kernel notices and goes to double."""
    z, bank = inputs(40, 60, 4)
    z[::2, 0] += spread
    bank[:40].flip(0)[::2, 0] += spread
    bank[50:, 0] += spread
    z, bank = z.float().double(), bank.float().double()
    for call in ("plain", "contrast"):
        truth = run(CALLS[call], SCORES[name](4, torch.float64), z, bank, torch.float64, "dense")
        got = run(CALLS[call], SCORES[name](4, torch.float32), z, bank, torch.float32, "auto")
        assert max(errors(got, truth)) < 1e-5, call


@pytest.mark.parametrize("lead", [60.0, 76.0, 80.0, 90.0, 200.0])
def test_a_column_far_above_the_probed_ones(lead: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exponential may be representable and its product with the features not."""
    monkeypatch.setattr(blocked, "SMALL", 0)
    z, bank = inputs(30, 200, 4)
    bank[101] = lead * z[3] / float(z[3].square().sum())
    z, bank = (z / 100).float().double(), (100 * bank).float().double()  # the same scores, large columns
    call = CALLS["own left out"]
    truth = run(call, DotProduct(), z, bank, torch.float64, "dense")
    assert float(truth[0].max()) > 0.8 * lead
    assert max(errors(run(call, DotProduct(), z, bank, torch.float32, "auto"), truth)) < 4e-7 * 2 * lead + 1e-5


def test_mixture_of_gaussians_of_many_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(30, 3, generator=generator)
    mean, scale = torch.randn(50, 3, generator=generator), 10 ** (torch.rand(50, 3, generator=generator) * 4 - 3)
    bank = torch.cat([mean, scale], 1)
    call = CALLS["plain"]
    truth = run(call, GaussianDensity(), z.double(), bank.double(), torch.float64, "dense")
    assert max(errors(run(call, GaussianDensity(), z, bank, torch.float32, "auto"), truth)) < 1e-5


@pytest.mark.parametrize("lead", [25.0, 40.0, 80.0])
@pytest.mark.parametrize("width", [8, 128, 512])
@pytest.mark.parametrize("keep", [True, False])
def test_gradients_where_the_positive_dominates(keep: bool, width: int, lead: float) -> None:
    """A difference 1 - P would be zero in single precision here, and with it the gradient."""
    generator = torch.Generator().manual_seed(width)
    z = torch.nn.functional.normalize(torch.randn(96, width, generator=generator), dim=1) * lead**0.5
    bank = z + 0.01 * torch.randn(96, width, generator=generator)
    if width == 8:
        z, bank = z * 3, bank * 3
    call: Call = lambda score, z, bank, how: pairwise_infonce(score, z, bank, keep_positive=keep, implementation=how)  # noqa: E731  # pyright: ignore[reportArgumentType]
    for score in (DotProduct(), SquaredDistance(torch.tensor(0.7))):
        truth = run(call, score, z.double(), bank.double(), torch.float64, "dense")
        found = errors(run(call, score, z, bank, torch.float32, "auto"), truth)
        # a gradient of exp(-80) is compared with its own size
        assert max(found) < single(score, z, bank), (score, found)
    logits = (z @ bank.T).requires_grad_()
    naive = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.arange(96)), logits)[0].diagonal()
    if keep and lead == 40.0 and width == 512:
        assert float(naive.abs().max()) == 0.0  # so that the test above is known to test something


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.untyped_storage().size():
                self.entries = max(self.entries, part.numel())
        return result


@pytest.mark.parametrize("even", [True, False], ids=["mean", "weighted"])
@pytest.mark.parametrize("call", ["own left out", "several left out", "contrast"])
@pytest.mark.parametrize("name", ["dot", "scaled distance", "absolute", "sum with a callable"])
def test_no_matrix_of_all_pairs_is_ever_made(name: str, call: str, even: bool) -> None:
    n, d = 2500, 3
    z, bank = inputs(n, n, d)
    with Largest() as largest:
        run(CALLS[call], SCORES[name](d, torch.float32), z, bank, torch.float32, "auto", even=even)
    assert largest.entries <= n * n / 4
    small = inputs(300, 300, d)
    with Largest() as largest:
        run(CALLS[call], SCORES[name](d, torch.float32), *small, torch.float32, "dense")
    assert largest.entries >= 300 * 300  # the mode sees what it should


def test_two_backward_passes_agree() -> None:
    z, bank = (t.requires_grad_() for t in inputs(9, 9, 3))
    value = pairwise_infonce(DotProduct(), z, bank).mean()
    first = torch.autograd.grad(value, (z, bank), retain_graph=True)
    second = torch.autograd.grad(value, (z, bank))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_derivative_is_an_error_that_names_the_cure() -> None:
    z, bank = (t.requires_grad_() for t in inputs(5, 5, 2))
    with pytest.raises(NotImplementedError, match="implementation='dense'"):
        torch.autograd.grad(pairwise_infonce(DotProduct(), z, bank).sum(), z, create_graph=True)

    def dense(z: Tensor, bank: Tensor) -> Tensor:
        return pairwise_infonce(DotProduct(), z, bank, implementation="dense")

    assert torch.autograd.gradgradcheck(dense, (z, bank))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", SCORES)
def test_gradcheck(name: str, keep: bool) -> None:
    z, bank = (t.requires_grad_() for t in inputs(4, 6, 3))
    weights = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()

    def call(z: Tensor, bank: Tensor, weights: Tensor) -> Tensor:
        return pairwise_infonce(
            SCORES[name](3, torch.float64), z, bank, keep_positive=keep, log_weights=weights
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, (z, bank, weights))


def test_both_directions_are_the_two_cross_entropies() -> None:
    z, bank = inputs(12, 12, 4)
    scores, truth = z @ bank.T, torch.arange(12)
    for value, logits in (
        (pairwise_infonce(DotProduct(), z, bank), scores),
        (pairwise_infonce(DotProduct(), bank, z), scores.T),
    ):
        expected = -torch.nn.functional.cross_entropy(logits, truth, reduction="none") + math.log(12)
        torch.testing.assert_close(value, expected)


def test_a_user_s_parameters_learn_through_a_callable() -> None:
    """Also those that only the callable knows of, and over many blocks."""
    net = torch.nn.Linear(3, 3).double()
    z, bank = inputs(1500, 1500, 3)
    grads = []
    for how in ("auto", "dense"):
        score = BlockScore(lambda a, b: net(a) @ b.T)
        grads.append(torch.autograd.grad(pairwise_infonce(score, z, bank, implementation=how).mean(), net.weight)[0])  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(*grads)
    assert bool((grads[0] != 0).any())


# Top-k and sampled columns


@pytest.mark.parametrize("name", ["dot", "distance", "absolute"])
def test_topk_is_that_of_the_whole_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recparam.ops.score_matrix.BLOCK", 100)
    z, bank = inputs(20, 30, 4)
    score, weights = SCORES[name](4, torch.float64), torch.linspace(-1, 1, 30).double()
    logits = score(z, bank) + weights
    logits[torch.arange(20), torch.arange(20)] = -torch.inf
    expected = logits.log_softmax(1).topk(5, 1)
    owners = {"row_owner": torch.arange(20), "bank_owner": torch.arange(30)}
    found = pairwise_topk(score, z, bank, 5, log_weights=weights, **owners)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.log_probs, expected.values)


def test_samples_follow_the_probabilities() -> None:
    z, bank = inputs(3, 6, 2)
    weights = torch.tensor([0.0, -torch.inf, 0.5, 0.0, 0.0, 1.0]).double()
    generator = torch.Generator().manual_seed(0)
    drawn = pairwise_sample(DotProduct(), z, bank, 20000, log_weights=weights, generator=generator)
    probabilities = ((z @ bank.T) + weights).softmax(1)
    counts = torch.stack([torch.bincount(row, minlength=6) for row in drawn.indices]) / 20000
    assert float((counts - probabilities).abs().max()) < 4 * 0.5 / 20000**0.5
    assert bool((counts[:, 1] == 0).all())
    torch.testing.assert_close(drawn.log_probs.exp(), probabilities.gather(1, drawn.indices))


def test_autocast_changes_nothing() -> None:
    z, bank = (t.float() for t in inputs(40, 300, 8))
    for score in (DotProduct(), SquaredDistance(torch.tensor(0.5)), DotProduct(weight=torch.eye(8))):
        plain = pairwise_infonce(score, z, bank)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pairwise_infonce(score, z, bank), plain)


def test_a_positive_s_own_mask_is_ignored() -> None:
    z, bank = inputs(3, 3, 2)
    everything = torch.ones(3, 3).bool()
    value = pairwise_infonce(DotProduct(), z, bank, leave_out=lambda rows: everything[rows])
    torch.testing.assert_close(value, torch.zeros_like(value))
    with pytest.raises(ValueError, match="row 0 has none"):
        pairwise_infonce(DotProduct(), z, bank, keep_positive=False, leave_out=lambda rows: ~torch.eye(3).bool()[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_topk_far_from_the_origin(dtype: torch.dtype) -> None:
    z, bank = inputs(20, 30, 4)
    z, bank = (z + 1e3).to(dtype), (bank + 1e3).to(dtype)
    expected = (z.double() @ bank.double().T).log_softmax(1).topk(3, 1)
    found = pairwise_topk(DotProduct(), z, bank, 3)
    tolerance = 2e-3 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.log_probs.double(), expected.values, rtol=tolerance, atol=tolerance)


def test_gradients_of_a_spread_far_below_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[10.0], [-10.0]]).repeat(60, 1)
    z = centres + 1e-3 * torch.randn(120, 1, generator=generator)
    bank = centres + 1e-3 * torch.randn(120, 1, generator=generator)
    call, score = CALLS["contrast"], SquaredDistance(torch.tensor(1.0))
    truth = run(call, score, z.double(), bank.double(), torch.float64, "dense")
    assert max(errors(run(call, score, z, bank, torch.float32, "auto"), truth)) < 1e-5


# Bad input, and the promise that this is the only such place

NAN = torch.tensor([[0.0, torch.nan]])
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "widths": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(2, 3), torch.zeros(4, 2)), "width"),
    "distance widths": (
        lambda: pairwise_logsumexp(SquaredDistance(torch.tensor(1.0)), torch.zeros(2, 3), torch.zeros(4, 2)),
        "width",
    ),
    "nan in z": (lambda: pairwise_logsumexp(DotProduct(), NAN, torch.zeros(4, 2)), "finite values in z"),
    "nan in the bank": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(4, 2), NAN), "finite values in bank"),
    "dtypes": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2).double()), "one floating"),
    "device": (lambda: pairwise_logsumexp(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2, device="meta")), "device"),
    "all masked": (
        lambda: pairwise_logsumexp(
            DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), log_weights=torch.full((4,), -torch.inf)
        ),
        "at least one finite entry in log_weights",
    ),
    "all masked for a row": (
        lambda: pairwise_logsumexp(
            DotProduct(),
            torch.zeros(2, 2),
            torch.zeros(4, 2),
            leave_out=lambda rows: torch.eye(2)[:, [0, 0, 0, 0]].bool(),
        ),
        "row 0 has none",
    ),
    "a mask of another shape": (
        lambda: pairwise_logsumexp(
            DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), leave_out=lambda rows: torch.zeros(2, 3).bool()
        ),
        "boolean mask",
    ),
    "weights": (
        lambda: pairwise_logsumexp(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), log_weights=torch.zeros(3)),
        "log_weights",
    ),
    "positives": (
        lambda: pairwise_infonce(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), positives=torch.tensor([0, 4])),
        "positives from 0 to 3",
    ),
    "too few columns": (lambda: pairwise_infonce(DotProduct(), torch.zeros(3, 2), torch.zeros(2, 2)), "positives="),
    "implementation": (
        lambda: pairwise_logsumexp(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), implementation="fast"),  # pyright: ignore[reportArgumentType]
        "implementation",
    ),
    "no score": (lambda: pairwise_logsumexp(3, torch.zeros(2, 2), torch.zeros(4, 2)), "score"),  # pyright: ignore[reportArgumentType]
    "k": (lambda: pairwise_topk(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), 5), "k of at most 4"),
    "draws": (lambda: pairwise_sample(DotProduct(), torch.zeros(2, 2), torch.zeros(4, 2), 0), "num_samples >= 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(Exception, match=words):
        call()


ALLOWED = {
    ("checks.py", "check_coupling"): "the dense reference of a conformance check",
    ("objectives.py", "_log_marginal_of_rows"): "over particles of one row",
    ("densities.py", "log_prob"): "the normaliser of a table",
    ("posteriors.py", "_table"): "the normaliser of a table, one per row",
    ("head.py", "elbo"): "a row's own component beside the bank's mixture, two terms",
    ("head.py", "rows"): "the same, inside it",
    ("mixtures.py", "forward"): "the weights of a mixture, of one row",
    ("mixtures.py", "_log_f"): "over the components of a mixture, for one pair",
    ("dynamics.py", "_log_f"): "over the regimes of a mixture, for one pair",
    ("dynamics.py", "_log_weights"): "the weights of a mixture",
    ("encoders.py", "forward"): "the weights of the rows of a window",
    ("predicted.py", "squares"): "distances, of which the nearest are taken",
    ("prediction.py", "grid_probabilities"): "over a grid that the caller asks for whole",
    ("trajectories.py", "_of_density"): "a density on a base as on a grid, all pairs",
}


def test_no_other_log_sum_exp_over_pairs_exists() -> None:
    """Whoever needs one goes through the kernel, or stands in the list above with a reason."""
    found: set[tuple[str, str]] = set()
    for path in SOURCE.rglob("*.py"):
        if "ops" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
                if name in ("logsumexp", "logaddexp", "log_softmax", "softmax", "cross_entropy", "cdist"):
                    found.add((path.name, function.name))
    assert found == set(ALLOWED)
