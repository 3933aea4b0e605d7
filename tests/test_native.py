"""The C kernel against blocks in plain torch and against the dense double-precision version."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from recparam.ops import (
    BlockScore,
    DotProduct,
    GaussianDensity,
    Score,
    SquaredDistance,
    blocked,
    compile,
    engines,
    explain,
    native,
    pairwise_infonce,
    pairwise_logsumexp,
)
from recparam.ops.logits import Logits

needs_compiler = pytest.mark.skipif(bool(native.why_unavailable()), reason=f"no C: {native.why_unavailable()}")

SCORES: dict[str, Callable[[torch.dtype], Score]] = {
    "dot": lambda t: DotProduct(),
    "distance": lambda t: SquaredDistance(torch.tensor(1.3, dtype=t)),
    "density": lambda t: GaussianDensity(),
}
SIZES = [(1, 1), (1, 9), (8, 16), (7, 13), (37, 301), (21, 1030)]


def close(found: Tensor | None, exact: Tensor | None, floor: float = 0) -> None:
    assert found is not None and exact is not None
    found, exact = found.double(), exact.double()
    assert found.isfinite().all()
    assert float((found - exact).norm()) <= 1e-5 * max(float(exact.norm()), floor, 1e-30)


def evaluate(
    function: Callable[..., Tensor], name: str, tensors: list[Tensor], upstream: Tensor | None, implementation: str,
    dtype: torch.dtype = torch.float32, **options: object,
) -> list[Tensor]:  # fmt: skip
    """The value and the gradients in z, bank and, if they are given, log_weights."""
    z, bank, *rest = inputs = [x.to(dtype, copy=True).requires_grad_() for x in tensors]
    weights = rest[0] if rest else None
    score = SCORES[name](dtype)
    value = function(score, z, bank, log_weights=weights, implementation=implementation, **options)
    (value.mean() if upstream is None else (value * upstream.to(dtype)).sum()).backward()
    return [value.detach(), *(x.grad for x in inputs if x.grad is not None)]


def problem(name: str, n: int, m: int, width: int) -> list[Tensor]:
    z, bank, weights = torch.randn(n, width), torch.randn(m, width), torch.randn(m)
    weights[1::5] = -torch.inf
    if name == "density":
        bank = torch.cat([bank, 0.5 + torch.rand(m, width)], -1)
    return [z, bank, weights]


def compare(function: Callable[..., Tensor], name: str, tensors: list[Tensor], **options: object) -> None:
    for upstream in (None, torch.randn(len(tensors[0]))):
        found = evaluate(function, name, tensors, upstream, "native", **options)
        other = evaluate(function, name, tensors, upstream, "blocked", **options)
        exact = evaluate(function, name, tensors, upstream, "dense", torch.float64, **options)
        for i, (a, b, c) in enumerate(zip(found, other, exact, strict=True)):
            # InfoNCE's gradient in log_weights is a difference of two terms that may nearly cancel.
            cancels = function is pairwise_infonce and i == 3
            floor = 1 if cancels and upstream is not None else 0.1 if cancels else 0
            close(a, c, floor)
            close(a, b, floor)


@needs_compiler
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_dense_and_blocked(name: str, width: int, n: int, m: int) -> None:
    tensors = problem(name, n, m, width)
    compare(pairwise_logsumexp, name, tensors)
    if m > 2:
        # Some rows own a column, weighted or not, and some own none.
        owners = {"row_owner": 3 * torch.arange(n) - 1, "bank_owner": torch.randperm(m)}
        compare(pairwise_logsumexp, name, tensors, **owners)
        positives = torch.randint(m, (n,)) // 5 * 5  # never a column without weight
        for keep in (True, False):
            compare(pairwise_infonce, name, tensors, positives=positives, keep_positive=keep)


@needs_compiler
@pytest.mark.parametrize("gap", [25.0, 40.0])
def test_gradients_where_positives_dominate(gap: float) -> None:
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 8)
    apart = signs[signs.prod(1) > 0] + 0.01 * torch.randn(128, 8)  # products of 8 with itself, 4 at most else
    tensors = [gap / 3.7 * apart, apart]
    with torch.no_grad():
        scores = tensors[0] @ apart.T
        assert float((scores.diagonal() - (scores - 1e3 * torch.eye(128)).amax(1)).min()) > gap
    compare(pairwise_infonce, "dot", tensors)


@needs_compiler
def test_a_column_far_above_the_probed_ones() -> None:
    z, bank, weights = problem("dot", 20, 403, 4)
    weights[:] = 0
    bank[201] = 300 * z[3]
    compare(pairwise_logsumexp, "dot", [z, bank, weights])


@needs_compiler
@pytest.mark.parametrize("need", [None, (True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("own", [None, [4, -1, 0, 2, -1, 29, 7, 4, 4, -1, 11]])
def test_leaves_out_what_is_not_asked_for(need: tuple[bool, bool, bool] | None, own: list[int] | None) -> None:
    index = None if own is None else torch.tensor(own)
    logits = Logits(torch.randn(11, 5), torch.randn(30, 5), None, index, keep_own=own is None)
    found, expected = native.sweep(logits, need), blocked.sweep(logits, need)
    close(found.out, expected.out)
    assert (found.gradients is None) == (need is None)
    if found.gradients is not None and expected.gradients is not None and need is not None:
        for asked, a, b in zip(need, found.gradients, expected.gradients, strict=True):
            assert (a is not None) == asked
            if asked:
                close(a, b)


@needs_compiler
def test_takes_any_strides_and_threads() -> None:
    columns = torch.randn(6, 100).T
    own = torch.arange(200)[::2]
    logits = Logits(torch.randn(100, 12)[:, ::2], columns, torch.randn(200)[::2], own % 100, contrast=True)
    expected = blocked.sweep(logits, (True, True, True))
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = native.sweep(logits, (True, True, True))
            close(found.out, expected.out)
            assert found.gradients is not None and expected.gradients is not None
            for a, b in zip(found.gradients, expected.gradients, strict=True):
                close(a, b)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
@pytest.mark.parametrize("change", ["double", "many", "leave_out"])
def test_what_it_does_not_take_runs_in_blocks(change: str) -> None:
    dtype, width = (torch.float64 if change == "double" else torch.float32), (40 if change == "many" else 4)
    z, bank = torch.randn(9, width, dtype=dtype), torch.randn(23, width, dtype=dtype)
    leave_out = (lambda rows: torch.arange(23).expand(9, 23)[rows] == 5) if change == "leave_out" else None
    found, expected = (
        pairwise_logsumexp(DotProduct(), z, bank, leave_out=leave_out, implementation=name)
        for name in ("native", "blocked")
    )
    assert torch.equal(found, expected)


CPU = torch.device("cpu")


def logits(n: int = 2048, m: int = 2048, width: int = 4, **change: Any) -> Logits:
    return Logits(torch.zeros(n, width), torch.zeros(m, width), **change)


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that sweep, in order."""
    names: list[str] = []
    for name, module in (("native", native), ("blocked", blocked)):
        engine = getattr(engines, name.upper())

        def sweep(*arguments: Any, name: str = name, sweep: Any = module.sweep) -> Any:
            names.append(name)
            return sweep(*arguments)

        monkeypatch.setattr(engines, name.upper(), replace(engine, sweep=sweep))
    return names


@needs_compiler
@pytest.mark.parametrize("name", SCORES)
def test_auto_takes_it_where_pairs_are_many_and_is_exact(name: str, swept: list[str]) -> None:
    tensors = problem(name, 2048, 600, 4)
    tensors[1][:, 4:] += 2  # scales of a density, so large that single precision will do
    tensors[2][::7] = 0.0
    positives = torch.arange(2048) % 80 * 7
    for function, options in ((pairwise_infonce, {"positives": positives}), (pairwise_logsumexp, {})):
        found = evaluate(function, name, tensors, None, "auto", **options)
        again = evaluate(function, name, tensors, None, "auto", **options)
        exact = evaluate(function, name, tensors, None, "dense", torch.float64, **options)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        for i, (a, b) in enumerate(zip(found, exact, strict=True)):
            close(a, b, 0.1 if function is pairwise_infonce and i == 3 else 0)
    assert swept == ["native"] * 4


@needs_compiler
def test_explain_says_which_and_why() -> None:
    z, square = torch.zeros(2048, 4), SquaredDistance(torch.tensor(1.0))
    assert explain(square, z, z) == "native: 4 features"
    assert explain(square, z.double(), z.double()).startswith("blocked: the C kernel is for single precision")
    assert "BlockScore itself" in explain(BlockScore(lambda z, b: z @ b.T), z, z)


@pytest.mark.parametrize(
    "given",
    [
        logits(1000, 1000),
        logits(8, 1 << 20),
        logits(width=17),
        logits(excluded=lambda rows: torch.zeros(rows.stop - rows.start, 2048, dtype=torch.bool)),
        replace(logits(), rows=torch.zeros(2048, 4, dtype=torch.float64)),
        replace(logits(), rows=torch.zeros(2048, 4, device="meta")),
    ],
)
def test_auto_never_compiles_for_what_it_would_not_take(given: Logits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_build", lambda: pytest.fail("compiled"))
    assert engines.choose("auto", CPU, given) is engines.BLOCKED


def test_auto_leaves_operations_that_others_need_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a dispatch mode, as that which counts operations, the tensors are not handed to C."""
    monkeypatch.setattr(native, "_build", lambda: pytest.fail("compiled"))
    with FlopCounterMode(display=False):
        assert engines.choose("auto", CPU, logits()) is engines.BLOCKED


@pytest.mark.parametrize("compiler", ["/nonexistent/cc", "false", "'"])
def test_without_a_compiler_auto_is_blocked_and_the_name_an_error(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, swept: list[str]
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._build.cache_clear()
    tried: list[Any] = []
    monkeypatch.setattr(compile, "_compiled", lambda *given, run=compile._compiled: tried.append(given) or run(*given))
    try:
        z = torch.randn(1024, 4)
        for _ in range(2):
            pairwise_infonce(DotProduct(), z, z)
        assert swept == ["blocked"] * 2
        assert len(tried) <= 2  # two sets of options, once
        with pytest.raises(ValueError, match="working C compiler.*implementation='auto'"):
            engines.choose("native", CPU)
    finally:
        native._build.cache_clear()
